"""Lifecycles of a FineTuneRun, failures included."""

import pytest

from decisionworld import DecisionWorld, digest
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.jobs import FailureClass, ProbeResult, Result, StopReason, TrainOutput
from sluice_operator.decisions.base import Backend, JobState, Profile, SetFinalizer, StopJob, SubmitJob
from sluice_operator.decisions.finetunerun import worker_memory

KIND, NAME = "FineTuneRun", "agent-a1"
DATA, BASE, ADAPTER = digest(1), digest(2), digest(3)
SPEC = {
    "datasetRef": {"name": "agent"},
    "baseModel": {"uri": "file:///models/base"},
    "output": "s3://sluice/agent/",
    "workers": 2,
    "deadlines": {"queued": "1h", "running": "2h", "hang": "10m"},
}
DATASET = {"source": {"uri": "s3://traces/"}, "output": {"uri": "s3://sluice/datasets/"}}


def version(value: str = DATA) -> dict:
    return {
        "digest": value,
        "uri": f"s3://sluice/datasets/{value[7:]}/",
        "rows": 100,
        "createdAt": "2026-11-21T11:00:00Z",
    }


@pytest.fixture
def world() -> DecisionWorld:
    world = DecisionWorld()
    world.create("TraceDataset", "agent", DATASET)
    world.set_status("TraceDataset", "agent", latest=version(), versions=[version()])
    world.create(KIND, NAME, SPEC)
    return world


def output(base: str | None = BASE) -> TrainOutput:
    return TrainOutput(
        adapter=ArtifactRef(uri=f"s3://sluice/agent/adapters/{ADAPTER[7:]}/", digest=ADAPTER),
        base_model=ModelRef(uri="file:///models/base", digest=base),
        rank=8,
        steps=100,
        final_loss=0.31,
    )


def running(world: DecisionWorld) -> str:
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.job(job, JobState.RUNNING)
    world.settle(KIND, NAME)
    return job


def test_a_replacement_that_waits_is_told_and_changes_nothing(world):
    job = running(world)
    world.job(job, JobState.RUNNING, message="pod w cannot be scheduled: 0/3 nodes")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Running", "Running")
    assert "pod w cannot be scheduled: 0/3 nodes" in status["message"]
    assert len(world.submissions) == 1


def test_the_whole_way(world):
    seen = []

    def look() -> None:
        world.settle(KIND, NAME)
        status = world.status(KIND, NAME)
        seen.append((status["phase"], status["reason"], status["attemptsTotal"]))

    look()
    job = world.newest_job(KIND, NAME)
    train = world.inputs[job]
    assert (train.dataset.digest, train.workers, train.attempt) == (DATA, 2, 1)
    assert train.base_model.digest is None
    assert train.checkpoint_uri == "s3://sluice/agent/runs/shop/uid-2/checkpoints/"
    assert train.output_uri == "s3://sluice/agent/runs/shop/uid-2/attempts/1/"
    look()
    world.job(job, JobState.RUNNING)
    look()
    world.pass_time(minutes=1)
    world.report(job, stage="training", step=50, of=100, metrics={"loss": 0.5}, inputs={"baseModel": BASE})
    look()
    assert "training, 50 of 100 steps, loss 0.5000" in world.status(KIND, NAME)["message"]
    assert world.status(KIND, NAME)["inputs"]["baseModel"] == BASE
    world.succeed(job, output())
    look()
    assert seen == [
        ("Queued", "Queued", 1),
        ("Queued", "Queued", 1),
        ("Running", "Running", 1),
        ("Running", "Running", 1),
        ("Succeeded", "Succeeded", 1),
    ]
    assert world.status(KIND, NAME)["adapter"]["digest"] == ADAPTER
    assert world.condition(KIND, NAME, "Ready") == ("True", "Succeeded")
    assert world.condition(KIND, NAME, "Succeeded") == ("True", "Succeeded")
    assert world.submissions == [job]
    world.pass_time(days=30)
    assert not world.decision(KIND, NAME).actions


