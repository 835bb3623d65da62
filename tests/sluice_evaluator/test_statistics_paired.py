"""Paired comparisons, multiplicity and planning: SciPy, exact enumeration and the reference's figures."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from sluice_evaluator.statistics import (
    AlphaSpending,
    cluster_sign_flip,
    holm,
    mcnemar,
    newcombe_paired,
    paired_bootstrap,
    paired_e_value,
    paired_minimum_detectable_effect,
    paired_sample_size,
    two_arm_sample_size,
)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    n = wins + losses
    if n == 0:
        assert mcnemar(wins, losses) == 1.0
        return
    for alternative in ("two-sided", "greater", "less"):
        expected = stats.binomtest(wins, n, 0.5, alternative=alternative).pvalue
        assert mcnemar(wins, losses, alternative) == pytest.approx(min(1.0, expected), rel=1e-7, abs=1e-12)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_paired_e_value_is_a_martingale_between_equals_and_falls_for_the_worse(wins: int, losses: int) -> None:
    now, won, lost = paired_e_value(wins, losses), paired_e_value(wins + 1, losses), paired_e_value(wins, losses + 1)
    assert (won + lost) / 2 == pytest.approx(now, rel=1e-9)
    assert 0.3 * won + 0.7 * lost <= now * (1 + 1e-9)


def test_the_paired_e_value_by_integration_and_by_enumeration() -> None:
    assert paired_e_value(0, 0) == 1.0
    for wins, losses in ((5, 0), (9, 1), (30, 30), (2, 12)):
        likelihood = lambda rate, w=wins, n=losses: 2 * rate**w * (1 - rate) ** n * 2.0 ** (w + n)  # noqa: E731
        exact = integrate.quad(likelihood, 0.5, 1.0)[0]
        assert paired_e_value(wins, losses) == pytest.approx(exact, rel=1e-8)
    # of all ways in which ten discordant pairs may fall, few ever reach 20
    reached = sum(
        any(paired_e_value(sum(way[:k]), k - sum(way[:k])) >= 20 for k in range(11))
        for way in product((0, 1), repeat=10)
    )
    assert 0 < reached / 2**10 <= 0.05
    with pytest.raises(ValueError, match="negative"):
        paired_e_value(-1, 0)


@pytest.mark.parametrize(("losses", "wins"), [(0, 5), (1, 7), (2, 9), (3, 10)])
def test_fewest_wins_that_show_an_improvement(losses: int, wins: int) -> None:
    assert mcnemar(wins, losses, "greater") <= 0.05 < mcnemar(wins - 1, losses, "greater")


@pytest.mark.parametrize("n", [30, 164])
@pytest.mark.parametrize(("wins", "losses", "both"), [(0.05, 0.05, 0.6), (0.1, 0.05, 0.5), (0.02, 0.1, 0.8)])
def test_the_paired_interval_covers_what_it_says_and_is_conservative_when_small(
    n: int, wins: float, losses: float, both: float
) -> None:
    cells = np.random.default_rng(7).multinomial(n, [both, wins, losses, 1 - both - wins - losses], size=4000)
    truth = wins - losses
    covered = sum(low <= truth <= high for low, high in (newcombe_paired(*map(int, row)) for row in cells))
    assert 0.94 <= covered / len(cells) <= (0.985 if n > 100 else 0.998)


def test_the_paired_interval_at_the_edges() -> None:
    assert newcombe_paired(0, 0, 0, 0) == (-1.0, 1.0)
    low, high = newcombe_paired(164, 0, 0, 0)
    assert low == pytest.approx(-high)
    assert low < 0 < high < 0.04
    low, high = newcombe_paired(0, 12, 0, 0)
    assert (low > 0.6, high) == (True, 1.0)
    mirrored = newcombe_paired(40, 3, 9, 20)
    assert newcombe_paired(40, 9, 3, 20) == pytest.approx((-mirrored.high, -mirrored.low))


def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    deltas = list(np.random.default_rng(3).normal(0.1, 0.5, 60))
    ours = paired_bootstrap(deltas, resamples=20_000)
    theirs = stats.bootstrap(
        (deltas,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(11)
    ).confidence_interval
    assert ours.mean == pytest.approx(np.mean(deltas))
    assert ours.interval == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours == paired_bootstrap(deltas, resamples=20_000)
    expected = stats.norm.cdf(np.mean(deltas) / (np.std(deltas) / math.sqrt(60)))
    assert ours.probability_of_improvement == pytest.approx(expected, abs=0.02)


def test_bootstrap_of_three_pairs_by_enumeration() -> None:
    deltas = [1.0, 0.0, -1.0]
    means = [sum(choice) / 3 for choice in product(deltas, repeat=3)]
    exact = sum((m > 0) + 0.5 * (m == 0) for m in means) / len(means)
    assert paired_bootstrap(deltas, resamples=40_000).probability_of_improvement == pytest.approx(exact, abs=0.01)


def test_clusters_are_the_unit_of_resampling() -> None:
    deltas = [1.0] * 50 + [0.0] * 50
    clusters = ["a"] * 50 + ["b"] * 50
    alone = paired_bootstrap(deltas)
    together = paired_bootstrap(deltas, clusters=clusters)
    assert (alone.units, together.units) == (100, 2)
    assert together.interval == (0.0, 1.0)
    assert alone.interval.low > 0.35
    with pytest.raises(ValueError, match="cluster names"):
        paired_bootstrap(deltas, clusters=clusters[:-1])
    with pytest.raises(ValueError, match="at least one pair"):
        paired_bootstrap([])


def test_sign_flips_of_singletons_are_mcnemar() -> None:
    deltas = [1.0] * 7 + [-1.0] * 2 + [0.0] * 30
    clusters = list(range(len(deltas)))
    assert cluster_sign_flip(deltas, clusters) == pytest.approx(mcnemar(7, 2))
    many = [1.0] * 20 + [-1.0] * 8
    assert cluster_sign_flip(many, list(range(28))) == pytest.approx(mcnemar(20, 8), abs=0.01)
    assert cluster_sign_flip([0.0, 0.0], [1, 2]) == 1.0
    assert cluster_sign_flip([1.0] * 40, ["template"] * 40) == 1.0


@given(st.lists(st.floats(0.0, 1.0), max_size=12))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, ordered = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        for rank, index in enumerate(ordered):
            if p_values[index] * (len(p_values) - rank) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.5])


def test_alpha_spending_sums_to_its_budget() -> None:
    budget = AlphaSpending(alpha=0.05)
    assert budget.level(1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert 0.0499 < budget.spent(2000) < 0.05
    with pytest.raises(ValueError, match="counted from 1"):
        budget.level(0)
    with pytest.raises(ValueError, match="alpha"):
        AlphaSpending(alpha=1.0)


@pytest.mark.parametrize(("tasks", "points"), [(8, 31), (164, 6.9), (500, 4.0), (1000, 2.8)])
def test_minimum_detectable_effects_of_the_reference(tasks: int, points: float) -> None:
    digits = 0 if tasks == 8 else 1
    assert round(100 * paired_minimum_detectable_effect(tasks), digits) == points
    assert paired_minimum_detectable_effect(0) == 1.0


def test_paired_sample_size_has_the_power_that_it_plans() -> None:
    n = paired_sample_size(0.05)
    rows = np.random.default_rng(5).multinomial(n, [0.075, 0.025, 0.9], size=3000)
    detected = np.mean([mcnemar(int(wins), int(losses)) <= 0.05 for wins, losses, _ in rows])
    # the exact test is a little conservative, the plan is asymptotic
    assert 0.74 <= detected <= 0.84
    with pytest.raises(ValueError, match="discordant"):
        paired_sample_size(0.2)


@pytest.mark.parametrize(("rate", "candidate"), [(0.061, 273), (0.05, 616), (0.0406, 2138)])
def test_canary_sizes_of_the_reference(rate: float, candidate: int) -> None:
    plan = two_arm_sample_size(0.0306, rate, 0.05)
    assert plan.candidate == candidate
    assert plan.total == candidate * 20
    with pytest.raises(ValueError, match="share"):
        two_arm_sample_size(0.03, 0.06, 1.0)
    with pytest.raises(ValueError, match="equal rates"):
        two_arm_sample_size(0.03, 0.03, 0.5)
