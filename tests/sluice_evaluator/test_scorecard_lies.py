"""A scorecard believes counts, not what a document states beside them."""

import pytest

from evaluation_factory import trace, write_traces
from sluice_api.contracts.evaluation import EvalReport
from sluice_api.contracts.scorecard import GateName, GateVerdict, ScorecardVerdict
from sluice_api.contracts.shadow import ShadowSummary
from sluice_evaluator.scorecard.card import evaluate, judge_evidence
from sluice_evaluator.scorecard.evidence import Evidence

DIGEST = "sha256:" + "a" * 64


def gate(card, name):
    return next(result for result in card.gates if result.name == name)


def summary(escalations, steps, stated):
    arm = {
        "variant": "candidate",
        "run_count": 400,
        "step_count": steps,
        "escalation_count": escalations,
        "escalation_rate": stated,
    }
    return ShadowSummary.model_validate({"variants": {"candidate": arm}, "candidate_digest": DIGEST})


@pytest.mark.parametrize(
    ("escalations", "steps", "stated", "verdict", "shown"),
    [
        (900, 1000, 0.0, GateVerdict.FAIL, 0.9),
        (2502, 50000, 0.05, GateVerdict.FAIL, 0.05),
        (2500, 50000, 0.05, GateVerdict.PASS, 0.05),
        (1, 62, 0.0161, GateVerdict.PASS, 0.0161),
        (70, 62, 0.0, GateVerdict.FAIL, 70 / 62),
    ],
    ids=[
        "a rate that contradicts its counts",
        "a rate that passes by rounding",
        "the boundary itself",
        "a rate as the seed writes it",
        "more escalations than steps",
    ],
)
def test_escalation_gate_compares_the_counts(escalations, steps, stated, verdict, shown):
    card = judge_evidence(Evidence(shadow_summary=summary(escalations, steps, stated)), candidate_digest=DIGEST)
    result = gate(card, GateName.ESCALATION_RATE_MAX)
    assert (result.verdict, result.value) == (verdict, pytest.approx(shown))


@pytest.mark.parametrize("rate", [1.5, -0.1, float("nan")])
def test_impossible_pass_rate_fails(rate):
    report = EvalReport.model_construct(
        name="r", task_count=400, pass_count=400, fail_count=0, error_count=0, pass_rate=rate, results=[], metrics={}
    )
    result = gate(judge_evidence(Evidence(eval_report=report)), GateName.TASK_PASS_RATE)
    assert (result.verdict, result.passed) == (GateVerdict.FAIL, False)


def test_labels_of_nobody_in_particular_pass_nothing_for_a_named_candidate():
    evidence = Evidence(label_reasons={"gate_verify_pass": 1000})
    required = [GateName.LOOP_RATE_MAX, GateName.FORBIDDEN_REGION_AVOIDANCE]
    bound = judge_evidence(evidence, required_gates=required, candidate_digest=DIGEST)
    assert bound.verdict == ScorecardVerdict.INCONCLUSIVE
    assert gate(bound, GateName.LOOP_RATE_MAX).verdict == GateVerdict.MISSING
    assert bound.metadata["label_step_count"] == 1000
    by_hand = judge_evidence(evidence, required_gates=required)
    assert gate(by_hand, GateName.LOOP_RATE_MAX).verdict == GateVerdict.PASS


def test_labels_that_the_ladder_does_not_know_may_fail_and_never_pass():
    known = judge_evidence(Evidence(label_reasons={"gate_verify_pass": 999, "escalation": 1}))
    assert gate(known, GateName.LOOP_RATE_MAX).verdict == GateVerdict.PASS
    odd = gate(judge_evidence(Evidence(label_reasons={"gate_verify_pass": 999, "fine": 1})), GateName.LOOP_RATE_MAX)
    assert (odd.verdict, odd.value) == (GateVerdict.MISSING, 0.001)
    assert "1 of 1000 steps have a label that the ladder does not know" in odd.detail
    worse = judge_evidence(Evidence(label_reasons={"gate_verify_pass": 500, "fine": 500}))
    assert gate(worse, GateName.LOOP_RATE_MAX).verdict == GateVerdict.FAIL


def test_a_damaged_folder_of_labels_may_fail_and_never_pass(tmp_path):
    write_traces(tmp_path, [trace("good", "candidate", steps=100)])
    assert gate(evaluate(labelled_traces_dir=tmp_path), GateName.LOOP_RATE_MAX).verdict == GateVerdict.PASS
    (tmp_path / "acme" / "torn.json").write_text('{"steps": [')
    card = evaluate(labelled_traces_dir=tmp_path, required_gates=["loop_rate_max"])
    for name in (GateName.LOOP_RATE_MAX, GateName.FORBIDDEN_REGION_AVOIDANCE):
        assert gate(card, name).verdict == GateVerdict.MISSING
        assert "1 of 2 files are no trace, the first: acme/torn.json" in gate(card, name).detail
    assert card.verdict == ScorecardVerdict.INCONCLUSIVE
    assert "torn.json" in card.metadata["label_doubt"]
    write_traces(tmp_path, [trace("bad", "candidate", steps=100, escalations=50)])
    assert gate(evaluate(labelled_traces_dir=tmp_path), GateName.LOOP_RATE_MAX).verdict == GateVerdict.FAIL
