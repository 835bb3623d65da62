"""Two models on the same tasks."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from sluice_evaluator.statistics.binomial import Interval, binomial_cdf, wilson

_EXACT_CLUSTERS = 14
_FLIPS = 20_000
_MOST_LOG = 700.0


def mcnemar(wins: int, losses: int, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Exact McNemar test: under no difference, wins are Binomial(wins + losses, 1/2) (McNemar 1947; Agresti 10.1.4).

    Args:
        wins: tasks that only the candidate passed.
        losses: tasks that only the baseline passed.
        alternative: `greater` asks whether the candidate is better, `less` whether it is worse.

    Returns:
        The p-value; 1.0 without a discordant pair.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"counts cannot be negative, got {wins} wins and {losses} losses")
    discordant = wins + losses
    if discordant == 0:
        return 1.0
    at_most = binomial_cdf(wins, discordant, 0.5)
    at_least = binomial_cdf(losses, discordant, 0.5)
    if alternative == "greater":
        return at_least
    if alternative == "less":
        return at_most
    return min(1.0, 2.0 * min(at_most, at_least))


def paired_e_value(wins: int, losses: int) -> float:
    """Evidence that the candidate wins more than it loses, which may be looked at after every task.

    The likelihood of the discordant pairs, averaged over win rates between 1/2 and 1, over that of 1/2: a martingale
    where neither model is better, a supermartingale where the candidate is worse. So it ever exceeds `1 / alpha` with
    probability at most `alpha` (Ville 1939; mixtures: Robbins 1970), and the values of several evaluations of one
    candidate may be multiplied.

    `2^(n + 1) B(wins + 1, losses + 1) P(X <= wins)` with `X` Binomial(n + 1, 1/2) and `n` discordant pairs.

    Returns:
        The e-value; 1.0 without a discordant pair.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"counts cannot be negative, got {wins} wins and {losses} losses")
    discordant = wins + losses
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(discordant + 2)
    tail = binomial_cdf(wins, discordant + 1, 0.5)
    log_value = (discordant + 1) * math.log(2.0) + log_beta + (math.log(tail) if tail > 0.0 else -math.inf)
    return math.exp(min(log_value, _MOST_LOG))


def newcombe_paired(both: int, wins: int, losses: int, neither: int, confidence: float = 0.95) -> Interval:
    """Interval of the paired difference in pass rate, candidate minus baseline (Newcombe 1998, method 10).

    Wilson limits of the two marginal rates, combined by square-and-add with the correlation of the pairs, which is
    continuity-corrected when positive.

    Args:
        both: tasks that both passed.
        wins: tasks that only the candidate passed.
        losses: tasks that only the baseline passed.
        neither: tasks that neither passed.
        confidence: nominal coverage.
    """
    n = both + wins + losses + neither
    if n == 0:
        return Interval(-1.0, 1.0)
    candidate, baseline = (both + wins) / n, (both + losses) / n
    candidate_low, candidate_high = wilson(both + wins, n, confidence)
    baseline_low, baseline_high = wilson(both + losses, n, confidence)
    margins = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    phi = 0.0
    if margins > 0:
        cross = both * neither - wins * losses
        corrected = max(cross - n / 2.0, 0.0) if cross > 0 else float(cross)
        phi = corrected / math.sqrt(margins)
    down, up = candidate - candidate_low, baseline_high - baseline
    low = math.sqrt(max(0.0, down * down - 2.0 * phi * down * up + up * up))
    up, down = candidate_high - candidate, baseline - baseline_low
    high = math.sqrt(max(0.0, up * up - 2.0 * phi * up * down + down * down))
    difference = candidate - baseline
    return Interval(max(-1.0, difference - low), min(1.0, difference + high))


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Result of a paired bootstrap."""

    mean: float
    """Mean difference, candidate minus baseline."""
    interval: Interval
    """Percentile interval of the mean difference."""
    probability_of_improvement: float
    """Share of the resampled means above zero; a resample of exactly zero counts half."""
    resamples: int
    """Resamples drawn."""
    units: int
    """Units resampled: pairs, or clusters of pairs."""


def _cluster_sums(deltas: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Give the sum and the size of every cluster; without clusters every pair is its own."""
    if clusters is None:
        return np.asarray(deltas, dtype=float), np.ones(len(deltas))
    if len(clusters) != len(deltas):
        raise ValueError(f"{len(deltas)} differences but {len(clusters)} cluster names")
    grouped: dict[Hashable, list[float]] = defaultdict(list)
    for delta, cluster in zip(deltas, clusters, strict=True):
        grouped[cluster].append(delta)
    return (
        np.array([math.fsum(group) for group in grouped.values()]),
        np.array([float(len(group)) for group in grouped.values()]),
    )


def paired_bootstrap(
    deltas: Sequence[float],
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    clusters: Sequence[Hashable] | None = None,
) -> Bootstrap:
    """Bootstrap the mean of paired differences (Efron 1979, percentile interval; clusters: Davison and Hinkley 3.8).

    Args:
        deltas: candidate's score minus baseline's, one a task.
        resamples: resamples to draw.
        seed: seed of the generator (NumPy PCG64).
        confidence: nominal coverage of the interval.
        clusters: cluster of each pair; whole clusters are resampled, so that tasks of one template or tenant do not
            pass for independent evidence.

    Raises:
        ValueError: there is no pair, or the lengths differ.
    """
    if not len(deltas):
        raise ValueError("a paired bootstrap needs at least one pair")
    sums, sizes = _cluster_sums(deltas, clusters)
    units = len(sums)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    # a bounded batch keeps memory flat for suites of any size
    batch = max(1, min(resamples, 2_000_000 // units))
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        chosen = generator.integers(0, units, size=(count, units))
        means[start : start + count] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Bootstrap(
        mean=float(sums.sum() / sizes.sum()),
        interval=Interval(float(low), float(high)),
        probability_of_improvement=float((means > 0).mean() + 0.5 * (means == 0).mean()),
        resamples=resamples,
        units=units,
    )


def cluster_sign_flip(deltas: Sequence[float], clusters: Sequence[Hashable], *, seed: int = 0) -> float:
    """Two-sided randomisation test of no difference, flipping the sign of whole clusters (Fisher 1935, ch. 3).

    All `2^k` sign patterns are enumerated up to fourteen clusters that differ at all; beyond that 20,000 are drawn and
    the observed one is counted among them, so that the p-value stays valid (Phipson and Smyth 2010).
    """
    sums, _ = _cluster_sums(deltas, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - 1e-12
    if len(sums) <= _EXACT_CLUSTERS:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float((np.abs(signs @ sums) >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_FLIPS, len(sums)))
    return float((1 + (np.abs(signs @ sums) >= observed).sum()) / (1 + _FLIPS))
