"""The control plane's components as services of the node, the scheduler among them."""

from collections.abc import Mapping
from pathlib import Path

from sluice_devcluster.controlplane import COMPONENTS, ComponentSpec, Layout, Probe
from sluice_devcluster.node.layout import PORTS, Node
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Health, Service


def _scheduler(layout: Layout, ports: Mapping[str, int]) -> list[str]:
    kubeconfig, pki = layout.folder / "node" / "etc" / "kube-scheduler.kubeconfig", layout.pki
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports['kube-scheduler']}",
        f"--tls-cert-file={pki.certificate('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
    ]


SCHEDULER = ComponentSpec(
    name="kube-scheduler",
    ports=("kube-scheduler",),
    arguments=_scheduler,
    probe_path="/healthz",
    authority="ca",
    client=None,
    timeout_s=60,
)


def control_services() -> tuple[Service, ...]:
    """etcd, API server, controller manager and scheduler, in the order in which they start."""
    return tuple(_service(spec) for spec in (*COMPONENTS, SCHEDULER))


def _service(spec: ComponentSpec) -> Service:
    port = PORTS[spec.ports[0]]

    def argv(node: Node) -> list[str | Path]:
        return [node.binaries / spec.name, *spec.arguments(node.control, PORTS)]

    def health(node: Node, sandbox: Sandbox) -> Health:
        return sandbox.in_network(lambda: Probe(node.pki).get(spec, port))

    return Service(name=spec.name, argv=argv, health=health, port=port, timeout_s=spec.timeout_s)
