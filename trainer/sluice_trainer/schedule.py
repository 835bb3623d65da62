"""Learning rate by step: linear warm-up, then cosine or linear decay to zero, or none. A pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

Decay = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Peak, warm-up and decay over a known number of steps."""

    peak: float
    """Highest learning rate."""
    steps: int
    """Optimizer steps of the run."""
    decay: Decay = "cosine"
    """Shape after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of the steps that warm up, rounded up."""

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise ValueError(f"learning_rate is {self.peak}: it must be greater than 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}: it must lie between 0 and 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: it must be at least 1")

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0; never 0 within the run."""
        warmup = math.ceil(self.warmup_ratio * self.steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if self.decay == "constant":
            return self.peak
        done = (step - warmup) / (self.steps - warmup)
        if self.decay == "linear":
            return self.peak * (1 - done)
        return self.peak * 0.5 * (1 + math.cos(math.pi * done))
