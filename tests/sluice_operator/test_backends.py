"""Backends: how jobs of every kind are read, and a Jobs API that does not behave."""

import json

import pytest
from aiohttp import web

from sluice_api.contracts.base import RunRef
from sluice_api.contracts.jobs import JOB_INPUT_VARIABLE, FailureClass, LabelJob
from sluice_operator.backends import job as batch
from sluice_operator.backends import kuberay
from sluice_operator.backends.base import JobKey
from sluice_operator.backends.pods import pod_reason
from sluice_operator.backends.ray import RayBackend, submission
from sluice_operator.decisions.base import Backend, JobState, Profile
from sluice_operator.decisions.flight import classify
from sluice_operator.errors import BackendError, BackendUnreachableError, ForeignObjectError

KEY = JobKey(name="job-1", namespace="n", owner="uid-1")
JOB = LabelJob(
    run=RunRef(kind="TraceDataset", namespace="n", name="d", uid="uid-1"),
    attempt=2,
    output_uri="file:///out/",
    source_uri="file:///traces/",
    dataset_uri="file:///datasets/",
)


class JobsApi:
    """A Jobs API that remembers jobs and misbehaves on demand."""

    def __init__(self):
        self.jobs: dict[str, dict] = {}
        self.submissions = 0
        self.tokens: set[str] = set()
        self.lose_reply = False
        self.answer: int | None = None
        self.stopped: list[str] = []

    async def serve(self, request):
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.answer is not None:
            return web.Response(status=self.answer, text="Traceback\n  frames\nValueError: told to")
        name = request.match_info.get("name", "")
        if request.method == "GET":
            return web.json_response(self.jobs[name]) if name in self.jobs else web.Response(status=404)
        if request.path.endswith("/stop"):
            self.stopped.append(name)
            return web.json_response({"stopped": True})
        body = await request.json()
        self.submissions += 1
        self.jobs[body["submission_id"]] = {"status": "PENDING", "metadata": body["metadata"], "body": body}
        if self.lose_reply:
            request.transport.close()
        return web.json_response({"submission_id": body["submission_id"]})