def test_phases_and_probes_reach_the_job_and_why_it_ended_reaches_the_status(world):
    phases = [{"until": 250, "train": ["attention", "norm"], "learningRate": 2e-5}, {"freeze": ["layers:0-3"]}]
    world.edit(KIND, NAME, phases=phases, probes={"suite": "smoke-8", "stopRules": ["passRateStalls"]})
    job = running(world)
    train = world.inputs[job]
    assert [(phase.until, phase.train, phase.freeze) for phase in train.phases] == [
        (250, ["attention", "norm"], []),
        (None, [], ["layers:0-3"]),
    ]
    assert (train.probes.suite_uri, train.probes.every, train.probes.patience_steps) == ("builtin:smoke-8", 250, 750)
    probe = ProbeResult(step=750, tasks=8, judged=8, passed=1, pass_rate=0.125, syntax_rate=0.875)
    found = output().model_copy(update={"stop_reason": StopReason.PASS_RATE_STALLS, "probes": [probe]})
    world.succeed(job, found)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["stopReason"]) == ("Succeeded", "PassRateStalls")
    assert status["lastProbe"]["passRate"] == 0.125
    assert "ended early: PassRateStalls" in status["message"]


def test_the_intent_is_written_before_the_job_is_submitted(world):
    world.step(KIND, NAME)
    decision = world.step(KIND, NAME)
    assert not decision.actions
    assert decision.requeue_after is not None and not decision.requeue_after
    assert decision.status["attempts"][0]["job"]
    assert not world.submissions


@pytest.mark.parametrize("writes", range(4))
def test_dying_between_writes_makes_no_second_job(world, writes):
    for _ in range(6):
        world.step(KIND, NAME, die_before=writes)
        world.step(KIND, NAME)
    assert len(world.submissions) == 1
    assert world.status(KIND, NAME)["attemptsTotal"] == 1


def test_waits_for_a_dataset_and_takes_it_once_there(world):
    world.set_status("TraceDataset", "agent", latest=None, phase="Running", message="building")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "DatasetNotReady"
    assert world.condition(KIND, NAME, "Reconciling") == ("True", "DatasetNotReady")
    world.set_status("TraceDataset", "agent", latest=version())
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1


@pytest.mark.parametrize(
    ("edit", "reason", "words"),
    [
        ({"datasetRef": {"name": "nope"}}, "ReferenceNotFound", "TraceDataset/nope does not exist"),
        ({"parentRef": {"name": "nope"}}, "ReferenceNotFound", "FineTuneRun/nope does not exist"),
        ({"profile": "moon"}, "ProfileNotFound", "no profile 'moon'"),
        ({"workers": 9}, "ProfileCeiling", "spec.workers is 9"),
        ({"method": "dpo"}, "DatasetFormatMismatch", "dpo reads preference rows"),
        ({"baseModel": {"uri": "s3://m/", "revision": "main"}}, "InvalidSpec", "spec.baseModel.revision"),
        ({"deadlines": {"queued": "99999999d"}}, "InvalidSpec", "spec.deadlines.queued"),
        ({"phases": [{"until": 9}, {"until": 5}]}, "InvalidSpec", "spec.phases: until must increase"),
        ({"phases": [{}, {"until": 5}]}, "InvalidSpec", "spec.phases[0].until is missing"),
        (
            {"probes": {"suite": "smoke-8", "gates": [{"atStep": 5, "passRate": 0.4}], "extendTo": 10}},
            "InvalidSpec",
            "spec.probes.extendTo 10 needs a smaller spec.optimizer.maxSteps",
        ),
    ],
)
def test_a_bad_spec_stalls_and_recovers_when_corrected(world, edit, reason, words):
    world.edit(KIND, NAME, **edit)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Stalled", reason)
    assert words in status["message"]
    assert world.condition(KIND, NAME, "Stalled") == ("True", reason)
    assert not world.submissions
    world.edit(KIND, NAME, **{name: SPEC.get(name) for name in edit})
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1
    assert world.condition(KIND, NAME, "Stalled")[0] == "False"


