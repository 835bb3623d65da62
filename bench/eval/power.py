"""How many candidate runs show a harmful candidate? Planned by simulation, then checked on fresh ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sluice_evaluator.statistics import SequentialConfig, log_harm, sequential_sample_size, two_arm_sample_size
from sluice_evaluator.statistics.planning import simulate_blocks

STABLE_RATE = 0.0306


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """One effect at one share."""

    ratio: float
    share: float
    planned: int
    fixed: int
    median: float
    power: float
    simulations: int


def rows(simulations: int, seed: int, *, blocks: int = 1200) -> Iterator[PowerRow]:
    """Plan for 90 % power, then measure it."""
    config = SequentialConfig()
    for ratio, share in ((2.0, 0.05), (3.0, 0.05), (2.0, 0.25)):
        candidate = STABLE_RATE * ratio
        plan = sequential_sample_size(
            STABLE_RATE, candidate, share, config, power=0.92, simulations=simulations, seed=seed, longest=blocks
        )
        generator = np.random.default_rng(seed + 1)
        first = []
        for start in range(0, simulations, 50):
            count = min(50, simulations - start)
            drawn = simulate_blocks(
                generator, simulations=count, blocks=blocks, share=share, candidate=candidate, stable=STABLE_RATE
            )
            crossed = log_harm(drawn, config) >= math.log(config.threshold)
            runs = np.cumsum(drawn.candidate_runs, axis=-1)
            hit = runs[np.arange(count), crossed.argmax(axis=-1)]
            first.append(np.where(crossed.any(axis=-1), hit, np.inf))
        needed = np.concatenate(first)
        yield PowerRow(
            ratio=ratio,
            share=share,
            planned=plan.candidate,
            fixed=two_arm_sample_size(STABLE_RATE, candidate, share, power=0.9).candidate,
            median=float(np.median(needed)),
            power=float((needed <= plan.candidate).mean()),
            simulations=simulations,
        )
