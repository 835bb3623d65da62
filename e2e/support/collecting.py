"""What is kept of a scenario that failed: every object, event and log of the namespaces that it played in."""

from collections.abc import Iterable
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.kubectl import run_kubectl

KINDS = (
    "sluice",
    "rayjobs.ray.io",
    "rayclusters.ray.io",
    "jobs.batch",
    "pods",
    "configmaps",
    "httproutes.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "deployments.apps",
    "leases.coordination.k8s.io",
)
"""Kinds of which the YAML is kept; Secrets are not among them."""


def collect(kubeconfig: Path, namespaces: Iterable[str], folder: Path) -> None:
    """Write objects, events and logs below `folder`; what cannot be had is named there instead."""
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in namespaces:
        place = folder / namespace
        place.mkdir(exist_ok=True)
        for kind in KINDS:
            _keep(
                kubeconfig, place / f"{kind}.yaml", "-n", namespace, "get", kind, "--output=yaml", "--ignore-not-found"
            )
        _keep(kubeconfig, place / "events.txt", "-n", namespace, "get", "events", "--sort-by=.lastTimestamp")
        _keep(kubeconfig, place / "pods.txt", "-n", namespace, "describe", "pods")
        names = run_kubectl(kubeconfig, "-n", namespace, "get", "pods", "--output=name", check=False).stdout.split()
        for name in names:
            flags = ("--all-containers", "--prefix", "--tail=2000")
            target = place / f"{name.replace('/', '-')}.log"
            _keep(kubeconfig, target, "-n", namespace, "logs", name, *flags)
            _keep(kubeconfig, target.with_suffix(".before.log"), "-n", namespace, "logs", name, *flags, "--previous")
    _keep(kubeconfig, folder / "nodes.txt", "describe", "nodes")


def _keep(kubeconfig: Path, target: Path, *arguments: str) -> None:
    try:
        done = run_kubectl(kubeconfig, *arguments, check=False, timeout_s=30.0)
    except ProviderError as error:
        target.write_text(f"{error}\n", encoding="utf-8")
        return
    text = done.stdout or done.stderr
    if text.strip() and not (target.name.endswith(".before.log") and done.returncode != 0):
        target.write_text(text, encoding="utf-8")
