"""One proportion: exact and score intervals, on a regularised incomplete beta of our own."""

import math
from statistics import NormalDist
from typing import NamedTuple

_TINY = 1e-300
_MAX_TERMS = 20_000


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


def _check_counts(successes: int, trials: int, confidence: float) -> None:
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials, got {successes} of {trials}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the continued fraction of DLMF 8.17.22 by the modified Lentz method (Thompson and Barnett 1986)."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _MAX_TERMS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            factor = c * d
            value *= factor
        if abs(factor - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"the continued fraction of I_{x}({a}, {b}) did not converge")


def regularized_incomplete_beta(x: float, a: float, b: float) -> float:
    """Compute I_x(a, b) for `a, b > 0` and `0 <= x <= 1` (NIST DLMF 8.17).

    Raises:
        ValueError: an argument lies outside its domain.
    """
    if not (a > 0.0 and b > 0.0 and 0.0 <= x <= 1.0):
        raise ValueError(f"need a, b > 0 and 0 <= x <= 1, got a={a}, b={b}, x={x}")
    if x in (0.0, 1.0):
        return x
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _continued_fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _continued_fraction(1.0 - x, b, a) / b


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Invert I_x(a, b) = `probability` by bisection, to the last bit that a double can tell apart."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must lie between 0 and 1, got {probability}")
    low, high = 0.0, 1.0
    while True:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high or high - low < 1e-15:
            return middle
        if regularized_incomplete_beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """Compute P(X <= successes) of a binomial variable, as I_{1-p}(n - k, k + 1) (DLMF 8.17.5)."""
    if successes < 0:
        return 0.0
    if successes >= trials:
        return 1.0
    return regularized_incomplete_beta(1.0 - probability, trials - successes, successes + 1.0)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Short and honest at small counts, so it is what people are shown. Nothing observed gives (0, 1).
    """
    _check_counts(successes, trials, confidence)
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate, z2 = successes / trials, z * z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a proportion (Clopper and Pearson 1934): never covers less often than it says.

    Gates use it. Nothing observed gives (0, 1).
    """
    _check_counts(successes, trials, confidence)
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, trials - successes + 1.0)
    high = 1.0 if successes == trials else beta_quantile(1.0 - tail, successes + 1.0, trials - successes)
    return Interval(low, high)