@pytest.fixture
async def api():
    jobs = JobsApi()
    application = web.Application()
    application.router.add_route("*", "/api/jobs/", jobs.serve)
    application.router.add_route("*", "/api/jobs/{name}", jobs.serve)
    application.router.add_route("*", "/api/jobs/{name}/stop", jobs.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    jobs.profile = Profile(
        name="cpu",
        backend=Backend.RAY,
        address=f"http://127.0.0.1:{runner.addresses[0][1]}/",
        env={"A": "1"},
        entrypoint="run it",
    )
    yield jobs
    await runner.cleanup()


@pytest.fixture
async def ray():
    backend = RayBackend(environment={"RAY_AUTH_TOKEN": "hush-hush"})
    yield backend
    await backend.close()


async def submit(ray, api, key=KEY):
    await ray.submit(key, api.profile, JOB, workers=1, owner=None)


async def test_a_submission_carries_name_owner_and_input_but_no_token(ray, api):
    await submit(ray, api)
    body = api.jobs["job-1"]["body"]
    assert body["entrypoint"] == "run it worker label"
    assert body["runtime_env"]["env_vars"]["A"] == "1"
    assert LabelJob.model_validate_json(body["runtime_env"]["env_vars"][JOB_INPUT_VARIABLE]) == JOB
    assert body["metadata"]["sluice.dev/owner-uid"] == "uid-1"
    assert "hush-hush" not in json.dumps(body)
    assert api.tokens == {"Bearer hush-hush"}


async def test_a_repeated_submission_is_one_job(ray, api):
    await submit(ray, api)
    await submit(ray, api)
    assert api.submissions == 1


async def test_a_lost_reply_is_success_once_the_job_is_seen(ray, api):
    api.lose_reply = True
    await submit(ray, api)
    assert api.submissions == 1


async def test_a_strangers_job_is_neither_adopted_nor_stopped(ray, api):
    await submit(ray, api)
    stranger = JobKey(name="job-1", namespace="n", owner="uid-2")
    for attempt in (submit(ray, api, stranger), ray.status(stranger, api.profile), ray.stop(stranger, api.profile)):
        with pytest.raises(ForeignObjectError, match="not ours"):
            await attempt
    assert api.stopped == []


@pytest.mark.parametrize(
    ("status", "message", "state", "says"),
    [
        ("PENDING", "waiting for resources", JobState.PENDING, "waiting for resources"),
        ("RUNNING", "Job is currently running.", JobState.RUNNING, ""),
        ("SUCCEEDED", "Job finished successfully.", JobState.SUCCEEDED, "Job finished successfully."),
        ("STOPPED", "Job was intentionally stopped.", JobState.STOPPED, "Job was intentionally stopped."),
        (
            "FAILED",
            "Job entrypoint command failed with exit code 137, last available logs (truncated):\na trace's text",
            JobState.FAILED,
            "Job entrypoint command failed with exit code 137; its log: ray job logs job-1",
        ),
    ],
)
async def test_a_jobs_state_is_told_without_its_log(ray, api, status, message, state, says):
    api.jobs["job-1"] = {"status": status, "message": message, "metadata": {"sluice.dev/owner-uid": "uid-1"}}
    view = await ray.status(KEY, api.profile)
    assert (view.state, view.message) == (state, says)


async def test_an_absent_job_is_missing_and_stopping_it_is_success(ray, api):
    assert (await ray.status(KEY, api.profile)).state is JobState.MISSING
    await ray.stop(KEY, api.profile)
    assert api.stopped == []


async def test_only_a_live_job_is_stopped(ray, api):
    await submit(ray, api)
    await ray.stop(KEY, api.profile)
    assert api.stopped == ["job-1"]
    api.jobs["job-1"]["status"] = "SUCCEEDED"
    await ray.stop(KEY, api.profile)
    assert api.stopped == ["job-1"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [(401, "refuses the operator's token"), (403, "refuses the operator's token"), (500, "ValueError: told to")],
)
async def test_an_api_that_cannot_say_is_unknown(ray, api, answer, says):
    api.answer = answer
    view = await ray.status(KEY, api.profile)
    assert view.state is JobState.UNKNOWN
    assert says in view.message
    assert api.profile.address in view.message
    with pytest.raises(BackendUnreachableError):
        await submit(ray, api)


async def test_a_dead_address_says_what_to_do(ray):
    profile = Profile(name="cpu", backend=Backend.RAY, address="http://127.0.0.1:9")
    view = await ray.status(KEY, profile)
    assert view.state is JobState.UNKNOWN
    assert view.reason == "BackendUnreachable"
    assert "http://127.0.0.1:9 (profile cpu) does not answer" in view.message
    assert "check that the cluster runs" in view.message
    with pytest.raises(BackendError):
        await ray.submit(KEY, profile, JOB, workers=1, owner=None)


async def test_the_token_may_come_from_a_file_that_is_rotated(api, tmp_path):
    path = tmp_path / "token"
    backend = RayBackend(environment={"RAY_AUTH_TOKEN_PATH": str(path)})
    for token in ("one", "two"):
        path.write_text(token + "\n")
        await backend.status(KEY, api.profile)
    await backend.close()
    assert api.tokens == {"Bearer one", "Bearer two"}


def test_an_evaluation_takes_the_profiles_accelerator():
    gpu = Profile(name="a100", backend=Backend.RAY, address="http://x", accelerator="nvidia.com/gpu")
    assert submission(KEY, gpu, JOB)["entrypoint_num_gpus"] == 0
    assert submission(KEY, gpu, JOB.model_copy(update={"worker": "eval"}))["entrypoint_num_gpus"] == 1


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        pytest.param({}, JobState.PENDING, "", id="new"),
        pytest.param({"jobDeploymentStatus": "Initializing"}, JobState.PENDING, "", id="initializing"),
        pytest.param(
            {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, JobState.PENDING, "", id="queued in Ray"
        ),
        pytest.param({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, JobState.RUNNING, "", id="running"),
        pytest.param({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, JobState.SUCCEEDED, "", id="done"),
        pytest.param(
            {"jobDeploymentStatus": "Complete"}, JobState.FAILED, "NoJobStatus", id="complete, job never seen"
        ),
        pytest.param(
            {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"},
            JobState.FAILED,
            "AppFailed",
            id="failed",
        ),
        pytest.param(
            {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"},
            JobState.FAILED,
            "DeadlineExceeded",
            id="deadline while the last known job status is running",
        ),
        pytest.param({"jobDeploymentStatus": "ValidationFailed"}, JobState.FAILED, "ValidationFailed", id="refused"),
        pytest.param({"jobDeploymentStatus": "Suspended"}, JobState.PENDING, "Suspended", id="held back by Kueue"),
        pytest.param(
            {"jobDeploymentStatus": "Failed", "jobStatus": "SUCCEEDED"}, JobState.SUCCEEDED, "", id="Ray's word counts"
        ),
    ],
)
def test_a_rayjob_is_read(status, state, reason):
    view = kuberay.view_of("j", status)
    assert (view.state, view.reason) == (state, reason)


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ({}, JobState.PENDING, ""),
        ({"active": 1, "ready": 0}, JobState.PENDING, ""),
        ({"active": 1, "ready": 1}, JobState.RUNNING, ""),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, JobState.SUCCEEDED, ""),
        (
            {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
            JobState.FAILED,
            "BackoffLimitExceeded",
        ),
        ({"conditions": [{"type": "Failed", "status": "False"}], "ready": 1}, JobState.RUNNING, ""),
    ],
)
def test_a_batch_job_is_read(status, state, reason):
    view = batch.view_of("j", status)
    assert (view.state, view.reason) == (state, reason)


def pod(**status):
    return {"metadata": {"name": "p"}, "status": status}


def container(**state):
    return {"containerStatuses": [{"name": "c", "state": state}]}


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        pytest.param([], "", id="no pod"),
        pytest.param([pod(**container(running={}))], "", id="running"),
        pytest.param([pod(**container(waiting={"reason": "ContainerCreating"}))], "", id="creating is no news"),
        pytest.param(
            [pod(**container(waiting={"reason": "ImagePullBackOff", "message": "no such image"}))],
            "ImagePullBackOff",
            id="image",
        ),
        pytest.param(
            [pod(**container(terminated={"reason": "OOMKilled", "exitCode": 137}))], "OOMKilled", id="out of memory"
        ),
        pytest.param([pod(**container(terminated={"reason": "Completed", "exitCode": 0}))], "", id="completed"),
        pytest.param([pod(reason="Evicted", message="node low on memory")], "Evicted", id="evicted"),
        pytest.param(
            [
                pod(
                    conditions=[
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}
                    ]
                )
            ],
            "FailedScheduling",
            id="unschedulable",
        ),
    ],
)
def test_pods_tell_why_they_do_not_run(pods, reason):
    assert pod_reason(pods)[0] == reason