def test_an_exact_version_is_taken_even_when_the_history_forgot_it(world):
    old = digest(7)
    world.edit(KIND, NAME, datasetRef={"name": "agent", "digest": old})
    world.settle(KIND, NAME)
    assert world.inputs[world.newest_job(KIND, NAME)].dataset == ArtifactRef(
        uri=f"s3://sluice/datasets/{old[7:]}/", digest=old
    )


def test_lost_nodes_are_retried_with_doubling_delay_until_the_limit(world):
    delays = []
    for _ in range(3):
        job = running(world)
        world.job(job, JobState.FAILED, message="The head node died")
        world.settle(KIND, NAME)
        status = world.status(KIND, NAME)
        assert status["attempts"][-1]["failure"]["class"] == "NodeLost"
        if status["phase"] == "Retrying":
            delays.append(world.decision(KIND, NAME).requeue_after.total_seconds())
            world.pass_time(seconds=delays[-1])
    assert delays == [10.0, 20.0]
    assert status["reason"] == "BackoffLimitExceeded"
    assert "3 of 3 attempts failed" in status["message"]
    assert len(world.submissions) == 3


def test_every_attempt_resumes_with_the_pinned_inputs(world):
    job = running(world)
    world.report(job, stage="training", step=10, of=100, inputs={"baseModel": BASE, "dataset": DATA})
    world.settle(KIND, NAME)
    world.set_status("TraceDataset", "agent", latest=version(digest(8)))
    world.jobs.pop(job)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["attempts"][0]["failure"]["class"] == "NodeLost"
    world.pass_time(minutes=1)
    second = running(world)
    train = world.inputs[second]
    assert (train.dataset.digest, train.base_model.digest) == (DATA, BASE)
    assert train.checkpoint_uri == world.inputs[job].checkpoint_uri
    world.report(second, stage="training", step=11, of=100, resumed_from_step=10)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["resumedFromStep"] == 10


def test_preemptions_do_not_count(world):
    for _ in range(6):
        job = running(world)
        world.fail(job, FailureClass.PREEMPTED, "SIGTERM")
        world.settle(KIND, NAME)
        assert world.status(KIND, NAME)["phase"] == "Retrying"
        world.pass_time(minutes=5)
    job = running(world)
    world.succeed(job, output())
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Succeeded"


def test_bad_data_stalls_and_a_corrected_spec_starts_again(world):
    job = running(world)
    world.fail(job, FailureClass.DATA, "row 3: label negative")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Stalled", "DataRejected")
    assert "row 3" in status["message"]
    world.pass_time(hours=5)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1
    fixed = digest(9)
    world.set_status("TraceDataset", "agent", latest=version(fixed))
    world.edit(KIND, NAME, seed=1)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 2
    assert world.inputs[world.newest_job(KIND, NAME)].dataset.digest == fixed


def test_out_of_memory_with_pinned_inputs_is_final_until_the_retry_annotation(world):
    job = running(world)
    world.report(job, stage="loading", inputs={"baseModel": BASE})
    world.settle(KIND, NAME)
    world.job(job, JobState.FAILED, reason="OOMKilled", message="pod x")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Failed", "OutOfMemory")
    assert "create a new FineTuneRun" in status["message"]
    assert world.condition(KIND, NAME, "Succeeded") == ("False", "OutOfMemory")
    world.annotate(KIND, NAME, retry="1")
    world.settle(KIND, NAME)
    assert len(world.submissions) == 2
    assert world.status(KIND, NAME)["acknowledged"] == {"retry": "1"}


