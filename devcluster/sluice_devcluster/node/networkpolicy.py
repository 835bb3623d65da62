"""Enforcement of NetworkPolicies on the node."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluice_devcluster.node import gateway, s3store
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.objects import NAMESPACE, client_role
from sluice_devcluster.node.policies import TABLE
from sluice_devcluster.node.prometheus import PORT as PROMETHEUS_PORT
from sluice_devcluster.node.sandbox import Sandbox, find_program
from sluice_devcluster.node.service import Health, Service
from sluice_devcluster.reporting import Reporter


def node_programs(node: Node) -> list[dict[str, Any]]:
    """The node's programs as the pods that they would be elsewhere: namespace, labels, address and ports."""
    programs = (
        ("kube-system", {"k8s-app": "kube-dns"}, [("UDP", 53), ("TCP", 53)]),
        (NAMESPACE, {"app.kubernetes.io/name": "s3"}, [("TCP", s3store.PORT)]),
        (NAMESPACE, {"app.kubernetes.io/name": "gateway"}, [("TCP", gateway.PORT)]),
        (NAMESPACE, {"app.kubernetes.io/name": "prometheus"}, [("TCP", PROMETHEUS_PORT)]),
    )
    return [
        {"namespace": namespace, "labels": labels, "address": node.network.address, "only": only}
        for namespace, labels, only in programs
    ]


def _configuration(node: Node) -> Path:
    return node.configuration / "network-policies.json"


def _ready(node: Node) -> Path:
    return node.configuration / ".network-policies-ready"


def _files(node: Node) -> dict[Path, str]:
    content = {
        "kubectl": str(node.binaries / "kubectl"),
        "pod_network": node.network.pod_network,
        "programs": node_programs(node),
        "ready": str(_ready(node)),
    }
    return {_configuration(node): json.dumps(content, indent=2)}


def _manifests(_: Node, _reporter: Reporter) -> Sequence[str]:
    read = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
    ]
    return [json.dumps({"apiVersion": "v1", "kind": "List", "items": client_role("network-policies", rules)})]


def _forget(node: Node, sandbox: Sandbox) -> None:
    """A table of an earlier agent must not pass for this one's."""
    _ready(node).unlink(missing_ok=True)
    sandbox.run([find_program("nft"), "add", "table", *TABLE.split()])


def _health(node: Node, _: Sandbox) -> Health:
    return (True, "ok") if _ready(node).is_file() else (False, "has not written its rules yet")


AGENT = Service(
    name="network-policies",
    argv=lambda node: [
        sys.executable,
        "-P",
        "-m",
        "sluice_devcluster.node.policyagent",
        _configuration(node),
    ],
    files=_files,
    environment=lambda node: {"KUBECONFIG": str(node.kubeconfig("network-policies"))},
    before=_forget,
    health=_health,
)

NETWORK_POLICIES = Addon(
    name="network-policies",
    summary="enforcement of NetworkPolicies",
    manifests=_manifests,
    services=(AGENT,),
)
