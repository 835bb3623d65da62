"""Lifecycles of a PromotionScorecard: evidence, verdicts, expiry; evidence about other weights gets no verdict."""

import pytest

from decisionworld import DecisionWorld, digest
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import ComparisonRecord, FailureClass, ScorecardOutput
from sluice_api.contracts.scorecard import Direction, GateName, GateResult, GateVerdict, ScorecardVerdict

KIND, NAME = "PromotionScorecard", "agent-offline"
CANDIDATE, OTHER, REPORT, COMPARE = digest("ca"), digest("07"), digest("4e"), digest("c0")
ROOT = "s3://sluice/agent/"
SPEC = {
    "candidate": {"digest": CANDIDATE},
    "evalRunRef": {"name": "e1"},
    "requiredGates": ["task_pass_rate", "task_pass_rate"],
    "thresholds": [{"name": "task_pass_rate", "value": 0.6, "author": "policy"}],
    "output": ROOT,
}


@pytest.fixture
def world() -> DecisionWorld:
    world = DecisionWorld()
    world.create(
        "EvalRun", "e1", {"candidate": {"channel": "x"}, "channels": ROOT, "suite": {"uri": ROOT}, "output": ROOT}
    )
    evaluated(world)
    world.create(KIND, NAME, SPEC)
    return world


def evaluated(world: DecisionWorld, candidate: str | None = CANDIDATE) -> None:
    world.objects["EvalRun", "e1"]["status"] = {
        "phase": "Succeeded",
        "inputs": {"candidate": candidate} if candidate else {},
        "report": {"uri": f"{ROOT}r.json", "digest": REPORT},
        "compareReport": {"uri": f"{ROOT}c.json", "digest": COMPARE},
    }


def output(verdict: ScorecardVerdict) -> ScorecardOutput:
    def gate(name: GateName, value: float, judged: GateVerdict) -> GateResult:
        side = Direction.MAX if name.endswith("max") else Direction.MIN
        return GateResult(
            name=name,
            value=value,
            threshold=0.55,
            direction=side,
            passed=True,
            n=100,
            interval=(0.4, 0.6),
            verdict=judged,
        )

    own = {ScorecardVerdict.PASS: GateVerdict.PASS, ScorecardVerdict.FAIL: GateVerdict.FAIL}
    return ScorecardOutput(
        scorecard=ArtifactRef(uri=f"{ROOT}s.json", digest=digest("5c")),
        history_uri=f"{ROOT}SCORECARD_HISTORY.jsonl",
        verdict=verdict,
        gates=[
            gate(GateName.TASK_PASS_RATE, 0.5, own.get(verdict, GateVerdict.INCONCLUSIVE)),
            gate(GateName.LOOP_RATE_MAX, 0.0, GateVerdict.MISSING),
        ],
    )


@pytest.mark.parametrize(
    ("verdict", "phase", "reason", "passed", "words"),
    [
        (ScorecardVerdict.PASS, "Passed", "GatesPassed", "True", "Pass: 1 of 2 gates passed; missing loop_rate_max"),
        (ScorecardVerdict.FAIL, "Refused", "GatesFailed", "False", "task_pass_rate 0.5 Fail (asked ≥ 0.55, n 100)"),
        (ScorecardVerdict.INCONCLUSIVE, "Inconclusive", "GatesInconclusive", "False", "0.5 Inconclusive"),
    ],
)
def test_the_whole_way_and_its_expiry(world, verdict, phase, reason, passed, words):
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    asked = world.inputs[job]
    assert (asked.candidate_digest, asked.eval_report.digest, asked.compare_report.digest) == (
        CANDIDATE,
        REPORT,
        COMPARE,
    )
    assert (asked.required_gates, asked.thresholds) == (["task_pass_rate"], {"task_pass_rate": 0.6})
    assert asked.now == "2026-11-21T12:00:00Z"
    assert asked.scorecard_uri == f"{ROOT}scorecards/shop-{CANDIDATE[7:19]}/"
    assert asked.history_uri == f"{ROOT}scorecards/shop-SCORECARD_HISTORY.jsonl"
    assert (asked.comparison_require, asked.comparison_alpha, asked.valid_for_s) == ("Better", 0.05, 86400.0)
    assert asked.threshold_authors == {"task_pass_rate": "policy"}
    world.pass_time(minutes=3)
    world.succeed(job, output(verdict))
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"], status["verdict"]) == (phase, reason, verdict.value)
    assert words in status["message"]
    assert (status["evaluatedAt"], status["expiresAt"]) == ("2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z")
    assert world.condition(KIND, NAME, "Passed") == (passed, reason)
    assert world.condition(KIND, NAME, "Ready")[0] == "True"
    assert world.decision(KIND, NAME).requeue_after.total_seconds() == 24 * 3600 - 180
    world.pass_time(hours=24)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["verdict"]) == ("Expired", verdict.value)
    assert world.condition(KIND, NAME, "Passed") == ("False", "Expired")


