"""Lifecycles of an EvalRun: targets, pins, results that must not be believed."""

import pytest

from decisionworld import DecisionWorld, channel, digest
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import EvalComparison, EvalOutput, EvalSummary, FailureClass
from sluice_api.contracts.suites import BUILTIN_SUITES
from sluice_operator.decisions.base import Backend, JobState, Profile, TokenSecret

KIND, NAME = "EvalRun", "agent-e1"
CANDIDATE, STABLE, SUITE = digest("ca"), digest("5"), digest("5a1")
URI, ROOT = "s3://suites/checkout.json", "s3://sluice/agent/"
SPEC = {
    "candidate": {"fineTuneRunRef": {"name": "a1"}},
    "baseline": {"channel": "stable"},
    "channels": ROOT,
    "suite": {"uri": URI},
    "output": ROOT,
}


@pytest.fixture
def world() -> DecisionWorld:
    world = DecisionWorld()
    world.suites[URI] = SUITE
    world.channels[ROOT, "stable"] = channel("stable", STABLE)
    spec = {"datasetRef": {"name": "d"}, "baseModel": {"uri": "file:///models/base"}, "output": ROOT}
    world.create("FineTuneRun", "a1", spec)
    adapter = {"uri": f"{ROOT}adapters/x/", "digest": CANDIDATE, "rank": 8, "finalLoss": 0.3}
    world.set_status("FineTuneRun", "a1", phase="Succeeded", adapter=adapter, inputs={"baseModel": digest("b")})
    world.create(KIND, NAME, SPEC)
    return world


def output(candidate: str = CANDIDATE, *, comparison: bool = True, **other) -> EvalOutput:
    ref = ArtifactRef(uri=f"{ROOT}reports/r.json", digest=digest("4e"))
    summary = EvalSummary(tasks=164, passed=101, failed=60, errored=3, pass_rate=0.627, interval=(0.55, 0.7))
    compared = EvalComparison(
        common=160,
        wins=21,
        losses=4,
        win_rate=0.84,
        p_value=0.0009,
        minimum_detectable_effect=0.07,
        interval=(0.04, 0.17),
        verdict=other.pop("verdict", "Better"),
    )
    return EvalOutput(
        report=ref,
        baseline_report=other.pop("baseline_report", ref),
        compare_report=ref if comparison else None,
        summary=summary,
        baseline_summary=summary,
        comparison=compared if comparison else None,
        candidate_digest=candidate,
        **{"baseline_digest": STABLE, "suite_digest": SUITE, **other},
    )


def submitted(world: DecisionWorld) -> str:
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    world.job(job, JobState.RUNNING)
    world.settle(KIND, NAME)
    return job


def test_the_whole_way(world):
    job = submitted(world)
    asked = world.inputs[job]
    assert (asked.candidate.digest, asked.candidate.adapter.uri) == (CANDIDATE, f"{ROOT}adapters/x/")
    assert asked.candidate.base_model.digest == digest("b")
    assert (asked.baseline.digest, asked.baseline.adapter) == (STABLE, None)
    assert (asked.suite_uri, asked.task_timeout_s, asked.concurrency) == (URI, 600.0, 16)
    inputs = {"candidate": CANDIDATE, "baseline": STABLE, "suite": SUITE}
    assert world.status(KIND, NAME)["inputs"] == inputs
    assert asked.suite_digest == SUITE
    world.succeed(job, output())
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["comparison"]["verdict"]) == ("Succeeded", "Better")
    assert status["message"] == (
        "101 of 161 judged tasks passed (62.7%), 3 errored; Better than the baseline: "
        "21 wins, 4 losses over 160 common tasks, p 0.0009"
    )
    world.pass_time(days=3)
    assert not world.decision(KIND, NAME).actions


