"""The certificates of a throwaway control plane.

Three authorities, as upstream recommends: one for the cluster, one for the front proxy (a certificate of the first must
not pass for an authenticated header) and one for etcd (an identity of the cluster must not open the database). Keys are
P-256, which costs milliseconds; the service-account key is RSA, which every token verifier understands.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice_devcluster.files import write_atomic

LIFETIME = timedelta(days=365)
_CLOCK_SKEW = timedelta(minutes=5)
SERVICE_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
"""DNS names that the API server answers to."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A self-signed certificate authority that lives as long as the object; its key can be written beside it."""

    def __init__(self, common_name: str, *, now: datetime) -> None:
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = _key_usage(certificate_sign=True)
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """The authority's private key, PEM."""
        return _private_pem(self._key)

    def issue(
        self,
        common_name: str,
        *,
        organization: str | None = None,
        names: Sequence[str] = (),
        client: bool = True,
        server: bool = False,
    ) -> Leaf:
        """A leaf for ``common_name``: Kubernetes reads it as the user and ``organization`` as the group.

        ``names`` are the server's DNS names and IP addresses.
        """
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization is not None:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        if server:
            purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(x509.Name(attributes), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificate_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Leaf(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_private_pem(key))

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )


@dataclass(frozen=True, kw_only=True)
class Pki:
    """Where the certificates of one cluster are: ``<folder>/<name>.crt`` and ``<folder>/<name>.key``."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """Path of a certificate."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Path of a private key."""
        return self.folder / f"{name}.key"


def write_pki(
    folder: Path,
    *,
    service_ip: str,
    now: datetime,
    addresses: Sequence[str] = (),
    further: Callable[[Authority], Mapping[str, Leaf]] = lambda _: {},
) -> Pki:
    """Create every authority and identity of a control plane, with keys readable by the owner alone.

    Args:
        folder: where the files go; created when missing.
        service_ip: first address of the service network, by which pods reach the API server.
        now: start of the certificates' lifetime (:data:`LIFETIME`).
        addresses: by which the API server is reached, besides loopback.
        further: issues more identities by the cluster's authority, by the names of their files.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = Authority("kubernetes-ca", now=now)
    front = Authority("front-proxy-ca", now=now)
    etcd = Authority("etcd-ca", now=now)
    masters = "system:masters"
    leaves = {
        "apiserver": cluster.issue(
            "kube-apiserver", names=("127.0.0.1", service_ip, *addresses, *SERVICE_NAMES), client=False, server=True
        ),
        "apiserver-kubelet": cluster.issue("apiserver-kubelet", organization=masters),
        "admin": cluster.issue("admin", organization=masters),
        "controller-manager": cluster.issue("system:kube-controller-manager"),
        "front-proxy": front.issue("front-proxy-client"),
        "etcd": etcd.issue("etcd", names=("127.0.0.1", "localhost"), server=True),
        "etcd-client": etcd.issue("kube-apiserver"),
        **further(cluster),
    }
    for name, authority in (("ca", cluster), ("front-proxy-ca", front), ("etcd-ca", etcd)):
        leaves[name] = Leaf(certificate=authority.certificate, key=authority.key)
    for name, leaf in leaves.items():
        write_atomic(folder / f"{name}.crt", leaf.certificate, mode=0o644)
        write_atomic(folder / f"{name}.key", leaf.key)
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomic(folder / "service-accounts.key", _private_pem(accounts))
    write_atomic(folder / "service-accounts.pub", public, mode=0o644)
    return Pki(folder=folder)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_usage(*, certificate_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificate_sign,
        crl_sign=certificate_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
