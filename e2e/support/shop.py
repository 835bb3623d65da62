"""The storefront on the cluster: model and suite in the bucket, a deployment for each arm, a gateway before them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from installation import AGENT_ACCOUNT, BUCKET, ROOT, WORKLOAD, Storage, image
from site_view import Manifest, Site
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_api.instants import format_instant
from sluice_artifacts import NotFoundError, move_channel, read_channel

URI = f"s3://{BUCKET}/storefront/"
"""Root of the storefront's artifacts."""
AGENT_PORT = 8000
SOURCES = ROOT / "examples" / "storefront"
CODE = "storefront-code"
"""ConfigMap with the agent's code: the agent is the user's, no image of Sluice's holds it."""


def point(name: str, base: ModelRef, adapter: Mapping[str, Any] | None) -> None:
    """Let a channel name the base model, or an adapter on it as a FineTuneRun's status has it."""
    ref = None if adapter is None else ArtifactRef(uri=adapter["uri"], digest=adapter["digest"])
    try:
        known = read_channel(URI, name)
    except NotFoundError:
        known = None
    channel = Channel(
        name=name,
        digest=ref.digest if ref is not None else base.digest,
        base_model=base,
        adapter=ref,
        changed_by="e2e",
        changed_at=format_instant(datetime.now(UTC)),
    )
    move_channel(URI, channel, etag=known[1] if known is not None else None)


def stable_digest() -> str:
    """Return the digest that the `stable` channel names."""
    found = read_channel(URI, "stable")
    return found[0].digest if found is not None else ""


def code() -> Manifest:
    """Return the ConfigMap with the agent's modules."""
    data = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.py"))}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CODE, "namespace": WORKLOAD}, "data": data}


def agent(storage: Storage, arm: str, channel: str, *, replicas: int) -> list[Manifest]:
    """Return the deployment and the Service of one arm: what it serves is what `channel` names."""
    name = f"agent-{arm}"
    labels = {"app": name}
    variant = "candidate" if arm == "candidate" else "baseline"
    command = [
        *("python3", "-P", "-m", "storefront.service", "--root", URI, "--channel", channel, "--variant", variant),
        *("--traces", f"{URI}traces/", "--host", "0.0.0.0", "--port", str(AGENT_PORT)),
        *("--cache", "/tmp/models", "--threads", "1"),
    ]
    variables = {"PYTHONPATH": "/opt/storefront", "HOME": "/tmp", "OMP_NUM_THREADS": "1", **storage.plain()}
    container = {
        "name": "agent",
        "image": image("trainer"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/venv/bin/" + command[0], *command[1:]],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "envFrom": [{"secretRef": {"name": AGENT_ACCOUNT}}],
        "ports": [{"containerPort": AGENT_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": AGENT_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "code", "mountPath": "/opt/storefront/storefront"},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    pod = {
        "serviceAccountName": AGENT_ACCOUNT,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "code", "configMap": {"name": CODE}}, {"name": "scratch", "emptyDir": {}}],
    }
    metadata = {"name": name, "namespace": WORKLOAD}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {"selector": labels, "ports": [{"port": AGENT_PORT, "targetPort": AGENT_PORT}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def example(name: str) -> list[Manifest]:
    """Return the manifests of an example: of its form for clusters, where it has one of its own."""
    folder = ROOT / "examples"
    path = folder / "kubernetes" / name
    text = (path if path.exists() else folder / name).read_text(encoding="utf-8")
    return [each for each in yaml.safe_load_all(text) if each]


def pod_url(site: Site, arm: str) -> str:
    """Return the URL of an arm's pod, as the machine reaches it."""
    (pod,) = site.list("pods", labels=f"app=agent-{arm}")
    return f"http://{pod['status']['podIP']}:{AGENT_PORT}"


def await_ready(site: Site, *names: str) -> None:
    """Wait until deployments run what they say, and nothing older."""

    def ready(name: str) -> bool:
        found = site.get("deployment", name) or {}
        status, wanted = found.get("status") or {}, (found.get("spec") or {}).get("replicas")
        seen = status.get("observedGeneration") == (found.get("metadata") or {}).get("generation")
        counts = {status.get(each) for each in ("replicas", "updatedReplicas", "availableReplicas")}
        return bool(found) and seen and counts == {wanted}

    for name in names:
        site.until(lambda name=name: ready(name), wish=f"deployment {name} is ready", timeout_s=300)