@pytest.mark.parametrize(
    ("edit", "reason", "words"),
    [
        ({"candidate": {"fineTuneRunRef": {"name": "no"}}}, "ReferenceNotFound", "FineTuneRun/no does not exist"),
        ({"candidate": {}}, "InvalidSpec", "give exactly one of fineTuneRunRef, channel and endpoint, not 0"),
        ({"baseline": {}}, "InvalidSpec", "exactly one of fineTuneRunRef, channel, endpoint and report, not 0"),
        ({"candidate": {"channel": "stable", "endpoint": {"url": "http://x"}}}, "InvalidSpec", "not 2"),
        ({"channels": None}, "InvalidSpec", "spec.channels is needed"),
        ({"candidate": {"channel": "beta"}}, "InvalidSpec", "two channels"),
        ({"baseline": {"channel": "beta"}}, "ChannelNotFound", "'beta'"),
        ({"suite": {"uri": "s3://no/x.json"}}, "SuiteUnreadable", "no such suite"),
        ({"profile": "moon"}, "ProfileNotFound", "moon"),
        ({"deadline": "99999999d"}, "InvalidSpec", "spec.deadline"),
        ({"limits": {"taskTimeout": "99999999d"}}, "InvalidSpec", "spec.limits.taskTimeout"),
    ],
)
def test_a_bad_spec_stalls_and_recovers(world, edit, reason, words):
    world.edit(KIND, NAME, **edit)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["reason"] == reason
    assert words in status["message"]
    assert "suite" not in status["inputs"]
    world.edit(KIND, NAME, **{name: SPEC.get(name) for name in edit})
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1


def test_waits_for_its_candidate(world):
    world.set_status("FineTuneRun", "a1", adapter=None, phase="Running", message="step 5 of 10")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "CandidateNotReady"
    assert "step 5 of 10" in world.status(KIND, NAME)["message"]
    world.set_status("FineTuneRun", "a1", phase="Failed", reason="OutOfMemory")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "CandidateFailed"


TOKEN = TokenSecret(name="agent-token", keys=("token",))


def tokens(world, ref):
    """Name a token for the candidate's endpoint and for the agent."""
    endpoint = {"url": "http://candidate", "tokenSecretRef": ref, "digest": CANDIDATE}
    world.edit(KIND, NAME, candidate={"endpoint": endpoint}, agent={"url": "http://agent", "tokenSecretRef": ref})


@pytest.mark.parametrize(
    "profile",
    [
        Profile(name="cpu", backend=Backend.JOB, image="x", env_from=("sluice-worker",), token_secrets=(TOKEN,)),
        Profile(name="cpu", backend=Backend.KUBERAY, image="x", env_from=("sluice-worker",), token_secrets=(TOKEN,)),
        Profile(name="cpu", backend=Backend.RAY, address="http://ray:8265", token_secrets=(TOKEN,)),
    ],
    ids=lambda profile: profile.backend.value,
)
@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ({"name": "sluice-worker", "key": "AWS_SECRET_ACCESS_KEY"}, "tokenSecretRef.name: profile 'cpu' does not list"),
        ({"name": "agent-token", "key": "AWS_SECRET_ACCESS_KEY"}, "tokenSecretRef.key: profile 'cpu' does not list"),
    ],
    ids=["the storage's keys", "another key"],
)
def test_only_a_listed_token_can_be_sent(world, profile, ref, words):
    world.profiles["cpu"] = profile
    tokens(world, ref)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["reason"] == "TokenNotAllowed"
    assert f"spec.candidate.endpoint.{words}" in status["message"]
    assert "it lists agent-token/token" in status["message"]
    world.edit(KIND, NAME, candidate=SPEC["candidate"])
    world.settle(KIND, NAME)
    assert f"spec.agent.{words}" in world.status(KIND, NAME)["message"]
    assert not world.submissions


@pytest.mark.parametrize(
    ("backend", "variables"),
    [
        (Backend.JOB, ("SLUICE_CANDIDATE_TOKEN", "SLUICE_AGENT_TOKEN")),
        (Backend.KUBERAY, ("SLUICE_CANDIDATE_TOKEN", "SLUICE_AGENT_TOKEN")),
        (Backend.RAY, ("token", "token")),
    ],
)
def test_an_endpoint_and_an_agent_with_tokens(world, backend, variables):
    world.profiles["cpu"] = Profile(name="cpu", backend=backend, image="x", address="http://r", token_secrets=(TOKEN,))
    tokens(world, {"name": "agent-token"})
    asked = world.inputs[submitted(world)]
    assert (asked.candidate.endpoint_url, asked.agent_url) == ("http://candidate", "http://agent")
    assert (asked.candidate.token_env, asked.agent_token_env) == variables


def test_a_token_that_is_no_longer_listed_is_not_mounted(world):
    world.profiles["cpu"] = Profile(name="cpu", backend=Backend.JOB, image="x", token_secrets=(TOKEN,))
    tokens(world, {"name": "agent-token"})
    while not world.status(KIND, NAME).get("attempts"):
        world.step(KIND, NAME)
    world.profiles["cpu"] = Profile(name="cpu", backend=Backend.JOB, image="x")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "TokenNotAllowed"
    assert not world.submissions


