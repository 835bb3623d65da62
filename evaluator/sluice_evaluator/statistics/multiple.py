"""Several hypotheses at once, and the same question asked night after night."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the family-wise error rate by Holm's step-down rule (Holm 1979).

    Args:
        p_values: raw p-values, any order.

    Returns:
        Adjusted p-values in the same order; reject those at or below the level.
    """
    if any(not 0.0 <= p <= 1.0 for p in p_values):
        raise ValueError(f"p-values must lie between 0 and 1, got {list(p_values)}")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


@dataclass(frozen=True, kw_only=True)
class AlphaSpending:
    """A budget for false promotions over an unbounded series of candidates of one lineage.

    The k-th candidate is judged at `alpha * 6 / (pi * k)^2`; the levels of all candidates that will ever come sum to
    `alpha`, so by Bonferroni's inequality the chance that any of them is promoted without being better is at most
    `alpha`, however they depend on each other (the series of Foster and Stine's alpha-spending, 2008).
    """

    alpha: float = 0.05
    """Budget of the whole lineage."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must lie strictly between 0 and 1, got {self.alpha}")

    def level(self, candidate: int) -> float:
        """Give the level at which the `candidate`-th candidate, counted from 1, is judged."""
        if candidate < 1:
            raise ValueError(f"candidates are counted from 1, got {candidate}")
        return self.alpha * 6.0 / (math.pi * candidate) ** 2

    def spent(self, candidates: int) -> float:
        """Give the share of the budget that the first `candidates` candidates have used."""
        return math.fsum(self.level(k) for k in range(1, candidates + 1))
