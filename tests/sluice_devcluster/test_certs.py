"""The certificates say who one is, and authorities do not stand in for each other."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from sluice_devcluster.certs import LIFETIME, write_pki
from sluice_devcluster.controlplane import API_SERVER, COMPONENTS, Probe

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return write_pki(tmp_path_factory.mktemp("pki"), service_ip="10.96.0.1", now=NOW)


def load(pki, name):
    return x509.load_pem_x509_certificate(pki.certificate(name).read_bytes())


@pytest.mark.parametrize(
    ("name", "user", "group"),
    [
        ("admin", "admin", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", None),
        ("front-proxy", "front-proxy-client", None),
    ],
)
def test_identities(pki, name, user, group):
    subject = load(pki, name).subject

    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == user
    assert [each.value for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == (
        [group] if group else []
    )


@pytest.mark.parametrize(
    ("leaf", "authority"),
    [("admin", "ca"), ("apiserver", "ca"), ("front-proxy", "front-proxy-ca"), ("etcd", "etcd-ca")],
)
def test_each_leaf_is_signed_by_its_own_authority_alone(pki, leaf, authority):
    certificate = load(pki, leaf)

    certificate.verify_directly_issued_by(load(pki, authority))
    for other in {"ca", "front-proxy-ca", "etcd-ca"} - {authority}:
        with pytest.raises(ValueError, match="subject does not match"):
            certificate.verify_directly_issued_by(load(pki, other))


def test_lifetime_starts_a_little_early_for_clocks_that_differ(pki):
    certificate = load(pki, "admin")

    assert certificate.not_valid_before_utc <= NOW - timedelta(minutes=1)
    assert certificate.not_valid_after_utc == (NOW + LIFETIME).replace(microsecond=0)


def test_private_keys_are_the_owners_alone(pki):
    keys = list(pki.folder.glob("*.key"))

    assert len(keys) == 11
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert pki.folder.stat().st_mode & 0o077 == 0 or pki.folder.parent.stat().st_mode & 0o077 == 0


class Handler(BaseHTTPRequestHandler):
    """Says whether it is ready as the API server does."""

    def do_GET(self):
        body, status = {"/readyz": (b"ok", 200)}.get(self.path, (b"[+]ping ok\n[-]etcd failed: reason withheld\n", 500))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(pki):
    """A TLS server with the API server's certificate that insists on a client of the cluster's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.certificate("apiserver"), pki.key("apiserver"))
    context.load_verify_locations(pki.certificate("ca"))
    context.verify_mode = ssl.CERT_REQUIRED
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_probe_and_the_certificates_fit(pki, server):
    spec = next(spec for spec in COMPONENTS if spec.name == API_SERVER)

    assert Probe(pki).get(spec, server) == (True, "ok")
    assert Probe(pki).get(spec, server, "/livez") == (False, "answers 500: etcd")


def test_the_probe_does_not_believe_a_server_of_another_authority(pki, server, tmp_path):
    other = write_pki(tmp_path / "pki", service_ip="10.96.0.1", now=NOW)
    spec = next(spec for spec in COMPONENTS if spec.name == API_SERVER)

    healthy, detail = Probe(other).get(spec, server)

    assert not healthy
    assert "certificate verify failed" in detail
