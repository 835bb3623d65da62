"""A scorecard believes counts, not what a document states beside them."""

import pytest

from sluice_api.contracts.evaluation import EvalReport
from sluice_api.contracts.scorecard import GateName, GateVerdict, ScorecardVerdict
from sluice_api.contracts.shadow import ShadowSummary
from sluice_evaluator.scorecard.card import judge_evidence
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