def test_an_unreachable_backend_proves_nothing(world):
    running(world)
    world.backend_down = "connection refused"
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Running", "BackendUnreachable")
    assert "http://127.0.0.1:8265" in status["message"]
    assert "connection refused" in status["message"]
    world.pass_time(minutes=90)
    world.settle(KIND, NAME)
    assert "endedAt" not in world.status(KIND, NAME)["attempts"][0]
    world.pass_time(minutes=30)
    world.settle(KIND, NAME)
    message = world.status(KIND, NAME)["message"]
    assert "ran for more than 2h" in message
    assert "does not answer (connection refused): it is given up 20s after the deadline" in message
    world.pass_time(minutes=1)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["attempts"][0]["failure"]["reason"] == "DeadlineExceeded"


def test_unreadable_storage_does_not_fail_a_job_that_ended(world):
    job = running(world)
    world.storage_problem = "403 from s3://sluice"
    world.job(job, JobState.SUCCEEDED)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "StorageUnavailable"
    world.storage_problem = ""
    world.succeed(job, output())
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Succeeded"


def test_a_hang_is_stopped_and_retried(world):
    job = running(world)
    world.report(job, stage="training", step=1, of=100)
    world.settle(KIND, NAME)
    world.pass_time(minutes=9)
    assert not world.settle(KIND, NAME).actions
    world.pass_time(minutes=2)
    world.settle(KIND, NAME)
    assert StopJob(name=job, profile=world.profiles["cpu"]) in world.log
    failure = world.status(KIND, NAME)["attempts"][0]["failure"]
    assert failure["class"] == "Hang"
    assert "training, 1 of 100" in failure["message"]


def test_a_queue_without_end_is_given_up(world):
    world.settle(KIND, NAME)
    world.pass_time(minutes=61)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["attempts"][0]["failure"]["reason"] == "QueueDeadlineExceeded"


@pytest.mark.parametrize(("uid", "attempt"), [("somebody", 1), ("uid-2", 7)])
def test_a_foreign_result_does_not_count(world, uid, attempt):
    job = running(world)
    world.succeed(job, output())
    mine: Result = world.results[job]
    world.results[job] = mine.model_copy(update={"run": mine.run.model_copy(update={"uid": uid}), "attempt": attempt})
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["attempts"][0]["failure"]["reason"] == "ResultMismatch"
    assert "adapter" not in world.status(KIND, NAME)


@pytest.mark.parametrize("base", [None, digest(6)])
def test_a_result_over_another_base_is_refused(world, base):
    job = running(world)
    world.report(job, stage="loading", inputs={"baseModel": BASE})
    world.settle(KIND, NAME)
    world.succeed(job, output(base))
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "ResultMismatch"
    assert world.status(KIND, NAME)["phase"] == "Failed"


def test_suspending_stops_and_resuming_is_a_new_attempt(world):
    job = running(world)
    world.edit(KIND, NAME, suspend=True)
    world.settle(KIND, NAME)
    assert world.jobs[job].state is JobState.STOPPED
    assert world.status(KIND, NAME)["phase"] == "Suspended"
    assert world.condition(KIND, NAME, "Stalled")[0] == "False"
    world.edit(KIND, NAME, suspend=False)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 2
    assert world.inputs[world.submissions[1]].checkpoint_uri == world.inputs[job].checkpoint_uri


def test_a_result_that_arrives_while_suspending_counts(world):
    job = running(world)
    world.succeed(job, output())
    world.edit(KIND, NAME, suspend=True)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Succeeded"


def test_a_correction_before_the_pin_replaces_the_job(world):
    job = running(world)
    world.edit(KIND, NAME, seed=5)
    world.settle(KIND, NAME)
    assert world.jobs[job].state is JobState.STOPPED
    assert world.inputs[world.newest_job(KIND, NAME)].seed == 5
    assert len(world.submissions) == 2


