"""What the operator makes, on a real API server with the CRDs of KubeRay and the Gateway API: schemas as they are."""

import asyncio
import json

import pytest

from manifests_for_tests import STABLE_DIGEST, dataset, evaluation, rollout, run, scorecard
from operators import await_crds, until
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_devcluster.gotools import gateway_api_crds, kuberay_crds
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, SetRoute
from sluice_operator.manifests.naming import route_name
from sluice_operator.resources import HTTP_ROUTE, MODELS
from sluice_operator.routers.httproute import HTTPRouteRouter

IMAGE = "registry.example/sluice@sha256:" + "0" * 64


RAY_JOBS, HTTP_ROUTES = "rayjobs.ray.io", "httproutes.gateway.networking.k8s.io"


def install(kubectl, name):
    """Install one CRD of KubeRay or of the Gateway API."""
    plural, _, group = name.partition(".")
    path = next(path for path in [*kuberay_crds(), *gateway_api_crds()] if path.name == f"{group}_{plural}.yaml")
    kubectl("apply", "--server-side", "-f", str(path))
    await_crds(kubectl, name)


@pytest.fixture
def ray_jobs(kubectl):
    """KubeRay's CRD of RayJobs."""
    install(kubectl, RAY_JOBS)


@pytest.fixture
def http_routes(kubectl):
    """The Gateway API's CRD of HTTPRoutes."""
    install(kubectl, HTTP_ROUTES)


PROFILES = {
    "a100": {
        "backend": "kuberay",
        "image": IMAGE,
        "accelerator": "nvidia.com/gpu",
        "nodeSelector": {"pool": "a100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"cpu": "8", "memory": "64Gi"},
        "serviceAccount": "trainer",
        "queue": "team-a",
        "env": {"HF_HUB_OFFLINE": "1"},
        "envFrom": ["s3-credentials"],
        "maxWorkers": 8,
    },
    "mi300x": {"backend": "kuberay", "image": IMAGE, "accelerator": "amd.com/gpu", "maxWorkers": 8},
    "cpu": {"backend": "job", "image": IMAGE, "resources": {"cpu": "500m", "memory": "1Gi"}},
}


def condition_of(place, kind, name, **status):
    place.patch(kind, name, {"status": status}, "--subresource=status")


def test_rayjobs_are_accepted_followed_and_removed(place, ray_jobs):
    place.write(PROFILES)
    place.built()
    with place.operator():
        place.apply(
            run(place.uri, "nvidia", profile="a100", workers=4), run(place.uri, "amd", profile="mi300x", workers=2)
        )
        jobs = {}
        for name in ("nvidia", "amd"):
            until(lambda name=name: place.status("finetunerun", name).get("phase") == "Queued")
            jobs[name] = place.status("finetunerun", name)["attempts"][0]["job"]
        raw = place.get("rayjob", jobs["nvidia"])
        spec = raw["spec"]["rayClusterSpec"]
        worker = spec["workerGroupSpecs"][0]
        assert (worker["replicas"], spec["authOptions"]["mode"]) == (4, "token")
        limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] in ("1", 1)
        assert raw["metadata"]["ownerReferences"][0]["uid"] == place.get("finetunerun", "nvidia")["metadata"]["uid"]
        # KubeRay's part, as its controller writes it: a started job, then a validation that failed.
        condition_of(place, "rayjob", jobs["nvidia"], jobDeploymentStatus="Running", jobStatus="RUNNING")
        place.wait_phase("finetunerun", "nvidia", "Running")
        refusal = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no such queue"}
        condition_of(place, "rayjob", jobs["amd"], **refusal)
        until(lambda: "no such queue" in json.dumps(place.status("finetunerun", "amd")))
        uid = place.get("finetunerun", "nvidia")["metadata"]["uid"]
        place.kubectl("-n", place.namespace, "delete", "finetunerun", "nvidia", "--timeout=30s")
        assert not place.admin.get(place.namespace, "RayJob", labels=f"sluice.dev/owner-uid={uid}")["items"]


