"""The same figures by another implementation: statsmodels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from sluice_evaluator.statistics import clopper_pearson, holm, mcnemar, two_arm_sample_size, wilson


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 500), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_of_a_proportion(successes: int, trials: int, confidence: float) -> None:
    successes = min(successes, trials)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "beta")):
        low, high = proportion_confint(successes, trials, alpha=1 - confidence, method=method)
        assert ours(successes, trials, confidence) == pytest.approx((low, high), abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_exact_mcnemar(wins: int, losses: int) -> None:
    if wins + losses:
        theirs = their_mcnemar(np.array([[50, wins], [losses, 50]]), exact=True).pvalue
        assert mcnemar(wins, losses) == pytest.approx(theirs, rel=1e-7, abs=1e-12)


def test_holm(monkeypatch: pytest.MonkeyPatch) -> None:
    # statsmodels collects garbage at each call, a second in a process that has run a thousand tests.
    monkeypatch.setattr("gc.collect", lambda: 0)
    rng = np.random.default_rng(0)
    for size in range(1, 13):
        for decimals in (1, 2, 6, 17):  # few decimals: ties, zeros and ones
            p_values = list(np.round(rng.random(size), decimals))
            assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


@pytest.mark.parametrize(("candidate", "share"), [(0.0612, 0.05), (0.0612, 0.25), (0.0918, 0.05), (0.05, 0.5)])
def test_the_planned_sample_has_its_power(candidate: float, share: float) -> None:
    stable = 0.0306
    planned = two_arm_sample_size(stable, candidate, share, power=0.8).candidate
    # Cohen's arcsine effect is another approximation of the same test: it agrees within some points
    effect = 2 * (np.arcsin(np.sqrt(candidate)) - np.arcsin(np.sqrt(stable)))
    power = NormalIndPower().power(effect, planned, alpha=0.05, ratio=(1 - share) / share, alternative="larger")
    assert power == pytest.approx(0.8, abs=0.08)
