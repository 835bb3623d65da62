"""The Gateway API with Traefik as its data plane."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from sluice_devcluster import gotools
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.objects import NAMESPACE, apply_definitions, client_role, node_service
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Service, http_health
from sluice_devcluster.reporting import Reporter

PORT = 80
"""Of the entry point and so, as Traefik asks, of the Gateway's listener."""
METRICS_PORT = 8082
GATEWAY = "gateway"
"""Name of the Gateway, in the namespace of the node's own objects."""
CLASS = "traefik"
_PING_PORT = 8085
_GROUP = "gateway.networking.k8s.io"


def static_configuration(node: Node) -> dict[str, Any]:
    """``traefik.yaml``."""
    address = node.network.address
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "INFO"},
        "entryPoints": {
            "web": {"address": f"{address}:{PORT}"},
            "metrics": {"address": f"{address}:{METRICS_PORT}"},
            "ping": {"address": f"127.0.0.1:{_PING_PORT}"},
        },
        "ping": {"entryPoint": "ping"},
        "metrics": {"prometheus": {"entryPoint": "metrics", "addServicesLabels": True}},
        # Without a throttle, a changed weight is in force as soon as the watch tells of it.
        "providers": {"kubernetesGateway": {"throttleDuration": "0s", "statusAddress": {"ip": address}}},
    }


def gateway_objects(node: Node) -> list[dict[str, Any]]:
    """The class, a Gateway that takes routes from every namespace, its Service, and what Traefik may read."""
    rules = [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
        {
            "apiGroups": [""],
            "resources": ["services", "secrets", "configmaps", "nodes"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [_GROUP], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {
            "apiGroups": [_GROUP],
            "resources": [f"{kind}/status" for kind in ("gatewayclasses", "gateways", "httproutes", "grpcroutes")],
            "verbs": ["update", "patch"],
        },
    ]
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": PORT,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    ports = [{"name": "http", "port": PORT, "protocol": "TCP"}]
    return [
        *client_role("traefik", rules),
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
        *node_service(GATEWAY, NAMESPACE, node.network.address, ports),
    ]


def _manifests(node: Node, _: Reporter) -> Sequence[str]:
    return [json.dumps({"apiVersion": "v1", "kind": "List", "items": gateway_objects(node)})]


def _define(node: Node, _: Sandbox, reporter: Reporter) -> None:
    apply_definitions(node, gotools.gateway_api_crds(reporter))


TRAEFIK = Service(
    name="traefik",
    argv=lambda node: [node.tools["traefik"], f"--configFile={node.configuration / 'traefik.yaml'}"],
    files=lambda node: {
        node.configuration / "traefik.yaml": yaml.safe_dump(static_configuration(node), sort_keys=False)
    },
    environment=lambda node: {"KUBECONFIG": str(node.kubeconfig("traefik"))},
    health=http_health(_PING_PORT, "/ping"),
    port=PORT,
)

TRAEFIK_GATEWAY = Addon(
    name="gateway",
    summary="Gateway API with Traefik",
    tools=lambda reporter: {"traefik": gotools.build(gotools.traefik_tool(), reporter) / "traefik"},
    prepare=_define,
    manifests=_manifests,
    services=(TRAEFIK,),
)
