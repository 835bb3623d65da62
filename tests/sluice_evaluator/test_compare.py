"""Comparisons: the seed's figures, the verdicts, and what is refused."""

import pytest

from evaluation_factory import report
from sluice_api.contracts.evaluation import CompareVerdict
from sluice_evaluator.compare import CompareConfig, compare, describe
from sluice_evaluator.errors import IncomparableError
from sluice_evaluator.scorecard import PromotionGate
from sluice_evaluator.statistics import mcnemar


def test_the_seed_figures() -> None:
    baseline = report([True, True, False, False, True, False])
    candidate = report([True, False, True, True, True, False])
    found = compare(baseline, candidate)
    assert found.baseline_pass_rate == 0.5
    assert found.candidate_pass_rate == 0.6667
    assert found.delta == 0.1667
    assert (found.common_task_count, found.candidate_wins, found.candidate_losses) == (6, 2, 1)
    assert found.win_rate == 0.6667
    assert (found.regressions, found.improvements) == (["t1"], ["t2", "t3"])
    assert found.p_value == mcnemar(2, 1)
    assert found.verdict == CompareVerdict.INCONCLUSIVE
    assert "2 wins, 1 losses" in describe(found)


def test_no_disagreement_is_a_win_rate_of_one_half() -> None:
    found = compare(report([True, False]), report([True, False]))
    assert (found.win_rate, found.candidate_wins, found.candidate_losses) == (0.5, 0, 0)
    assert found.p_value == 1.0


def test_delta_is_over_whole_reports_and_the_rest_over_common_tasks() -> None:
    candidate = report([True, True, True, False])
    found = compare(report([True, False]), candidate)
    assert found.delta == 0.25
    assert (found.common_task_count, found.candidate_wins) == (2, 1)


@pytest.mark.parametrize(
    ("wins", "losses", "ties", "verdict"),
    [
        (12, 1, 151, CompareVerdict.BETTER),
        (1, 12, 151, CompareVerdict.WORSE),
        (6, 5, 153, CompareVerdict.INCONCLUSIVE),
        (2, 2, 160, CompareVerdict.EQUIVALENT),
        (5, 0, 3, CompareVerdict.INCONCLUSIVE),
        (6, 0, 2, CompareVerdict.BETTER),
    ],
)
def test_the_verdict_needs_evidence(wins: int, losses: int, ties: int, verdict: CompareVerdict) -> None:
    candidate = [True] * wins + [False] * losses + [True] * ties
    baseline = [False] * wins + [True] * losses + [True] * ties
    found = compare(report(baseline), report(candidate), CompareConfig(equivalence_margin=0.04))
    assert found.verdict == verdict
    assert found.interval[0] <= (wins - losses) / (wins + losses + ties) <= found.interval[1]


def test_the_smallest_visible_difference_grows_with_disagreement() -> None:
    assert round(compare(report([True] * 164), report([True] * 164)).minimum_detectable_effect, 3) == 0.069
    half = compare(report([True, False] * 82), report([True, True, False, False] * 41))
    assert half.minimum_detectable_effect > 0.15


def test_tasks_that_could_not_be_judged_are_left_out_and_capped() -> None:
    baseline, candidate = [True] * 20, [True] * 20
    candidate[3] = None
    found = compare(report(baseline), report(candidate))
    assert (found.common_task_count, found.infra_excluded, found.candidate_losses) == (19, 1, 0)
    candidate[4] = candidate[5] = None
    with pytest.raises(IncomparableError, match="3 of 20 tasks could not be judged"):
        compare(report(baseline), report(candidate))
    with pytest.raises(IncomparableError, match="none of the 2 shared tasks"):
        compare(report([True, True]), report([None, None]))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(IncomparableError, match="no task in common"):
        compare(report([True]), report([True], prefix="other"))
    with pytest.raises(IncomparableError, match="different tasks"):
        compare(report([True], suite_digest="sha256:a"), report([True], suite_digest="sha256:b"))
    with pytest.raises(IncomparableError, match="different harness"):
        compare(report([True], harness_digest="sha256:a"), report([True], harness_digest="sha256:b"))
    doubled = report([True])
    doubled = doubled.model_copy(update={"results": doubled.results * 2})
    with pytest.raises(IncomparableError, match="two results for one task_id"):
        compare(report([True]), doubled)
    # a report of the seed has no digests: it is compared
    assert compare(report([True]), report([True], suite_digest="sha256:b")).common_task_count == 1


