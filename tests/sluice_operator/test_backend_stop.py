"""Stopping a training on Ray: time to save first, whoever has to give it."""

import asyncio
import json
import time

import pytest

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.jobs import LabelJob, TrainJob
from sluice_api.v1alpha1 import FineTuneRun
from sluice_operator.backends.base import JobKey
from sluice_operator.backends.kuberay import KubeRayBackend
from sluice_operator.backends.ray import STOP_WAIT_S, submission
from sluice_operator.decisions.base import Backend, Profile
from sluice_operator.manifests.rayjob import rayjob

UID = "uid-1"
KEY = JobKey(name="ftr-a-1", namespace="n", owner=UID)
PROFILE = Profile(name="gpu", backend=Backend.KUBERAY, image="worker:1")
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


class ObjectStore:
    """Kubernetes as far as stopping goes: objects by kind and name, and what was deleted."""

    def __init__(self):
        self.objects = {}
        self.deleted = []

    async def get(self, resource, namespace, name):
        return self.objects.get((resource.kind, name))

    async def delete(self, resource, namespace, name, *, uid):
        assert self.objects[resource.kind, name]["metadata"]["uid"] == uid
        del self.objects[resource.kind, name]
        self.deleted.append(name)


@pytest.fixture
def job(tmp_path):
    return TrainJob(
        run=RunRef(kind="FineTuneRun", namespace="n", name="a", uid=UID),
        attempt=1,
        output_uri=f"file://{tmp_path}/attempts/1/",
        dataset=ArtifactRef(uri=f"file://{tmp_path}/d/", digest=f"sha256:{'0' * 64}"),
        base_model=ModelRef(uri="file:///base/"),
        checkpoint_uri=f"file://{tmp_path}/checkpoints/",
        adapter_uri=f"file://{tmp_path}/adapters/",
    )


def cluster_with(job_input, status=RUNNING):
    """A cluster with a RayJob as the operator makes it, and its owner."""
    spec = {
        "datasetRef": {"name": "d"},
        "baseModel": {"uri": "file:///base/"},
        "profile": "gpu",
        "output": "file:///out/",
    }
    meta = {"name": "a", "namespace": "n", "uid": UID}
    manifest = rayjob(
        FineTuneRun.model_validate({"metadata": meta, "spec": spec}), KEY.name, PROFILE, job_input, workers=1
    )
    found = ObjectStore()
    found.objects["FineTuneRun", "a"] = {"metadata": dict(meta)}
    found.objects["RayJob", KEY.name] = {
        **manifest,
        "metadata": {**manifest["metadata"], "uid": "uid-job"},
        "status": status,
    }
    return found


async def gone(cluster, within_s=10.0):
    until = time.monotonic() + within_s
    while ("RayJob", KEY.name) in cluster.objects:
        assert time.monotonic() < until, "the RayJob stays"
        await asyncio.sleep(0.01)


async def test_a_running_training_is_asked_to_save_and_deleted_when_its_grace_is_over(job, tmp_path):
    cluster = cluster_with(job)
    backend = KubeRayBackend(cluster, stop_grace_s=0.5)
    began = time.monotonic()
    await backend.stop(KEY, PROFILE)
    assert (tmp_path / "attempts" / "1" / "stop").exists()
    await backend.stop(KEY, PROFILE)
    assert cluster.deleted == []
    await gone(cluster)
    assert time.monotonic() - began >= 0.5
    await backend.stop(KEY, PROFILE)
    assert cluster.deleted == [KEY.name]


async def test_a_training_that_has_nobody_to_save_for_is_deleted_at_once(job, tmp_path):
    cluster = cluster_with(job)
    cluster.objects["FineTuneRun", "a"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await KubeRayBackend(cluster).stop(KEY, PROFILE)
    assert cluster.deleted == [KEY.name]
    assert not (tmp_path / "attempts").exists()


@pytest.mark.parametrize("status", [{}, {"jobDeploymentStatus": "Suspended"}, {"jobDeploymentStatus": "Complete"}])
async def test_what_does_not_train_yet_or_any_more_is_deleted_at_once(job, status):
    cluster = cluster_with(job, status)
    await KubeRayBackend(cluster).stop(KEY, PROFILE)
    assert cluster.deleted == [KEY.name]


async def test_another_worker_has_nothing_to_save(job, tmp_path):
    label = LabelJob(
        run=job.run, attempt=1, output_uri=job.output_uri, source_uri="file:///traces/", dataset_uri="file:///d/"
    )
    cluster = cluster_with(label)
    await KubeRayBackend(cluster).stop(KEY, PROFILE)
    assert cluster.deleted == [KEY.name]


async def test_a_training_that_cannot_be_asked_is_deleted_at_once(job, tmp_path):
    (tmp_path / "attempts").write_text("in the way")
    cluster = cluster_with(job)
    await KubeRayBackend(cluster).stop(KEY, PROFILE)
    assert cluster.deleted == [KEY.name]


def test_ray_waits_for_a_stopped_driver_unless_the_profile_says_otherwise(job):
    """Ray's job supervisor has the job's runtime environment; without the variable it kills after 3 s."""
    profile = Profile(name="r", backend=Backend.RAY, address="http://x")
    variables = submission(KEY, profile, job)["runtime_env"]["env_vars"]
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(STOP_WAIT_S) == "60"
    other = Profile(name="r", backend=Backend.RAY, address="http://x", env={"RAY_JOB_STOP_WAIT_TIME_S": "5"})
    assert json.dumps(submission(KEY, other, job)).count("RAY_JOB_STOP_WAIT_TIME_S") == 1
    assert submission(KEY, other, job)["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "5"