def test_the_comparison_is_shown_with_what_is_left_of_the_budget(world):
    world.edit(KIND, NAME, comparison={"require": "Better", "alpha": 0.1})
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    assert (world.inputs[job].comparison_require, world.inputs[job].comparison_alpha) == ("Better", 0.1)
    record = ComparisonRecord(verdict="Inconclusive", p_value=0.04, level=0.015, candidate=2, budget=0.1, spent=0.076)
    judged = output(ScorecardVerdict.INCONCLUSIVE).model_copy(update={"comparison": record})
    world.succeed(job, judged)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["verdict"]) == ("Inconclusive", "Inconclusive")
    assert (status["comparison"]["verdict"], status["comparison"]["candidate"]) == ("Inconclusive", 2)
    assert (
        "comparison with the champion Inconclusive (p 0.04 at level 0.015, candidate 2 of its budget, "
        "0.076 of 0.1 spent)"
    ) in status["message"]
    assert world.condition(KIND, NAME, "Passed")[0] == "False"


@pytest.mark.parametrize("needed", [True, False])
def test_a_comparison_that_is_asked_for_and_missing_is_told(world, needed):
    world.edit(KIND, NAME, comparison={} if needed else None)
    world.settle(KIND, NAME)
    job = world.newest_job(KIND, NAME)
    assert (world.inputs[job].comparison_needed, world.inputs[job].comparison_require) == (needed, "Better")
    world.succeed(job, output(ScorecardVerdict.INCONCLUSIVE))
    world.settle(KIND, NAME)
    told = "comparison with the champion missing: give spec.evalRunRef an EvalRun with a baseline"
    assert (told in world.status(KIND, NAME)["message"]) == needed


@pytest.mark.parametrize("judged", [OTHER, None])
def test_evidence_about_other_weights_gets_no_verdict(world, judged):
    evaluated(world, judged)
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Stalled", "CandidateMismatch")
    assert "verdict" not in status
    assert not world.submissions


def test_waits_for_the_evaluation_and_says_when_it_failed(world):
    world.objects["EvalRun", "e1"]["status"] = {"phase": "Running", "message": "3 of 9 tasks"}
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "EvalRunNotReady"
    assert "3 of 9 tasks" in world.status(KIND, NAME)["message"]
    world.objects["EvalRun", "e1"]["status"] = {"phase": "Failed", "reason": "DeadlineExceeded"}
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "EvalRunFailed"
    assert world.condition(KIND, NAME, "Stalled")[0] == "True"
    evaluated(world)
    world.settle(KIND, NAME)
    assert len(world.submissions) == 1


def test_a_missing_reference_stalls(world):
    del world.objects["EvalRun", "e1"]
    world.settle(KIND, NAME)
    assert world.status(KIND, NAME)["reason"] == "ReferenceNotFound"


def test_shadow_and_labelled_evidence_reach_the_worker(world):
    world.create("TraceDataset", "d", {"source": {"uri": ROOT}, "output": {"uri": ROOT}})
    shadow = {"rolloutRef": {"name": "r"}, "step": 2, "summaryUri": f"{ROOT}a.json", "summaryDigest": digest("e2")}
    world.create(KIND, "step", {**SPEC, "shadow": shadow, "labelledTraces": {"datasetRef": {"name": "d"}}})
    world.settle(KIND, "step")
    assert world.status(KIND, "step")["reason"] == "DatasetNotReady"
    version = {"uri": f"{ROOT}v/", "digest": digest("da"), "rows": 1, "createdAt": world.text()}
    world.set_status("TraceDataset", "d", latest=version)
    world.settle(KIND, "step")
    asked = world.inputs[world.newest_job(KIND, "step")]
    assert (asked.shadow_summary.digest, asked.labelled.digest) == (digest("e2"), digest("da"))


def test_a_candidate_by_run_is_pinned(world):
    spec = {"datasetRef": {"name": "d"}, "baseModel": {"uri": "file:///m"}, "output": ROOT}
    world.create("FineTuneRun", "a1", spec)
    world.create(KIND, "byrun", {"candidate": {"fineTuneRunRef": {"name": "a1"}}, "output": ROOT})
    world.settle(KIND, "byrun")
    assert world.status(KIND, "byrun")["reason"] == "CandidateNotReady"
    world.set_status("FineTuneRun", "a1", adapter={"uri": ROOT, "digest": CANDIDATE, "rank": 8, "finalLoss": 1.0})
    world.settle(KIND, "byrun")
    assert world.status(KIND, "byrun")["candidate"] == CANDIDATE


def test_a_worker_that_fails_on_the_data_is_final(world):
    world.settle(KIND, NAME)
    world.fail(world.newest_job(KIND, NAME), FailureClass.DATA, "report digest differs")
    world.settle(KIND, NAME)
    status = world.status(KIND, NAME)
    assert (status["phase"], status["reason"]) == ("Failed", "DataRejected")
    assert "create a new PromotionScorecard" in status["message"]
    assert "verdict" not in status
