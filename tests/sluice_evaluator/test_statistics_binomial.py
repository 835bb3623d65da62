"""Intervals of one proportion, against SciPy and against exact coverage."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from sluice_evaluator.statistics import (
    beta_quantile,
    binomial_cdf,
    clopper_pearson,
    regularized_incomplete_beta,
    wilson,
)


@given(x=st.floats(1e-9, 1.0 - 1e-9), a=st.floats(1.0, 5000.0), b=st.floats(1.0, 5000.0))
def test_incomplete_beta_agrees_with_scipy(x: float, a: float, b: float) -> None:
    assert regularized_incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(("a", "b"), [(1, 62), (38, 1203), (2.5, 0.7), (5000, 12)])
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.975])
def test_beta_quantile_agrees_with_scipy(probability: float, a: float, b: float) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(stats.beta.ppf(probability, a, b), rel=1e-9)


@given(st.integers(1, 400), st.data(), st.floats(0.01, 0.99))
def test_binomial_cdf_agrees_with_scipy(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(-1, n))
    assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize(("k", "n"), [(0, 59), (1, 62), (38, 1240), (7, 7), (3, 8), (999, 1000)])
def test_intervals_agree_with_scipy(k: int, n: int) -> None:
    for ours, name in ((clopper_pearson, "exact"), (wilson, "wilson")):
        expected = stats.binomtest(k, n).proportion_ci(0.95, method=name)
        assert ours(k, n) == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_the_worked_example_of_the_reference() -> None:
    assert [round(100 * end, 1) for end in clopper_pearson(38, 1240)] == [2.2, 4.2]
    low, high = clopper_pearson(1, 62)
    assert (round(100 * low, 2), round(100 * high, 1)) == (0.04, 8.7)
    # 0 of 59: the two-sided 95 % bound
    assert round(100 * clopper_pearson(0, 59).high, 1) == 6.1


@pytest.mark.parametrize("n", [8, 20, 61])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.37, 0.5, 0.93])
def test_clopper_pearson_never_covers_less_than_it_says(n: int, p: float) -> None:
    covered = math.fsum(
        stats.binom.pmf(k, n, p) for k in range(n + 1) if clopper_pearson(k, n).low <= p <= clopper_pearson(k, n).high
    )
    assert covered >= 0.95


def test_nothing_observed_excludes_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (0, -1, 0.95)])
def test_impossible_counts_are_refused(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"need 0 <=|confidence"):
        wilson(k, n, confidence)
    with pytest.raises(ValueError, match=r"need 0 <=|confidence"):
        clopper_pearson(k, n, confidence)
    with pytest.raises(ValueError, match="need a, b"):
        regularized_incomplete_beta(0.5, 0.0, 1.0)