def test_a_batch_job_is_created_and_its_end_is_seen(place):
    place.write(PROFILES)
    with place.operator():
        place.apply(dataset(place.uri))
        place.wait_phase("tracedataset", "data", "Queued")
        name = place.status("tracedataset", "data")["attempts"][0]["job"]
        raw = place.get("job", name)
        assert raw["spec"]["backoffLimit"] == 0
        pod = until(lambda: place.admin.get(place.namespace, "Pod", labels=f"job-name={name}")["items"])[0]
        assert pod["spec"]["containers"][0]["image"] == IMAGE
        waiting = {"reason": "ImagePullBackOff", "message": "the registry refuses"}
        container = {"name": "worker", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
        containers = [container | {"state": {"waiting": waiting}}]
        condition_of(place, "pod", pod["metadata"]["name"], containerStatuses=containers)
        until(lambda: "the registry refuses" in place.status("tracedataset", "data").get("message", ""))
        place.kubectl("-n", place.namespace, "delete", "tracedataset", "data", "--timeout=30s")
        until(lambda: place.get("job", name) is None, what="the job is gone with its owner")


def test_a_missing_kuberay_is_told_and_installing_it_is_enough(place, kubectl):
    place.write(PROFILES)
    place.built()
    kubectl("delete", "crd", RAY_JOBS, "--ignore-not-found", "--wait=true")
    with place.operator():
        place.apply(run(place.uri, profile="a100"))
        until(lambda: "install the CRD of rayjobs.ray.io" in place.status("finetunerun", "run").get("message", ""))
        install(kubectl, RAY_JOBS)
        until(lambda: place.status("finetunerun", "run").get("phase") == "Queued", timeout_s=120)
        assert place.admin.get(place.namespace, "RayJob")["items"]


ROUTE = route_name(["agent.example"], [("gateway", "http")])
TRAFFIC = {
    "router": "httpRoute",
    "parentRefs": [{"name": "gateway", "sectionName": "http"}],
    "hostnames": ["agent.example"],
    "stable": {"service": "agent-stable", "port": 8000},
    "candidate": {"service": "agent-candidate", "port": 8000},
}


def channel(digest, uri):
    ref = ArtifactRef(uri=uri, digest=digest)
    return Channel(name="stable", digest=digest, base_model=ModelRef(uri=uri, digest=digest), adapter=ref)


def accepted(generation, status="True"):
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": kind,
            "message": "as the test says",
            "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway", "sectionName": "http"}
    return {"parents": [{"parentRef": parent, "controllerName": "example.com/gateway", "conditions": conditions}]}


async def test_an_httproute_is_written_whole_verified_and_defended(place, http_routes, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(place.kubeconfig))
    place.apply(rollout(place.uri, traffic=TRAFFIC))
    obj = MODELS["ShadowRollout"].model_validate(place.get("shadowrollout", "rollout"))
    cluster = await Cluster.connect()
    try:
        router = HTTPRouteRouter(cluster)
        assert not (await router.read(obj)).exists
        stable, candidate = channel(STABLE_DIGEST, place.uri), channel("sha256:" + "2" * 64, place.uri)
        await router.write(obj, SetRoute(weight=5, stable=stable, candidate=candidate))
        view = await router.read(obj)
        assert (view.weight, view.verified, view.problem) == (5, False, RouterProblem.NOT_ACCEPTED)
        assert (view.stable_digest, view.candidate_digest) == (stable.digest, candidate.digest)
        raw = await cluster.get(HTTP_ROUTE, place.namespace, ROUTE)
        weights = [backend["weight"] for backend in raw["spec"]["rules"][0]["backendRefs"]]
        assert weights == [95, 5]
        for status, verified in (("False", False), ("True", True)):
            condition_of(place, "httproute", ROUTE, **accepted(raw["metadata"]["generation"], status))
            assert (await router.read(obj)).verified is verified
        await router.write(obj, SetRoute(weight=25, stable=stable, candidate=candidate))
        # The gateway has accepted the generation before, not this one.
        view = await router.read(obj)
        assert (view.weight, view.verified) == (25, False)
        rule = {"backendRefs": [{"name": "somebody-elses", "port": 80}]}
        place.patch("httproute", ROUTE, {"spec": {"rules": [rule]}})
        assert (await router.read(obj)).problem is RouterProblem.FOREIGN_EDIT
        await router.write(obj, SetRoute(weight=0, stable=stable, candidate=None))
        view = await router.read(obj)
        assert (view.weight, view.candidate_digest, view.problem) == (0, "", RouterProblem.NOT_ACCEPTED)
    finally:
        await cluster.close()
        await asyncio.sleep(0.05)


def test_a_candidate_moves_on_only_where_the_gateway_follows(place, http_routes):
    job_profiles = {"cpu": place.profile()}
    place.write(job_profiles)
    with place.operator():
        place.apply(dataset(place.uri), run(place.uri), evaluation(place.uri), scorecard(place.uri))
        place.wait_phase("promotionscorecard", "card", "Passed")
        place.apply(rollout(place.uri, traffic=TRAFFIC, steps=[{"weight": 25, "soak": "10m"}, {"weight": 100}]))
        raw = until(lambda: place.get("httproute", ROUTE))
        until(lambda: "gateway" in place.status("shadowrollout", "rollout").get("message", ""))
        assert not place.status("shadowrollout", "rollout").get("stepStartedAt")

        def follow():
            raw = place.get("httproute", ROUTE)
            condition_of(place, "httproute", ROUTE, **accepted(raw["metadata"]["generation"]))
            return place.status("shadowrollout", "rollout").get("stepStartedAt")

        until(follow, every_s=1.0, what="the step starts once the gateway follows")
        assert place.status("shadowrollout", "rollout")["weight"] == {"desired": 25, "actual": 25}
        assert raw["metadata"]["labels"]["sluice.dev/owner-name"] == "rollout"
