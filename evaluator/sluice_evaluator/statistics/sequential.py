"""Two arms of a rollout, looked at whenever somebody likes: e-processes for two Bernoulli streams.

An e-process is a non-negative process that, while the null hypothesis holds, exceeds `1 / alpha` at any time with
probability at most `alpha` (Ville 1939): looking every five minutes costs nothing.

Outcomes come in blocks with `n_c` runs of the candidate and `n_s` of the stable arm. For an alternative `q` that was
fixed before the block, and a convex null, the e-value of the block is `p_q(block) / p_q'(block)`, where `q'` is the
null's point nearest to `q` in Kullback-Leibler divergence, weighted by the block's sizes (Turner, Ly and Grünwald 2024,
arXiv 2106.02693; general nulls: Turner and Grünwald, arXiv 2203.09785; stratified streams: arXiv 2302.11401). Its mean
is at most one at *every* point `t` of the null: with `A_g = 1 + (t_g - q'_g)(q_g - q'_g) / (q'_g (1 - q'_g))`, the
mean is `A_c^n_c A_s^n_s <= exp(n_c (A_c - 1) + n_s (A_s - 1)) <= 1`, the last step being the first-order condition of
the projection.

The alternatives are odds ratios around the stable rate that past blocks suggest. Each ratio has its own process; their
weighted mean is again an e-process. Two nulls are tested at once:

- harm: null `candidate <= stable`; shown at any time, it ends a rollout;
- non-inferiority: null `candidate >= stable + margin`; shown, it lets a rollout advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MOST_STEPS = 60
_CLOSE = 1e-15


@dataclass(frozen=True, kw_only=True)
class SequentialConfig:
    """What the two tests ask. Ratios are odds ratios, candidate to stable; weights need not sum to one."""

    alpha: float = 0.05
    """Error level of each test; both decide at `1 / alpha`."""
    margin: float = 0.01
    """Absolute excess of the event rate that is still accepted."""
    harm_ratios: tuple[float, ...] = (1.5, 2.0, 3.0, 6.0)
    """Alternatives of the harm test."""
    harm_weights: tuple[float, ...] = (0.2, 0.4, 0.25, 0.15)
    """Their weights."""
    safe_ratios: tuple[float, ...] = (1.0, 0.7, 0.4)
    """Alternatives of the non-inferiority test."""
    safe_weights: tuple[float, ...] = (0.6, 0.25, 0.15)
    """Their weights."""
    prior_rate: float = 0.05
    """Event rate that is assumed before any run was seen; affects power, never validity."""
    prior_runs: float = 10.0
    """Runs that the assumption is worth."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must lie strictly between 0 and 1, got {self.alpha}")
        if not 0.0 < self.margin < 1.0:
            raise ValueError(f"margin must lie strictly between 0 and 1, got {self.margin}")
        if len(self.harm_ratios) != len(self.harm_weights) or len(self.safe_ratios) != len(self.safe_weights):
            raise ValueError("every ratio needs a weight")
        if min(self.harm_ratios, default=0.0) <= 1.0:
            raise ValueError(f"harm_ratios must exceed 1, got {self.harm_ratios}")
        if min(self.safe_ratios, default=0.0) <= 0.0 or max(self.safe_ratios) > 1.0:
            raise ValueError(f"safe_ratios must lie in (0, 1], got {self.safe_ratios}")
        if min(self.harm_weights + self.safe_weights) <= 0.0:
            raise ValueError("weights must be positive")
        if not 0.0 < self.prior_rate < 1.0 or self.prior_runs <= 0.0:
            raise ValueError(f"the prior must be a rate and a positive count: {self.prior_rate}, {self.prior_runs}")

    @property
    def threshold(self) -> float:
        """E-value at which a test decides."""
        return 1.0 / self.alpha


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Outcomes in blocks, arrays of shape `(..., blocks)`; leading axes are independent repetitions."""

    candidate_runs: Floats
    """Runs of the candidate in each block."""
    candidate_events: Floats
    """Escalated ones among them."""
    stable_runs: Floats
    """Runs of the stable arm in each block."""
    stable_events: Floats
    """Escalated ones among them."""


@dataclass(frozen=True, kw_only=True)
class EPath:
    """E-values after each block, shape `(..., blocks)`, as natural logarithms."""

    log_harm: Floats
    """Against `candidate <= stable`."""
    log_safe: Floats
    """Against `candidate >= stable + margin`."""


def blocks_of(is_candidate: Sequence[bool], is_event: Sequence[bool]) -> Blocks:
    """Cut a stream of runs, in their order, into the shortest blocks that hold both arms.

    Where a block ends depends on the arms alone, never on the outcomes, as the theory asks. A rest without one of the
    arms is left out: it says nothing about a difference yet.
    """
    counts: list[tuple[int, int, int, int]] = []
    candidate_runs = candidate_events = stable_runs = stable_events = 0
    for candidate, event in zip(is_candidate, is_event, strict=True):
        if candidate:
            candidate_runs, candidate_events = candidate_runs + 1, candidate_events + bool(event)
        else:
            stable_runs, stable_events = stable_runs + 1, stable_events + bool(event)
        if candidate_runs and stable_runs:
            counts.append((candidate_runs, candidate_events, stable_runs, stable_events))
            candidate_runs = candidate_events = stable_runs = stable_events = 0
    table = np.array(counts, dtype=float).reshape(-1, 4)
    return Blocks(
        candidate_runs=table[:, 0],
        candidate_events=table[:, 1],
        stable_runs=table[:, 2],
        stable_events=table[:, 3],
    )


def _past(values: Floats) -> Floats:
    """Cumulative sums up to, not including, each block."""
    return np.cumsum(values, axis=-1) - values


def _scale_odds(rate: Floats, ratio: Floats) -> Floats:
    odds = ratio * rate / (1.0 - rate)
    return odds / (1.0 + odds)


def _log_likelihood_ratio(events: Floats, runs: Floats, alternative: Floats, null: Floats) -> Floats:
    return events * np.log(alternative / null) + (runs - events) * np.log((1.0 - alternative) / (1.0 - null))


def project_to_margin(
    candidate: Floats, stable: Floats, candidate_runs: Floats, stable_runs: Floats, margin: float
) -> Floats:
    """Find the stable rate `t` of the point `(t + margin, t)` nearest to an alternative that lies below the margin.

    The weighted divergence is convex in `t`, so its derivative has one root: Newton's method from the weighted mean,
    with a bisection wherever a step would leave the bracket, until no step moves by more than 1e-15.
    """
    low = np.maximum(candidate - margin, 0.0)
    high = np.minimum(stable, 1.0 - margin)
    low, high = np.broadcast_arrays(low, high)
    low, high = low.astype(float), high.astype(float)
    t = (candidate_runs * np.maximum(candidate - margin, 0.5 * high) + stable_runs * high) / (
        candidate_runs + stable_runs
    )
    for _ in range(_MOST_STEPS):
        u = t + margin
        slope = stable_runs * (t - stable) / (t * (1.0 - t)) + candidate_runs * (u - candidate) / (u * (1.0 - u))
        bend = stable_runs * (stable / t**2 + (1.0 - stable) / (1.0 - t) ** 2)
        bend = bend + candidate_runs * (candidate / u**2 + (1.0 - candidate) / (1.0 - u) ** 2)
        above = slope > 0
        high, low = np.where(above, t, high), np.where(above, low, t)
        newton = t - slope / bend
        # an end of the bracket may be 0 or 1 - margin, where the slope has no value
        inside = (newton >= low) & (newton <= high) & (newton > 0.0) & (newton < 1.0 - margin)
        moved = np.where(inside, newton, 0.5 * (low + high))
        if np.abs(moved - t).max(initial=0.0) <= _CLOSE:
            return moved
        t = moved
    return t


def _mix(log_values: Floats, weights: Sequence[float]) -> Floats:
    """Weighted mean over the last axis of cumulative products, in logarithms."""
    weighted = np.cumsum(log_values, axis=-2) + np.log(np.array(weights) / np.sum(weights))
    peak = weighted.max(axis=-1, keepdims=True)
    mixed: Floats = peak + np.log(np.exp(weighted - peak).sum(axis=-1, keepdims=True))
    return mixed[..., 0]


def _stable_rate(blocks: Blocks, config: SequentialConfig) -> Floats:
    """Estimate the stable rate before each block: the mean of the Beta prior updated by earlier blocks only."""
    seen, events = _past(blocks.stable_runs), _past(blocks.stable_events)
    rate: Floats = (events + config.prior_rate * config.prior_runs) / (seen + config.prior_runs)
    return rate[..., None]


def log_harm(blocks: Blocks, config: SequentialConfig) -> Floats:
    """E-values against `candidate <= stable` after each block, shape `(..., blocks)`, in logarithms.

    The nearest point of this null is the pooled rate (Turner, Ly and Grünwald 2024, theorem 1).
    """
    n_c, n_s = blocks.candidate_runs[..., None], blocks.stable_runs[..., None]
    stable = _stable_rate(blocks, config)
    candidate = _scale_odds(stable, np.array(config.harm_ratios))
    null = (n_c * candidate + n_s * stable) / (n_c + n_s)
    gain = _log_likelihood_ratio(blocks.candidate_events[..., None], n_c, candidate, null)
    gain = gain + _log_likelihood_ratio(blocks.stable_events[..., None], n_s, stable, null)
    return _mix(gain, config.harm_weights)


def log_safe(blocks: Blocks, config: SequentialConfig) -> Floats:
    """E-values against `candidate >= stable + margin` after each block, shape `(..., blocks)`, in logarithms."""
    n_c, n_s = blocks.candidate_runs[..., None], blocks.stable_runs[..., None]
    stable = np.minimum(_stable_rate(blocks, config), 1.0 - config.margin - 1e-9)
    candidate = _scale_odds(stable, np.array(config.safe_ratios))
    null = project_to_margin(candidate, stable, n_c, n_s, config.margin)
    gain = _log_likelihood_ratio(blocks.candidate_events[..., None], n_c, candidate, null + config.margin)
    gain = gain + _log_likelihood_ratio(blocks.stable_events[..., None], n_s, stable, null)
    return _mix(gain, config.safe_weights)


def e_path(blocks: Blocks, config: SequentialConfig) -> EPath:
    """Run both tests over blocks. The alternative of a block uses earlier blocks only."""
    return EPath(log_harm=log_harm(blocks, config), log_safe=log_safe(blocks, config))