def test_deletion_stops_the_job_first(world):
    job = running(world)
    world.delete(KIND, NAME)
    assert not world.step(KIND, NAME).actions
    assert world.step(KIND, NAME).actions == (StopJob(name=job, profile=world.profiles["cpu"]),)
    assert (KIND, NAME) in world.objects
    world.step(KIND, NAME)
    assert (KIND, NAME) not in world.objects
    assert world.jobs[job].state is JobState.STOPPED
    assert world.log[-1] == SetFinalizer(present=False)


def test_deletion_never_waits_for_ever(world):
    running(world)
    world.backend_down = "gone"
    world.delete(KIND, NAME)
    world.pass_time(hours=3)
    for _ in range(2):
        world.step(KIND, NAME)
        assert (KIND, NAME) in world.objects
    world.pass_time(seconds=21)
    world.step(KIND, NAME)
    assert (KIND, NAME) not in world.objects
    assert world.events[-1].warning
    assert "left behind" in world.events[-1].message


def test_status_does_not_tick(world):
    job = running(world)
    for step in range(1, 100):
        world.pass_time(seconds=1)
        world.report(job, stage="training", step=step, of=100, metrics={"loss": 1 / step})
        world.step(KIND, NAME)
        if step % 5 == 1:
            shown = world.status(KIND, NAME)
        else:
            assert world.status(KIND, NAME) == shown
    assert shown["progress"]["step"] == 96


def test_a_parent_passes_on_its_adapter_and_base(world):
    world.create(KIND, "parent", SPEC)
    world.set_status(
        KIND,
        "parent",
        phase="Succeeded",
        inputs={"baseModel": BASE},
        adapter={"uri": "s3://p/", "digest": ADAPTER, "rank": 8, "finalLoss": 0.2},
    )
    world.edit(KIND, NAME, parentRef={"name": "parent"})
    world.settle(KIND, NAME)
    train = world.inputs[world.newest_job(KIND, NAME)]
    assert (train.parent.digest, train.base_model.digest) == (ADAPTER, BASE)
    world.create(KIND, "other", {**SPEC, "parentRef": {"name": "parent"}, "baseModel": {"uri": "s3://else/"}})
    world.settle(KIND, "other")
    assert world.status(KIND, "other")["reason"] == "ParentMismatch"


def test_a_gpu_profile_asks_for_gpus(world):
    world.profiles["a100"] = Profile(
        name="a100", backend=Backend.KUBERAY, image="x", accelerator="nvidia.com/gpu", max_workers=8
    )
    world.edit(KIND, NAME, profile="a100")
    world.settle(KIND, NAME)
    assert world.inputs[world.newest_job(KIND, NAME)].use_gpu


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"accelerator": "nvidia.com/gpu", "accelerator_memory": "80Gi", "resources": {"memory": "96Gi"}}, 80 * 2**30),
        ({"accelerator": "amd.com/gpu", "resources": {"memory": "96Gi"}}, None),
        ({"resources": {"memory": "1.5G"}}, 1_500_000_000),
        ({"resources": {"memory": "1000"}}, 1000),
        ({"resources": {"memory": ".5Ki"}}, 512),
        ({"resources": {"memory": "1.2.3Gi"}}, None),
        ({"resources": {"memory": "."}}, None),
        ({"resources": {"memory": "9" * 400}}, None),
        ({}, None),
    ],
)
def test_a_workers_memory_is_its_accelerators_or_its_own(fields, expected):
    assert worker_memory(Profile(name="p", backend=Backend.KUBERAY, **fields)) == expected


def test_the_same_facts_give_the_same_decision(world):
    running(world)
    first, second = world.decision(KIND, NAME), world.decision(KIND, NAME)
    assert first == second


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"minWorkers": 3}, "spec.minWorkers is 3, spec.workers 2", id="bounds"),
        pytest.param({"workers": 1, "strategy": "fsdp"}, "spec.strategy fsdp", id="nobody to share with"),
        pytest.param({"minWorkers": 1, "strategy": "fsdp"}, "spec.minWorkers is 1", id="may start with nobody"),
        pytest.param(
            {"strategy": "fsdp", "probes": {"suite": "smoke-8"}},
            "spec.strategy fsdp cannot have spec.probes",
            id="probes",
        ),
    ],
)
def test_workers_and_strategy_that_do_not_fit_are_named(world, change, says):
    world.edit(KIND, NAME, **change)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["reason"] == "InvalidSpec"
    assert says in status["message"]


