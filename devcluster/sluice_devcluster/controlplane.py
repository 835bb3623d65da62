"""The components of an embedded control plane: their flags, and how each says that it is ready. No IO but the probe."""

import http.client
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster.certs import Pki

SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
"""First address of :data:`SERVICE_NETWORK`, which the API server takes for its own Service."""
POD_NETWORK = "10.244.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"

LOOPBACK = "127.0.0.1"
ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one cluster's files are, all under its own folder."""

    folder: Path
    binaries: Path
    address: str = LOOPBACK
    """By which clients, and pods where there are any, reach the API server."""
    bind_address: str = LOOPBACK
    """What the API server listens on."""
    pod_network: str = POD_NETWORK

    @property
    def pki(self) -> Pki:
        """Certificates and keys."""
        return Pki(folder=self.folder / "pki")

    @property
    def data(self) -> Path:
        """etcd's data."""
        return self.folder / "etcd"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def controller_manager_kubeconfig(self) -> Path:
        """The controller manager's own kubeconfig."""
        return self.folder / "controller-manager.kubeconfig"

    @property
    def logs(self) -> Path:
        """The components' logs."""
        return self.folder / "logs"

    def log(self, component: str) -> Path:
        """A component's log."""
        return self.logs / f"{component}.log"


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """How one component is started and asked.

    ``ports`` names the ports that it needs; the first is the one that is probed. ``arguments`` takes the ports of all
    components started so far, by name.
    """

    name: str
    ports: tuple[str, ...]
    arguments: Callable[[Layout, Mapping[str, int]], list[str]]
    probe_path: str
    authority: str
    client: str | None
    timeout_s: float


def _etcd(layout: Layout, ports: Mapping[str, int]) -> list[str]:
    client, peer = (f"https://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
    pki = layout.pki
    flags = [
        "--name=main",
        f"--data-dir={layout.data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=main={peer}",
        # The cluster is thrown away with its data; a power cut may cost it, a crash of the process does not.
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    ]
    # The database holds every Secret and knows no RBAC: without certificates, any local user could read it.
    for prefix in ("", "peer-"):
        flags += [
            f"--{prefix}client-cert-auth",
            f"--{prefix}trusted-ca-file={pki.certificate('etcd-ca')}",
            f"--{prefix}cert-file={pki.certificate('etcd')}",
            f"--{prefix}key-file={pki.key('etcd')}",
        ]
    return flags


def _api_server(layout: Layout, ports: Mapping[str, int]) -> list[str]:
    pki = layout.pki
    return [
        f"--etcd-servers=https://127.0.0.1:{ports['etcd']}",
        f"--etcd-cafile={pki.certificate('etcd-ca')}",
        f"--etcd-certfile={pki.certificate('etcd-client')}",
        f"--etcd-keyfile={pki.key('etcd-client')}",
        f"--bind-address={layout.bind_address}",
        f"--secure-port={ports['kube-apiserver']}",
        f"--advertise-address={layout.address}",
        # Endpoints must not be loopback addresses, so the reconciler could only fail, again and again.
        f"--endpoint-reconciler-type={'none' if layout.address == LOOPBACK else 'lease'}",
        f"--client-ca-file={pki.certificate('ca')}",
        f"--tls-cert-file={pki.certificate('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        f"--kubelet-client-certificate={pki.certificate('apiserver-kubelet')}",
        f"--kubelet-client-key={pki.key('apiserver-kubelet')}",
        f"--kubelet-certificate-authority={pki.certificate('ca')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki.folder / 'service-accounts.pub'}",
        f"--service-account-signing-key-file={pki.key('service-accounts')}",
        f"--service-account-issuer={ISSUER}",
        f"--requestheader-client-ca-file={pki.certificate('front-proxy-ca')}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki.certificate('front-proxy')}",
        f"--proxy-client-key-file={pki.key('front-proxy')}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]


def _controller_manager(layout: Layout, ports: Mapping[str, int]) -> list[str]:
    pki, kubeconfig = layout.pki, layout.controller_manager_kubeconfig
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['kube-controller-manager']}",
        # The API server's own certificate serves: the port is loopback's, and a probe can then check the peer.
        f"--tls-cert-file={pki.certificate('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        f"--root-ca-file={pki.certificate('ca')}",
        f"--service-account-private-key-file={pki.key('service-accounts')}",
        f"--cluster-signing-cert-file={pki.certificate('ca')}",
        f"--cluster-signing-key-file={pki.key('ca')}",
        "--use-service-account-credentials=true",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={layout.pod_network}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--leader-elect=false",
        # One client on an idle machine: the default of 20 requests a second only makes the start four seconds longer.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # It creates this folder, by default under /usr.
        f"--flex-volume-plugin-dir={layout.folder / 'volume-plugins'}",
    ]


COMPONENTS = (
    ComponentSpec(
        name=ETCD,
        ports=("etcd", "etcd-peer"),
        arguments=_etcd,
        probe_path="/health",
        authority="etcd-ca",
        client="etcd-client",
        timeout_s=60,
    ),
    ComponentSpec(
        name=API_SERVER,
        ports=("kube-apiserver",),
        arguments=_api_server,
        probe_path="/readyz",
        authority="ca",
        client="admin",
        timeout_s=120,
    ),
    ComponentSpec(
        name=CONTROLLER_MANAGER,
        ports=("kube-controller-manager",),
        arguments=_controller_manager,
        probe_path="/healthz",
        authority="ca",
        client=None,
        timeout_s=90,
    ),
)
"""In the order in which they start."""


class Probe:
    """Asks components over TLS, checking their certificates."""

    def __init__(self, pki: Pki, *, timeout_s: float = 5.0) -> None:
        self._pki, self._timeout_s = pki, timeout_s

    def get(self, spec: ComponentSpec, port: int, path: str | None = None) -> tuple[bool, str]:
        """Whether ``path`` (by default the component's own) answers 200, and what was seen."""
        try:
            context = ssl.create_default_context(cafile=self._pki.certificate(spec.authority))
            if spec.client is not None:
                context.load_cert_chain(self._pki.certificate(spec.client), self._pki.key(spec.client))
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=self._timeout_s, context=context)
            try:
                connection.request("GET", path or spec.probe_path)
                response = connection.getresponse()
                body = response.read(65536).decode(errors="replace").strip()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            return False, f"does not answer: {error}"
        if response.status != 200:
            return False, f"answers {response.status}: {_unhealthy(body)}"
        return True, "ok"


def _unhealthy(body: str) -> str:
    """The failing checks in a verbose answer (lines that start with ``[-]``), or its first line."""
    lines = body.splitlines()
    failing = [line.removeprefix("[-]").split(" ")[0] for line in lines if line.startswith("[-]")]
    return ", ".join(failing) or (lines[0][:200] if lines else "nothing")