@pytest.mark.parametrize("other", [STABLE, ""])
@pytest.mark.parametrize("what", ["candidate", "baseline", "suite"])
def test_a_report_about_something_else_is_refused(world, what, other):
    found = output(other) if what == "candidate" else output(**{f"{what}_digest": other.replace("5", "6")})
    world.succeed(submitted(world), found)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Failed", "ResultMismatch")
    assert f"the report is about {what}" in status["message"]
    assert "look for who changed" in status["message"]
    assert "report" not in status


def test_a_later_attempt_is_given_what_the_first_one_judged(world):
    first = submitted(world)
    world.fail(first, FailureClass.NODE_LOST, "the node is gone")
    world.settle(KIND, NAME)
    world.pass_time(minutes=1)
    second = submitted(world)
    assert second != first
    places = {world.inputs[job].cache_uri for job in (first, second)}
    uid = world.objects[KIND, NAME]["metadata"]["uid"]
    assert places == {f"{ROOT}runs/shop/{uid}/cache/"}
    assert world.inputs[first].output_uri != world.inputs[second].output_uri


@pytest.mark.parametrize("name", ["smoke-8", "json-calls", "unified-diff", "shell", "humaneval", "mbpp"])
def test_a_built_in_suite_is_pinned_without_being_read(world, name):
    world.edit(KIND, NAME, suite={"uri": f"builtin:{name}"})
    job = submitted(world)
    asked = world.inputs[job]
    assert (asked.suite_uri, asked.suite_digest) == (f"builtin:{name}", BUILTIN_SUITES[name])
    world.succeed(job, output(suite_digest=BUILTIN_SUITES[name]))
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Succeeded"


def test_a_suite_of_another_release_is_refused(world):
    world.edit(KIND, NAME, suite={"uri": "builtin:smoke-8"})
    world.succeed(submitted(world), output(suite_digest=BUILTIN_SUITES["shell"]))
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "ResultMismatch"


def test_a_finished_report_may_be_the_baseline(world):
    earlier = {"uri": f"{ROOT}reports/before.json", "digest": digest("be")}
    world.edit(KIND, NAME, baseline={"report": earlier})
    job = submitted(world)
    asked = world.inputs[job]
    assert (asked.baseline, asked.baseline_report.digest) == (None, digest("be"))
    assert world.status(KIND, NAME)["inputs"]["baselineReport"] == digest("be")
    another = ArtifactRef(uri=f"{ROOT}reports/other.json", digest=digest("0e"))
    world.succeed(job, output(baseline_report=another))
    world.settle(KIND, NAME)
    assert "the report is about baseline report" in world.status(KIND, NAME)["message"]


def test_an_undecided_comparison_says_what_it_could_have_shown(world):
    world.succeed(submitted(world), output(verdict="Inconclusive"))
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert status["comparison"]["interval"] == [0.04, 0.17]
    assert "Inconclusive against the baseline: 21 wins, 4 losses over 160 common tasks" in status["message"]
    assert "could show a difference of 7.0%, not less" in status["message"]


def test_a_result_without_the_comparison_is_refused(world):
    world.succeed(submitted(world), output(comparison=False))
    world.settle(KIND, NAME)
    assert "no comparison" in world.status(KIND, NAME)["message"]


def test_a_suite_that_changes_is_never_scored(world):
    job = submitted(world)
    world.suites[URI] = digest("51")
    world.succeed(job, output())
    world.settle(KIND, NAME)
    assert "the suite changed" in world.status(KIND, NAME)["message"]
    assert "report" not in world.status(KIND, NAME)


def test_a_retry_refuses_a_baseline_that_moved(world):
    world.fail(submitted(world), FailureClass.INFRASTRUCTURE, "3 of 10 tasks: connection refused by http://agent")
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Retrying"
    world.channels[ROOT, "stable"] = channel("stable", digest("6"))
    world.pass_time(minutes=1)
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "CandidateMismatch"
    world.channels[ROOT, "stable"] = channel("stable", STABLE)
    world.succeed(submitted(world), output())
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["phase"] == "Succeeded"


def test_inputs_that_move_before_the_submission_end_the_attempt_unsubmitted(world):
    world.step(KIND, NAME)
    world.step(KIND, NAME)
    world.channels[ROOT, "stable"] = channel("stable", digest("6"))
    world.settle(KIND, NAME)
    assert not world.submissions
    assert world.status(KIND, NAME)["reason"] == "CandidateMismatch"


def test_the_deadline_is_final(world):
    submitted(world)
    world.pass_time(hours=2, seconds=1)
    world.settle(KIND, NAME)
    world.pass_time(seconds=30)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