def test_a_profile_of_one_pod_refuses_several_workers(world):
    world.profiles["cpu"] = Profile(name="cpu", backend=Backend.JOB, image="sluice", max_workers=4)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["reason"] == "ProfileCeiling"
    assert "spec.workers is 2, profile 'cpu' starts one pod (backend job)" in status["message"]


def test_what_the_profile_promises_reaches_the_worker(world):
    world.profiles["cpu"] = Profile(
        name="cpu", backend=Backend.RAY, address="http://ray:8265", max_workers=4, accelerator="amd.com/gpu",
        platform="rocm", device="MI300X", accelerator_memory="192Gi",
    )  # fmt: skip
    job = world.inputs[running(world)]
    assert (job.use_gpu, job.platform, job.device) == (True, "rocm", "MI300X")
    assert job.memory_bytes == 192 * 2**30


def test_an_elastic_run_asks_for_fewer_workers_where_nodes_are_lacking_and_not_below_its_least(world):
    world.create(KIND, "elastic", SPEC | {"workers": 4, "minWorkers": 2, "retry": {"maxAttempts": 9}})
    asked = []
    for fate in (FailureClass.PREEMPTED, FailureClass.NODE_LOST, FailureClass.NODE_LOST, FailureClass.STORAGE, None):
        world.settle(KIND, "elastic")
        job = world.newest_job(KIND, "elastic")
        asked.append(next(a.workers for a in world.log if isinstance(a, SubmitJob) and a.name == job))
        assert (world.inputs[job].workers, world.inputs[job].min_workers) == (4, 2)
        if fate is not None:
            world.job(job, JobState.RUNNING)
            world.settle(KIND, "elastic")
            world.fail(job, fate, "gone")
            world.settle(KIND, "elastic")
            world.pass_time(minutes=6)
    assert asked == [4, 2, 2, 2, 4], "a failure for another reason ends the row"


def test_a_status_tells_who_trained(world):
    job = running(world)
    result = output().model_copy(update={"strategy": "fsdp", "workers": 2})
    world.succeed(job, result)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["strategy"], status["trainedBy"]) == ("fsdp", 2)


RULES = {
    FailureClass.PREEMPTED: ("again", 0),
    FailureClass.NODE_LOST: ("again", 1),
    FailureClass.HANG: ("again", 1),
    FailureClass.STORAGE: ("again", 1),
    FailureClass.INFRASTRUCTURE: ("again", 1),
    FailureClass.UNKNOWN: ("again", 1),
    FailureClass.OUT_OF_MEMORY: ("OutOfMemory", 1),
    FailureClass.DATA: ("DataRejected", 1),
    FailureClass.USER_ERROR: ("SpecRejected", 1),
}
"""What follows a failure of each class, another attempt or a stalled run with this reason; and whether it counts."""


@pytest.mark.parametrize("cls", FailureClass)
def test_each_failure_class_has_its_rule(world, cls):
    after, counts = RULES[cls]
    world.fail(running(world), cls, "what happened: what to do")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["attempts"][0]["failure"]["class"] == cls
    assert "what happened: what to do" in status["message"]
    if after != "again":
        assert (status["phase"], status["reason"]) == ("Stalled", after)
    elif counts:
        assert "(1 of 3 that count)" in status["message"]
    else:
        assert "(0 of 3 that count)" in status["message"]
    world.pass_time(minutes=6)
    world.settle(KIND, NAME)
    assert len(world.submissions) == (2 if after == "again" else 1)
