"""Traffic of a rollout, drawn in the blocks that its analysis cuts: runs, arms, escalations, lag and bad stretches."""

import math
from dataclasses import dataclass

import numpy as np

from sluice_evaluator.statistics.sequential import Blocks, Floats


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """A service and how its runs escalate."""

    stable_rate: float = 0.03
    """Share of the stable arm's runs that escalate."""
    ratio: float = 1.0
    """The candidate's rate by the stable arm's."""
    runs_per_min: float = 20_000 / 1440
    """Runs of both arms that start in a minute, evenly."""
    lag_min: float = 5.0
    """Mean of the exponential time from a run's end until its escalation shows."""
    clustering: float = 0.02
    """Intraclass correlation of runs of one stretch, whichever arm: rates vary from stretch to stretch."""

    def __post_init__(self) -> None:
        if not 0.0 < self.stable_rate * self.ratio < 1.0:
            raise ValueError(f"the candidate's rate must lie between 0 and 1, got {self.stable_rate * self.ratio}")
        if not 0.0 <= self.clustering < 1.0:
            raise ValueError(f"clustering must lie in [0, 1), got {self.clustering}")

    @property
    def candidate_rate(self) -> float:
        """Share of the candidate's runs that escalate."""
        return self.stable_rate * self.ratio

    def shown_within(self, minutes: float) -> float:
        """Share of the escalations that show within that time after their run."""
        return 1.0 if self.lag_min == 0 else 1.0 - math.exp(-minutes / self.lag_min)

    def shown_in_window(self, minutes: float) -> float:
        """Share of the escalations of a window's runs that show before the window ends."""
        if self.lag_min == 0:
            return 1.0
        return 1.0 - (self.lag_min / minutes) * self.shown_within(minutes)


def stretch_rates(generator: np.random.Generator, traffic: Traffic, shape: tuple[int, ...]) -> Floats:
    """Draw the stable rate of each stretch: Beta with the mean rate and the intraclass correlation asked for."""
    if traffic.clustering == 0:
        return np.full(shape, traffic.stable_rate)
    total = (1 - traffic.clustering) / traffic.clustering
    return generator.beta(traffic.stable_rate * total, (1 - traffic.stable_rate) * total, shape)


def blocks(
    generator: np.random.Generator, traffic: Traffic, *, share: float, simulations: int, count: int, maturity_min: float
) -> Blocks:
    """Draw blocks as sticky assignment by run cuts them, with the escalations that have shown when runs mature.

    An escalation that shows after the maturity is taken never to count, which is worse than what happens.
    """
    shape = (simulations, count)
    starts = generator.random(shape) < share
    candidates = np.where(starts, generator.geometric(1.0 - share, shape), 1)
    stables = np.where(starts, 1, generator.geometric(share, shape))
    rates = stretch_rates(generator, traffic, shape)
    shown = traffic.shown_within(maturity_min)
    return Blocks(
        candidate_runs=candidates.astype(float),
        candidate_events=generator.binomial(candidates, np.minimum(1.0, traffic.ratio * rates) * shown).astype(float),
        stable_runs=stables.astype(float),
        stable_events=generator.binomial(stables, rates * shown).astype(float),
    )
