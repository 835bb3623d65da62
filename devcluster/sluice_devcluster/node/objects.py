"""Kubernetes objects that stand for programs of the node: who they are and where pods find them."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.layout import Node

USER_PREFIX = "sluice-node:"
"""Put before the names of the node's own programs, where Kubernetes prescribes none."""
FIELD_MANAGER = "sluice-devcluster"
NAMESPACE = "sluice-node"
"""Of the Services by which pods reach the node's programs."""


def client_role(identity: str, rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ClusterRole with ``rules`` for the program ``identity``, and its binding."""
    name = f"sluice-node-{identity}"
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": list(rules),
        },
        bind_user(identity, name),
    ]


def bind_user(identity: str, role: str) -> dict[str, Any]:
    """The binding of the program ``identity`` to the ClusterRole ``role``."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"sluice-node-{identity}"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": f"{USER_PREFIX}{identity}"}],
    }


def node_service(
    name: str, namespace: str, address: str, ports: Sequence[dict[str, Any]], *, cluster_ip: str | None = None
) -> list[dict[str, Any]]:
    """A Service without a selector, and the EndpointSlice that makes it a program at ``address``.

    Args:
        name: of the Service.
        namespace: of both.
        address: the node's.
        ports: ``name``, ``port`` and ``protocol``; the program listens on the same numbers.
        cluster_ip: a fixed address of the Service.
    """
    labels = {"app.kubernetes.io/managed-by": FIELD_MANAGER}
    spec: dict[str, Any] = {"ports": [port | {"targetPort": port["port"]} for port in ports]}
    if cluster_ip is not None:
        spec["clusterIP"] = cluster_ip
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": spec,
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-node",
                "namespace": namespace,
                "labels": labels | {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": list(ports),
        },
    ]


def apply_definitions(node: Node, paths: Sequence[Path], *, timeout_s: float = 180.0) -> None:
    """Apply custom resource definitions and wait until the API server serves them all.

    Raises:
        ProviderError: one is refused, or not served within ``timeout_s``.
    """
    apply(node, "\n---\n".join(path.read_text() for path in paths))
    missing = {definition_name(path.read_text(), path) for path in paths}
    deadline = time.monotonic() + timeout_s
    while missing := missing - _served(node):
        if time.monotonic() > deadline:
            raise ProviderError(f"the API server does not serve {', '.join(sorted(missing))} {timeout_s:.0f} s later")
        time.sleep(0.2)


def _served(node: Node) -> set[str]:
    """The resources that the API server serves, named as definitions are: plural and group.

    Asking for the definitions themselves would move megabytes each time.
    """
    command = ("api-resources", "--output=name", "--request-timeout=20s")
    kubectl = node.binaries / "kubectl"
    return set(
        run_kubectl(node.control.kubeconfig, *command, check=False, timeout_s=120, kubectl=kubectl).stdout.split()
    )


def definition_name(text: str, path: Path) -> str:
    """The name of the definition in ``text``, whose top level is read as text: parsing a megabyte takes ten seconds.

    Raises:
        ProviderError: it has none where upstream's generators write it.
    """
    match = re.search(r"^metadata:\n(?:  .*\n)*?  name: (\S+)$", text, re.MULTILINE)
    if match is None:
        raise ProviderError(f"{path} does not look like a custom resource definition: it has no metadata.name")
    return match[1]


def apply(node: Node, manifests: str, *, timeout_s: float = 240.0) -> None:
    """Apply manifests server-side as the node's administrator; large definitions fit only that way.

    Raises:
        ProviderError: the API server refuses one.
    """
    run_kubectl(
        node.control.kubeconfig,
        "apply",
        "--server-side",
        "--force-conflicts",
        f"--field-manager={FIELD_MANAGER}",
        "--filename=-",
        stdin=manifests,
        timeout_s=timeout_s,
        kubectl=node.binaries / "kubectl",
    )
