"""KubeRay: Ray clusters and jobs on the node's pods."""

import json
from collections.abc import Sequence
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.objects import apply_definitions, bind_user
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Service, http_health
from sluice_devcluster.reporting import Reporter

METRICS_PORT = 8083
_HEALTH_PORT = 8084


def _arguments(node: Node) -> list[str | Path]:
    return [
        node.tools["ray-operator"],
        f"--kubeconfig={node.kubeconfig('kuberay')}",
        "--enable-leader-election=false",
        "--enable-metrics",
        f"--metrics-addr={node.network.address}:{METRICS_PORT}",
        f"--health-probe-bind-address=127.0.0.1:{_HEALTH_PORT}",
        # Where the operator cannot resolve the names of a Ray head's Service, it goes through the API server.
        *([] if node.resolves_names else ["--use-kubernetes-proxy"]),
    ]


def _manifests(_: Node, reporter: Reporter) -> Sequence[str]:
    """Upstream's own role, and its binding to the operator's identity."""
    return [gotools.kuberay_role(reporter).read_text(), json.dumps(bind_user("kuberay", "kuberay-operator"))]


def _define(node: Node, _: Sandbox, reporter: Reporter) -> None:
    apply_definitions(node, gotools.kuberay_crds(reporter))


OPERATOR = Service(
    name="kuberay",
    argv=_arguments,
    health=http_health(_HEALTH_PORT, "/readyz"),
    port=METRICS_PORT,
)

KUBERAY = Addon(
    name="kuberay",
    summary="Ray clusters and jobs",
    tools=lambda reporter: {"ray-operator": gotools.build(gotools.kuberay_tool(), reporter) / "ray-operator"},
    prepare=_define,
    manifests=_manifests,
    services=(OPERATOR,),
)