def test_tasks_of_one_template_are_one_piece_of_evidence() -> None:
    def clustered(passed: list[bool], clusters: list[str]):
        plain = report(passed)
        rows = [r.model_copy(update={"cluster": c}) for r, c in zip(plain.results, clusters, strict=True)]
        return plain.model_copy(update={"results": rows})

    baseline, candidate = [False] * 12 + [True] * 20, [True] * 32
    alone = compare(report(baseline), report(candidate))
    assert alone.verdict == CompareVerdict.BETTER
    one_template = ["login"] * 12 + [f"t{i}" for i in range(20)]
    found = compare(clustered(baseline, one_template), clustered(candidate, one_template))
    assert found.p_value == 1.0
    assert found.verdict == CompareVerdict.INCONCLUSIVE


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"equivalence_margin": 1.0}, {"most_infra": 2.0}])
def test_limits_that_make_no_sense_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="must lie"):
        CompareConfig(**change)


# the promotion gate


def _scores(*values: float) -> dict[str, float]:
    return {f"t{i}": value for i, value in enumerate(values)}


def test_a_clear_improvement_is_promoted() -> None:
    decision = PromotionGate().decide(_scores(*[0.4] * 20), _scores(*[0.5] * 20))
    assert decision.accepted, decision.objections
    assert decision.probability_of_improvement == 1.0
    assert decision.cost_ratio == 1.0


def test_boundaries_pass() -> None:
    gate = PromotionGate(max_cost_ratio=1.5)
    decision = gate.decide(_scores(*[0.5] * 30), _scores(*[0.52] * 30), baseline_cost=0.2, candidate_cost=0.3)
    assert decision.accepted, decision.objections
    one_less = PromotionGate(regression_tol=0.05).decide(_scores(0.5, *[0.4] * 30), _scores(0.45, *[0.5] * 30))
    assert one_less.accepted, one_less.objections


@pytest.mark.parametrize(
    ("baseline", "candidate", "costs", "objection"),
    [
        ([0.5] * 20, [0.51] * 20, (0.0, 0.0), "mean difference"),
        ([0.5] * 4, [0.9, 0.5, 0.5, 0.48], (0.0, 0.0), "probability of improvement"),
        ([0.5] * 4, [0.9, 0.49, 0.49, 0.49], (0.0, 0.0), "win rate"),
        ([0.5] * 20, [0.9] * 19 + [0.4], (0.0, 0.0), "1 regressions"),
        ([0.5] * 20, [0.9] * 20, (0.1, 0.2), "costs 2.00 times"),
        ([0.5] * 20, [0.9] * 20, (0.0, 0.2), "costs inf times"),
    ],
)
def test_each_limit_objects(baseline: list, candidate: list, costs: tuple, objection: str) -> None:
    decision = PromotionGate().decide(
        _scores(*baseline), _scores(*candidate), baseline_cost=costs[0], candidate_cost=costs[1]
    )
    assert not decision.accepted
    assert any(objection in sentence for sentence in decision.objections), decision.objections


def test_without_a_common_task_nothing_is_promoted() -> None:
    decision = PromotionGate().decide({"a": 1.0}, {"b": 1.0})
    assert not decision.accepted
    assert decision.objections == ("no task was scored on both sides",)
    reports = PromotionGate().decide_reports(report([True, None]), report([None, True]))
    assert (reports.accepted, reports.common) == (False, 0)
    with pytest.raises(ValueError, match="min_win_rate"):
        PromotionGate(min_win_rate=2.0)
