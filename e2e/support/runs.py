"""FineTuneRuns of the storefront, and what KubeRay makes of them."""

from typing import Any

from shop import URI
from site_view import Manifest, Site

QUICK = {"maxSteps": 40, "tokensPerStep": 4096, "learningRate": 4.0e-3, "schedule": "cosine", "warmupRatio": 0.05}
"""Forty optimizer steps: enough to be good, seconds to compute."""
LONG = {**QUICK, "maxSteps": 140, "tokensPerStep": 2048}
"""Long enough to be interrupted half-way."""


def run(name: str, *, profile: str = "cpu", workers: int = 1, every: int = 20, **change: Any) -> Manifest:
    """Return a FineTuneRun on the storefront's dataset; `change` replaces fields of its spec."""
    spec = {
        "datasetRef": {"name": "storefront"},
        "baseModel": {"uri": f"{URI}base/"},
        "method": "sft",
        "lora": {"rank": 8, "alpha": 16, "targetModules": "all-linear"},
        "optimizer": QUICK,
        "sequence": {"maxLength": 512, "packing": True},
        "checkpoint": {"every": every, "keep": 2},
        "workers": workers,
        "output": URI,
        "profile": profile,
        "deadlines": {"queued": "10m", "running": "20m", "hang": "5m"},
        "retry": {"maxAttempts": 3},
        **change,
    }
    return {"apiVersion": "sluice.dev/v1alpha1", "kind": "FineTuneRun", "metadata": {"name": name}, "spec": spec}


def job_of(site: Site, name: str) -> str:
    """Return the name of a run's newest job."""
    return str((site.status("finetunerun", name).get("attempts") or [{}])[-1].get("job", ""))


def pods_of(site: Site, name: str, role: str = "") -> list[Manifest]:
    """Return the pods of a run's newest RayJob; `role` is `head` or `worker`."""
    status = site.status("rayjob", job_of(site, name))
    cluster = status.get("rayClusterName")
    if not cluster:
        return []
    kind = f",ray.io/node-type={role}" if role else ""
    return list(site.list("pods", labels=f"ray.io/cluster={cluster}{kind}"))


def until_step(site: Site, name: str, step: int, *, attempt: int = 1, timeout_s: float = 600.0) -> None:
    """Wait until an attempt has come to a step."""

    def there() -> bool:
        status = site.status("finetunerun", name)
        progress = status.get("progress") or {}
        return len(status.get("attempts") or []) >= attempt and int(progress.get("step") or 0) >= step

    def told() -> str:
        status = site.status("finetunerun", name)
        return f"{status.get('phase')} {status.get('reason')}: {status.get('message')}"

    site.until(there, wish=f"{name} is at step {step} of attempt {attempt}", timeout_s=timeout_s, told=told)


def remove(site: Site, *names: str) -> None:
    """Delete runs and wait until they and their RayJobs are gone."""
    site.delete("finetunerun", *names)
