"""How long is it from the word to 0 on the route? Measured with a real operator on a real API server."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.models import Channel
from sluice_artifacts import move_channel
from sluice_devcluster.embedded import EmbeddedProvider
from sluice_devcluster.kubectl import run_kubectl

CRDS = Path(__file__).parents[2] / "crds"
NAMESPACE = "bench"
STABLE, CANDIDATE = "sha256:" + "5" * 64, "sha256:" + "c" * 64
GROUP, VERSION = "sluice.dev", "v1alpha1"
PATIENCE_S = 60.0


def measure_rollbacks(count: int) -> list[float]:
    """Return the seconds from the abort annotation's being written until the route says 0, for `count` rollouts.

    The operator has to be told by its watch, decide and write: that is more than the decision alone.
    """
    with tempfile.TemporaryDirectory() as folder, _operator(Path(folder), count) as api:
        return [_rollback(api, f"rollout-{number}") for number in range(count)]


@contextmanager
def _operator(folder: Path, count: int) -> Iterator[client.ApiClient]:
    provider = EmbeddedProvider(home=folder, tethered=True)
    name = f"bench-{os.getpid()}"
    try:
        kubeconfig = provider.up(name).kubeconfig
        api = config.new_client_from_config(config_file=str(kubeconfig), persist_config=False)
        _furnish(api, kubeconfig, folder, count)
        command = [str(Path(sys.executable).with_name("sluice")), "operator", "run", "--namespace", NAMESPACE]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with (folder / "operator.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--metrics-port", "0"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                yield api
            finally:
                process.terminate()
                process.wait(20)
                api.close()
    finally:
        provider.down(name)


def _furnish(api: client.ApiClient, kubeconfig: Path, folder: Path, count: int) -> None:
    """Install the kinds, a finished candidate, and rollouts that each begin beside a channel of their own."""
    paths = [f"--filename={path}" for path in sorted(CRDS.glob("sluice.dev_*.yaml"))]
    run_kubectl(kubeconfig, "apply", "--server-side", *paths)
    objects, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
    _until(lambda: _served(objects), "the CRDs are served")
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    profile = {"backend": "ray", "address": "http://127.0.0.1:9"}
    core.create_namespaced_config_map(
        NAMESPACE, {"metadata": {"name": "sluice-profiles"}, "data": {"cpu": json.dumps(profile)}}
    )
    root = f"file://{folder}/artifacts/"
    spec = {"datasetRef": {"name": "data"}, "baseModel": {"uri": f"{root}base/"}, "output": root}
    _create(objects, "FineTuneRun", "finetuneruns", "candidate", spec)
    adapter = {"uri": f"{root}adapters/", "digest": CANDIDATE, "rank": 8, "finalLoss": 0.3}
    status = {"phase": "Succeeded", "adapter": adapter, "inputs": {"baseModel": STABLE}}
    body = {"status": status}
    objects.patch_namespaced_custom_object_status(GROUP, VERSION, NAMESPACE, "finetuneruns", "candidate", body)
    for number in range(count):
        name = f"rollout-{number}"
        base = ModelRef(uri=f"{root}base/", digest=STABLE)
        move_channel(root, Channel(name=name, digest=STABLE, base_model=base, changed_by="init"), etag=None)
        spec = {
            "candidate": {"fineTuneRunRef": {"name": "candidate"}},
            "stable": {"channel": name, "root": root},
            "steps": [{"weight": 50, "soak": "1h"}, {"weight": 100, "soak": "1h"}],
            "analysis": {"source": {"uri": f"{root}traces/"}, "interval": "1h"},
            "output": root,
        }
        _create(objects, "ShadowRollout", "shadowrollouts", name, spec)


def _served(objects: client.CustomObjectsApi) -> bool:
    try:
        return "items" in objects.list_cluster_custom_object(GROUP, VERSION, "shadowrollouts")
    except client.ApiException:
        return False


def _create(objects: client.CustomObjectsApi, kind: str, plural: str, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}
    objects.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, plural, body)


def _rollback(api: client.ApiClient, name: str) -> float:
    objects, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
    _until(lambda: _share(core, name) == 50, f"{name} has its weight")
    began = time.monotonic()
    body = {"metadata": {"annotations": {"sluice.dev/abort": "measured"}}}
    objects.patch_namespaced_custom_object(GROUP, VERSION, NAMESPACE, "shadowrollouts", name, body)
    _until(lambda: _share(core, name) == 0, f"{name} is at 0")
    return time.monotonic() - began


def _share(core: client.CoreV1Api, name: str) -> float | None:
    try:
        found = core.read_namespaced_config_map(f"{name}-router", NAMESPACE)
    except client.ApiException:
        return None
    return float(json.loads(found.data["rollout.json"])["candidate_pct"])


def _until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.01)
