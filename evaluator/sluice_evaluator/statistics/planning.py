"""How much evidence a question needs, before it is asked."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from sluice_evaluator.statistics.sequential import Blocks, SequentialConfig, log_harm, log_safe

DISCORDANT_SHARE = 0.10
"""Share of tasks on which two models of one lineage disagree, assumed before anything was measured."""


def _quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def paired_minimum_detectable_effect(
    pairs: int, *, discordant: float = DISCORDANT_SHARE, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest paired difference in pass rate that `pairs` tasks can show, two-sided.

    `(z_{1-alpha/2} + z_power) sqrt(discordant / pairs)`: the variance of a paired difference near zero is the share of
    discordant pairs (Connor 1987; Miettinen 1968). At most 1; 1 without pairs.
    """
    if pairs <= 0:
        return 1.0
    return min(1.0, (_quantile(1 - alpha / 2) + _quantile(power)) * math.sqrt(discordant / pairs))


def paired_sample_size(
    effect: float, *, discordant: float = DISCORDANT_SHARE, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Tasks needed to show a paired difference of `effect` (Connor 1987, with its correction for the alternative)."""
    if not 0.0 < effect <= discordant <= 1.0:
        raise ValueError(f"need 0 < effect <= discordant <= 1, got effect={effect}, discordant={discordant}")
    need = _quantile(1 - alpha / 2) * math.sqrt(discordant) + _quantile(power) * math.sqrt(discordant - effect**2)
    return math.ceil((need / effect) ** 2)


@dataclass(frozen=True, kw_only=True)
class TwoArmPlan:
    """Runs that a comparison of two arms needs."""

    candidate: int
    """Runs of the candidate."""
    total: int
    """Runs of both arms, at the planned share."""


def two_arm_sample_size(
    stable_rate: float, candidate_rate: float, share: float, *, alpha: float = 0.05, power: float = 0.8
) -> TwoArmPlan:
    """Fixed sample of a one-sided comparison of two rates with unequal arms (Fleiss, Levin and Paik 2003, eq. 4.19).

    Without continuity correction.

    Args:
        stable_rate: event rate of the stable arm.
        candidate_rate: event rate of the candidate that is to be detected.
        share: share of the traffic that the candidate gets, strictly between 0 and 1.
        alpha: one-sided level.
        power: probability of detection.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie strictly between 0 and 1, got {share}")
    if stable_rate == candidate_rate:
        raise ValueError("equal rates cannot be told apart by any sample")
    ratio = (1.0 - share) / share
    pooled = (candidate_rate + ratio * stable_rate) / (1.0 + ratio)
    under_null = math.sqrt(pooled * (1 - pooled) * (1 + 1 / ratio))
    under_alternative = math.sqrt(candidate_rate * (1 - candidate_rate) + stable_rate * (1 - stable_rate) / ratio)
    need = _quantile(1 - alpha) * under_null + _quantile(power) * under_alternative
    candidate = math.ceil((need / (candidate_rate - stable_rate)) ** 2)
    return TwoArmPlan(candidate=candidate, total=math.ceil(candidate / share))


def simulate_blocks(
    generator: np.random.Generator, *, simulations: int, blocks: int, share: float, candidate: float, stable: float
) -> Blocks:
    """Draw blocks as random assignment cuts them: the shortest stretches that hold both arms.

    A stretch starts with one arm (the candidate with probability `share`), goes on with as many runs of the same arm
    as chance gives, and ends with the first run of the other.
    """
    shape = (simulations, blocks)
    starts = generator.random(shape) < share
    candidates = np.where(starts, generator.geometric(1.0 - share, shape), 1)
    stables = np.where(starts, 1, generator.geometric(share, shape))
    return Blocks(
        candidate_runs=candidates.astype(float),
        candidate_events=generator.binomial(candidates, candidate).astype(float),
        stable_runs=stables.astype(float),
        stable_events=generator.binomial(stables, stable).astype(float),
    )


def sequential_sample_size(
    stable_rate: float,
    candidate_rate: float,
    share: float,
    config: SequentialConfig,
    *,
    power: float = 0.8,
    simulations: int = 1000,
    seed: int = 0,
    longest: int = 4000,
) -> TwoArmPlan:
    """Candidate runs within which the sequential tests decide with probability `power`, by simulation.

    A higher candidate rate asks how long harm takes to show, an equal or lower one how long non-inferiority takes.

    Raises:
        ValueError: fewer than `power` of the simulations decided within `longest` blocks.
    """
    generator = np.random.default_rng(seed)
    needed = np.full(simulations, np.inf)
    batch = max(1, 1_000_000 // longest)
    for start in range(0, simulations, batch):
        count = min(batch, simulations - start)
        drawn = simulate_blocks(
            generator, simulations=count, blocks=longest, share=share, candidate=candidate_rate, stable=stable_rate
        )
        log_e = log_harm(drawn, config) if candidate_rate > stable_rate else log_safe(drawn, config)
        crossed = log_e >= math.log(config.threshold)
        runs = np.cumsum(drawn.candidate_runs, axis=-1)
        first = np.where(crossed.any(axis=-1), runs[np.arange(count), crossed.argmax(axis=-1)], np.inf)
        needed[start : start + count] = first
    quantile = float(np.sort(needed)[math.ceil(power * simulations) - 1])
    if not math.isfinite(quantile):
        raise ValueError(
            f"{candidate_rate:.2%} against {stable_rate:.2%} at a share of {share:.0%} is not decided within "
            f"{longest} blocks in {power:.0%} of the simulations: widen the margin or raise the share"
        )
    return TwoArmPlan(candidate=int(quantile), total=math.ceil(quantile / share))
