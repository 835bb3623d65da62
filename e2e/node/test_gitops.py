"""`examples/gitops/` synced by a real Argo CD: waves wait for health, hooks come first, the weights stay the rollout's.

Argo CD's controller and repository server, the gateway, the chart's health scripts and the definitions are the real
ones. The operator is not there: what it would write into a status is written by the tests, one word at a time, so that
what Argo CD makes of every word is seen.
"""

import contextlib
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.gotools import helm
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.provider import NodeProvider

ROOT = Path(__file__).parents[2]
NAME = "gitops"
PLACE = "shop"
"""Namespace of the example's objects."""
AROUND = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  gatewayClassName: traefik
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: agent-stable, namespace: shop}
spec: {selector: {app: agent-stable}, ports: [{port: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: agent-candidate, namespace: shop}
spec: {selector: {app: agent-candidate}, ports: [{port: 8000}]}
"""
"""What the example finds on a cluster."""


def until(condition, seconds=240.0, every=0.3, told=lambda: ""):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not become true in {seconds:.0f} s: {told()}"
        time.sleep(every)
    return found


class Cluster:
    """The cluster, and what the operator would say on it."""

    def __init__(self, kubeconfig):
        self._kubeconfig = kubeconfig

    def kubectl(self, *arguments, stdin=None, namespace=PLACE):
        return run_kubectl(self._kubeconfig, "--namespace", namespace, *arguments, stdin=stdin).stdout

    def get(self, kind, name, namespace=PLACE):
        text = self.kubectl("get", kind, name, "--output=json", "--ignore-not-found", namespace=namespace)
        return json.loads(text) if text.strip() else None

    def say(self, kind, name, phase, condition=None, status="True", message="by the test"):
        """Write a status as the operator does, for the generation that is there."""
        generation = self.get(kind, name)["metadata"]["generation"]
        said = {"type": condition, "status": status, "reason": phase, "message": message}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = {
            "observedGeneration": generation,
            "phase": phase,
            "conditions": [said | {"lastTransitionTime": moment}] if condition else [],
        }
        patch = json.dumps({"status": content})
        self.kubectl("patch", kind, name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def application(self, name):
        return (self.get("application", name, "argocd") or {}).get("status", {})

    def resource_health(self, application, kind):
        resources = self.application(application).get("resources", [])
        return next((each.get("health", {}).get("status") for each in resources if each["kind"] == kind), None)

    def refresh(self, application, how="hard"):
        """Have Argo CD look again: at the objects, or, with ``hard``, at the repository as well."""
        word = f"argocd.argoproj.io/refresh={how}"
        self.kubectl("annotate", "application", application, word, "--overwrite", namespace="argocd")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    provider = NodeProvider(
        home=tmp_path_factory.mktemp("clusters"), addons=["gateway", "argocd"], install_packages=True
    )
    try:
        found = Cluster(provider.up(NAME).kubeconfig)
        for path in sorted((ROOT / "crds").glob("sluice.dev_*.yaml")):
            found.kubectl("apply", "--server-side", f"--filename={path}")
        found.kubectl("create", "namespace", PLACE)
        found.kubectl("apply", "--filename=-", stdin=AROUND)
        patch = json.dumps({"data": health_scripts()})
        found.kubectl("patch", "configmap", "argocd-cm", "--type=merge", f"--patch={patch}", namespace="argocd")
        yield found
    finally:
        provider.down(NAME)


def health_scripts():
    """The keys that the chart offers for Argo CD's own ConfigMap."""
    command = [helm(), "template", "sluice", ROOT / "charts" / "sluice", "--kube-version=1.36.0"]
    command += ["--show-only=templates/argocd.yaml", "--set=argocd.enabled=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return yaml.safe_load(done.stdout)["data"]


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The example as a repository of its own on this machine."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "examples" / "gitops", folder / "examples" / "gitops")
    git(folder, "init", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "The example")
    return folder


def apply_application(cluster, repository, name):
    documents = yaml.safe_load_all((ROOT / "examples/gitops/argocd/applications.yaml").read_text())
    (application,) = [each for each in documents if each["metadata"]["name"] == name]
    application["spec"]["source"]["repoURL"] = f"file://{repository}"
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(application), namespace="argocd")


def test_a_run_is_made_when_its_dataset_is_ready_and_not_before(cluster, repository):
    name = "storefront-training"
    apply_application(cluster, repository, name)
    told = lambda: json.dumps(cluster.application(name).get("conditions", ""))  # noqa: E731 - read when it fails

    until(lambda: cluster.get("tracedataset", "storefront"), told=told)
    until(lambda: cluster.resource_health(name, "TraceDataset") == "Progressing", told=told)
    cluster.say("tracedataset", "storefront", "Building")
    time_to_be_wrong = time.monotonic() + 8
    while time.monotonic() < time_to_be_wrong:
        assert cluster.get("finetunerun", "storefront-a1") is None
    cluster.say("tracedataset", "storefront", "Ready", "Ready")
    cluster.refresh(name, "normal")
    until(lambda: cluster.get("finetunerun", "storefront-a1"), told=told)
    assert cluster.resource_health(name, "TraceDataset") == "Healthy"

    for phase, condition, status, health in (
        ("Queued", None, "", "Suspended"),
        ("Running", None, "", "Progressing"),
        ("Running", "Stalled", "True", "Degraded"),
        ("Succeeded", "Succeeded", "True", "Healthy"),
    ):
        cluster.say("finetunerun", "storefront-a1", phase, condition, status)
        cluster.refresh(name, "normal")
        until(lambda health=health: cluster.resource_health(name, "FineTuneRun") == health, told=told)
    until(lambda: cluster.application(name).get("health", {}).get("status") == "Healthy", told=told)
    until(lambda: cluster.application(name).get("sync", {}).get("status") == "Synced", told=told)


def weights(cluster):
    route = cluster.get("httproute", "storefront")
    return [backend["weight"] for backend in route["spec"]["rules"][0]["backendRefs"]]


def label(repository, kind):
    """Commit a label on an object of the release: the specifications themselves are records and cannot change."""
    path = repository / "examples/gitops/release" / f"{kind}.yaml"
    path.write_text(path.read_text().replace("metadata:\n", "metadata:\n  labels: {team: shop}\n", 1))
    git(repository, "commit", "--all", "-m", f"Label the {kind}")


class Evaluation:
    """Answers every EvalRun of the example as the operator would in the end, however often Argo CD makes it anew."""

    def __init__(self, cluster):
        self._cluster, self._end = cluster, threading.Event()
        self.verdict = ("Succeeded", "Succeeded", "True")
        self.seen = set()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _answer(self):
        while not self._end.wait(0.5):
            with contextlib.suppress(ProviderError):  # it may be gone by now
                run = self._cluster.get("evalrun", "storefront-e1")
                if run is None or "deletionTimestamp" in run["metadata"] or "status" in run:
                    continue
                self._cluster.say("evalrun", "storefront-e1", *self.verdict)
                self.seen.add(run["metadata"]["uid"])


def test_a_release_evaluates_first_and_leaves_the_weights_to_the_rollout(cluster, repository):
    name = "storefront-release"
    apply_application(cluster, repository, name)
    told = lambda: json.dumps(cluster.application(name).get("operationState", ""))  # noqa: E731 - read when it fails
    card = lambda: cluster.get("promotionscorecard", "storefront-offline")  # noqa: E731 - read again and again
    ended = lambda: cluster.application(name).get("operationState", {}).get("phase") == "Succeeded"  # noqa: E731
    synced = lambda: cluster.application(name).get("sync", {}).get("status") == "Synced"  # noqa: E731

    until(lambda: cluster.get("evalrun", "storefront-e1"), told=told)
    assert card() is None
    with Evaluation(cluster) as evaluation:
        until(card, told=told)
        assert cluster.get("httproute", "storefront") is None
        cluster.say("promotionscorecard", "storefront-offline", "Passed", "Passed")
        until(lambda: cluster.get("shadowrollout", "storefront"), told=told)
        assert weights(cluster) == [100, 0]
        cluster.say("shadowrollout", "storefront", "Completed", "Completed")
        until(ended, told=told)
        until(synced, told=told)

        # The rollout moves the weights; that is no difference, and a sync of something else does not put them back.
        moves = ((0, 75), (1, 25))
        change = [{"op": "replace", "path": f"/spec/rules/0/backendRefs/{n}/weight", "value": w} for n, w in moves]
        cluster.kubectl("patch", "httproute", "storefront", "--type=json", f"--patch={json.dumps(change)}")
        evaluated = set(evaluation.seen)
        label(repository, "promotionscorecard")
        cluster.refresh(name)
        until(lambda: card()["metadata"].get("labels", {}).get("team") == "shop", told=told)
        assert evaluation.seen - evaluated, "every sync evaluates again"
        until(ended, told=told)
        until(synced, told=told)
        assert weights(cluster) == [75, 25]
