"""Sluice's rule over simulated traffic: the evaluator's own e-processes, looked at every five minutes, step by step."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from traffic import Traffic, blocks

from sluice_evaluator.statistics import SequentialConfig, log_harm, log_safe
from sluice_evaluator.statistics.sequential import Blocks, Floats

LOOK_MIN = 5.0
"""Minutes between two analyses."""
MATURITY_MIN = 15.0
"""Minutes until a run counts."""
MIN_RUNS = 100
"""Matured candidate runs asked for at each step."""
SOAK_MIN = 30.0
"""Minutes that a step lasts at least."""
LONGEST_MIN = 7 * 1440.0
"""Minutes until an undecided step is held."""
STEPS = (0.01, 0.05, 0.25, 0.5)
"""Shares before 100 %."""
PREFIX = 300
"""Blocks that are looked at first; only what they leave undecided costs the whole path."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one step went, arrays over simulations."""

    harmed: NDArray[np.bool_]
    """Whether harm was shown, before anything else."""
    advanced: NDArray[np.bool_]
    """Whether non-inferiority was shown with enough runs, and no harm before it."""
    minutes: Floats
    """When it ended; `LONGEST_MIN` where undecided."""
    runs: Floats
    """Matured candidate runs at that look."""
    touched: Floats
    """Candidate runs that had been started by then."""


def look_after(minutes: Floats) -> Floats:
    """Return the first look at or after an instant."""
    return np.ceil(minutes / LOOK_MIN) * LOOK_MIN


def looks(drawn: Blocks, traffic: Traffic) -> Floats:
    """Return the look at which each block is first seen: its last run has matured."""
    total = np.cumsum(drawn.candidate_runs + drawn.stable_runs, axis=-1)
    return look_after(total / traffic.runs_per_min + MATURITY_MIN)


def _first(reached: NDArray[np.bool_], when: Floats) -> Floats:
    """Return the instant of the first block at which something is reached, infinity where it never is."""
    found = np.where(reached, when, np.inf)
    return found.min(axis=-1)


def harm_alpha(alpha: float, step: int) -> float:
    """Return a step's part of the error level of harm, `step` from 1: as the operator's decision deals it out."""
    return alpha * 0.5**step


def judge(drawn: Blocks, traffic: Traffic, share: float, config: SequentialConfig, *, step: int = 1) -> Step:
    """Apply harm, soak, minimum of runs and non-inferiority to drawn blocks; the first that holds ends the step."""
    simulations = drawn.candidate_runs.shape[0]
    harm, safe = np.full(simulations, np.inf), np.full(simulations, np.inf)
    open_ = np.arange(simulations)
    for count in (PREFIX, drawn.candidate_runs.shape[1]):
        part = Blocks(
            candidate_runs=drawn.candidate_runs[open_, :count],
            candidate_events=drawn.candidate_events[open_, :count],
            stable_runs=drawn.stable_runs[open_, :count],
            stable_events=drawn.stable_events[open_, :count],
        )
        when, threshold = looks(part, traffic), math.log(config.threshold)
        runs = np.cumsum(part.candidate_runs, axis=-1)
        harmful = -math.log(harm_alpha(config.alpha, step))
        harm[open_] = _first(log_harm(part, config) >= harmful, when)
        # A look sees the newest e-value: of the blocks of one look only the last one decides.
        last = np.concatenate([when[:, 1:] > when[:, :-1], np.ones((len(open_), 1), bool)], axis=-1)
        ready = (log_safe(part, config) >= threshold) & (runs >= MIN_RUNS) & last
        safe[open_] = _first(ready, np.maximum(when, SOAK_MIN))
        open_ = np.flatnonzero(np.isinf(np.minimum(harm, safe)))
        if not len(open_):
            break
    when = looks(drawn, traffic)
    end = np.minimum(np.minimum(harm, safe), LONGEST_MIN)
    seen = (when <= end[:, None]) * drawn.candidate_runs
    return Step(
        harmed=(harm <= safe) & (harm <= LONGEST_MIN),
        advanced=(safe < harm) & (safe <= LONGEST_MIN),
        minutes=end,
        runs=seen.sum(axis=-1),
        touched=end * traffic.runs_per_min * share,
    )


@dataclass(frozen=True, kw_only=True)
class Climb:
    """How whole rollouts went, arrays over simulations."""

    promoted: NDArray[np.bool_]
    """Reached 100 %."""
    rolled_back: NDArray[np.bool_]
    """Harm was shown on the way."""
    touched: Floats
    """Candidate runs until the end."""
    minutes: Floats
    """How long it took."""


def climb(
    generator: np.random.Generator, traffic: Traffic, config: SequentialConfig, *, simulations: int, count: int
) -> Climb:
    """Simulate rollouts through every step, each on fresh evidence."""
    promoted = np.ones(simulations, bool)
    rolled_back = np.zeros(simulations, bool)
    touched, minutes = np.zeros(simulations), np.zeros(simulations)
    for number, share in enumerate(STEPS, 1):
        alive = np.flatnonzero(promoted)
        if not len(alive):
            break
        drawn = blocks(generator, traffic, share=share, simulations=len(alive), count=count, maturity_min=MATURITY_MIN)
        step = judge(drawn, traffic, share, config, step=number)
        touched[alive] += step.touched
        minutes[alive] += step.minutes
        rolled_back[alive] = step.harmed
        promoted[alive] = step.advanced
    return Climb(promoted=promoted, rolled_back=rolled_back, touched=touched, minutes=minutes)