class RayJobAndPods:
    """A cluster with one RayJob and the pods of its Ray cluster."""

    def __init__(self, status, pods):
        self.status = status
        self.pods = pods

    async def get(self, resource, namespace, name):
        owner = {"uid": "uid-1", "kind": "FineTuneRun", "name": "r"}
        metadata = {"name": name, "namespace": namespace, "uid": "j-1", "ownerReferences": [owner]}
        return {"metadata": metadata, "status": {"rayClusterName": "ray-x", **self.status}}

    async def list(self, resource, namespace, *, labels):
        assert labels == "ray.io/cluster=ray-x"
        return self.pods


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
RESTARTED = pod(phase="Running", containerStatuses=[{"name": "c", "lastState": {"terminated": {"reason": "Error"}}}])
RESTARTED["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] = 1
APP_FAILED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 1",
}


@pytest.mark.parametrize(
    ("status", "pods", "state", "reason", "words"),
    [
        pytest.param(
            APP_FAILED,
            [RESTARTED, pod(**container(terminated={"reason": "OOMKilled", "exitCode": 137}))],
            JobState.FAILED,
            "OOMKilled",
            "OOMKilled (exit code 137); Job entrypoint command failed",
            id="a worker out of memory",
        ),
        pytest.param(APP_FAILED, [], JobState.FAILED, "AppFailed", "Job entrypoint", id="nothing to add"),
        pytest.param(
            {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"},
            [pod(**container(terminated={"reason": "OOMKilled", "exitCode": 137}))],
            JobState.FAILED,
            "DeadlineExceeded",
            "",
            id="a reason that says why",
        ),
        pytest.param(
            {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
            [RESTARTED, pod(phase="Pending", conditions=[UNSCHEDULABLE])],
            JobState.RUNNING,
            "",
            "pod p cannot be scheduled: 0/3 nodes",
            id="a replacement that finds no node",
        ),
        pytest.param(
            {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, [RESTARTED], JobState.RUNNING, "", "", id="runs"
        ),
    ],
)
async def test_a_rayjobs_pods_say_what_kuberay_does_not(status, pods, state, reason, words):
    backend = kuberay.KubeRayBackend(RayJobAndPods(status, pods))
    view = await backend.status(KEY, Profile(name="cpu", backend=Backend.KUBERAY, image="x"))
    assert (view.state, view.reason) == (state, reason)
    assert words in view.message
    assert bool(view.message) is bool(words)


async def test_a_job_out_of_memory_is_not_tried_again_as_it_is():
    pods = [pod(**container(terminated={"reason": "OOMKilled", "exitCode": 137}))]
    backend = kuberay.KubeRayBackend(RayJobAndPods(APP_FAILED, pods))
    view = await backend.status(KEY, Profile(name="cpu", backend=Backend.KUBERAY, image="x"))
    assert classify(view) is FailureClass.OUT_OF_MEMORY
