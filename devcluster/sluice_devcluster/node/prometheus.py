"""Prometheus on the node: pods with a port named ``metrics``, the node's own programs, and the rules it is given.

There is no Prometheus operator here, so ServiceMonitor, PodMonitor and PrometheusRule are not read from the cluster: a
container port named ``metrics`` is what all of them select, and rules are loaded with :func:`add_rules`. Debian's build
of Prometheus has no discovery of Kubernetes either; :mod:`~sluice_devcluster.node.targets` stands beside it.
"""

import http.client
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sluice_devcluster.errors import ComponentError, ProviderError
from sluice_devcluster.files import write_atomic
from sluice_devcluster.node import gateway, kuberay, targets
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.objects import NAMESPACE, client_role, node_service
from sluice_devcluster.node.sandbox import Sandbox, find_program
from sluice_devcluster.node.service import Health, Service, http_health
from sluice_devcluster.reporting import Reporter

PORT = 9090
INTERVAL_S = 5
"""Between two scrapes and two evaluations of the rules."""
_LIST_S = 3
"""Between two lists of the pods."""


def prometheus_configuration(node: Node) -> dict[str, Any]:
    """``prometheus.yml``."""
    programs = {"ray-operator": ("kuberay", kuberay.METRICS_PORT), "traefik": ("traefik", gateway.METRICS_PORT)}
    return {
        "global": {"scrape_interval": f"{INTERVAL_S}s", "evaluation_interval": f"{INTERVAL_S}s"},
        "rule_files": [str(_rules(node) / "*.yaml")],
        "scrape_configs": [
            {
                "job_name": "pods",
                # A series that names its own namespace means the object that it is about.
                "honor_labels": True,
                "file_sd_configs": [{"files": [str(_targets(node))], "refresh_interval": "10s"}],
            },
            *(
                {"job_name": job, "static_configs": [{"targets": [f"{node.network.address}:{port}"]}]}
                for tool, (job, port) in programs.items()
                if tool in node.tools
            ),
        ],
    }


def add_rules(node: Node, sandbox: Sandbox, name: str, manifest: str) -> None:
    """Load rules and have Prometheus read them.

    Args:
        node: where it runs.
        sandbox: the node's.
        name: of the file they are kept in; rules under the same name are replaced.
        manifest: a PrometheusRule, or a plain file of rules.

    Raises:
        ProviderError: ``manifest`` is neither.
        ComponentError: Prometheus refuses the rules, which are then taken out again.
    """
    content = yaml.safe_load(manifest)
    rules = content.get("spec", content) if isinstance(content, dict) else None
    if not isinstance(rules, dict) or "groups" not in rules:
        raise ProviderError(f"rules {name}: a PrometheusRule or a file with groups is needed")
    path = _rules(node) / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, yaml.safe_dump({"groups": rules["groups"]}, sort_keys=False).encode())
    try:
        sandbox.in_network(lambda: _reload(node.network.address))
    except ComponentError:
        path.unlink()
        raise


def _reload(address: str) -> None:
    connection = http.client.HTTPConnection(address, PORT, timeout=30)
    try:
        connection.request("POST", "/-/reload")
        response = connection.getresponse()
        said = response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise ComponentError(f"Prometheus does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ComponentError(f"Prometheus refuses its configuration: {said}")


def _manifests(node: Node, _: Reporter) -> Sequence[str]:
    rules = [{"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]
    ports = [{"name": "http", "port": PORT, "protocol": "TCP"}]
    items = [
        *client_role("prometheus", rules),
        *node_service("prometheus", NAMESPACE, node.network.address, ports),
    ]
    return [json.dumps({"apiVersion": "v1", "kind": "List", "items": items})]


def _targets(node: Node) -> Path:
    return node.configuration / "prometheus-targets" / "pods.json"


def _rules(node: Node) -> Path:
    return node.configuration / "prometheus-rules"


def _configuration(node: Node) -> Path:
    return node.configuration / "prometheus.yml"


SERVER = Service(
    name="prometheus",
    argv=lambda node: [
        find_program("prometheus"),
        f"--config.file={_configuration(node)}",
        f"--storage.tsdb.path={node.state / 'prometheus'}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address={node.network.address}:{PORT}",
        "--web.enable-lifecycle",
    ],
    files=lambda node: {_configuration(node): yaml.safe_dump(prometheus_configuration(node), sort_keys=False)},
    health=http_health(PORT, "/-/ready", host=None),
    port=PORT,
)


def _listing(node: Node, _: Sandbox) -> Health:
    return (True, "ok") if _targets(node).is_file() else (False, "has not listed the pods yet")


TARGETS = Service(
    name="prometheus-targets",
    argv=lambda node: [
        sys.executable,
        "-I",
        "-S",
        Path(targets.__file__),
        node.binaries / "kubectl",
        _targets(node),
        str(_LIST_S),
    ],
    environment=lambda node: {"KUBECONFIG": str(node.kubeconfig("prometheus"))},
    files=lambda node: {
        _targets(node).with_name("README"): "Written by the node; pods.json is replaced as pods come.\n"
    },
    health=_listing,
)

PROMETHEUS = Addon(
    name="prometheus",
    summary="Prometheus",
    packages={"prometheus": ("prometheus",)},
    manifests=_manifests,
    services=(TARGETS, SERVER),
)
