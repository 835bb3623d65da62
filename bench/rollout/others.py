"""The rules that others document, over the same traffic.

Sources: the seed's shadow analytics; Argo Rollouts' documentation (`failureLimit`, example of a success rate of at
least 95 % every five minutes, `setWeight` 20/40/60/80 with pauses of ten minutes); Flagger's documentation (interval
one minute, `stepWeight` 10, `maxWeight` 50, `request-success-rate` of at least 99 % over one minute, `threshold` 1
where it is left out, 5 in the examples; no data counts as a failed check).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from traffic import Traffic, stretch_rates

from sluice_evaluator.statistics.sequential import Floats

SEED_RUNS = 62
"""Candidate runs in the seed's example."""
SEED_SHARE = 0.05
"""Share of the candidate in the seed's example."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rule did, arrays over simulations."""

    promoted: NDArray[np.bool_]
    """Everything goes to the candidate."""
    rolled_back: NDArray[np.bool_]
    """The candidate was taken out."""
    touched: Floats
    """Candidate runs until then; with a promotion all runs of the horizon."""


def seed_rule(generator: np.random.Generator, traffic: Traffic, *, simulations: int) -> Outcome:
    """One look after 62 candidate runs: promoted where its rate is not above the stable arm's."""
    stable_runs = round(SEED_RUNS * (1 - SEED_SHARE) / SEED_SHARE)
    rates = stretch_rates(generator, traffic, (simulations, SEED_RUNS))
    candidate = generator.binomial(1, np.minimum(1.0, traffic.ratio * rates)).sum(axis=-1)
    each = stable_runs // SEED_RUNS
    stable = generator.binomial(each, rates).sum(axis=-1)
    passed = candidate * each * SEED_RUNS <= stable * SEED_RUNS
    touched = np.full(simulations, float(SEED_RUNS))
    return Outcome(promoted=passed, rolled_back=~passed, touched=touched)


def three_of_twenty(generator: np.random.Generator, traffic: Traffic, *, simulations: int) -> Outcome:
    """24 windows of 20 candidate runs; three escalations in one of them abort."""
    rates = stretch_rates(generator, traffic, (simulations, 24, 20))
    found = generator.binomial(1, np.minimum(1.0, traffic.ratio * rates)).sum(axis=-1)
    bad = found >= 3
    aborted = bad.any(axis=-1)
    windows = np.where(aborted, bad.argmax(axis=-1) + 1, 24)
    return Outcome(promoted=~aborted, rolled_back=aborted, touched=20.0 * windows)


def _window(
    generator: np.random.Generator, traffic: Traffic, weight: Floats, minutes: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw candidate runs of a window and the escalations that show in it."""
    runs = generator.poisson(traffic.runs_per_min * minutes * weight)
    rates = stretch_rates(generator, traffic, runs.shape)
    shown = traffic.shown_in_window(minutes)
    return runs, generator.binomial(runs, np.minimum(1.0, traffic.ratio * rates) * shown)


def argo(generator: np.random.Generator, traffic: Traffic, *, simulations: int, horizon_min: float) -> Outcome:
    """Success rate of at least 95 % every five minutes, at most three failures, 20/40/60/80 % for ten minutes each."""
    failed = np.zeros(simulations, int)
    touched = np.zeros(simulations)
    for weight in (0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8):
        going = failed <= 3
        runs, events = _window(generator, traffic, np.full(simulations, weight), 5.0)
        failed += going & (events > 0.05 * runs)
        touched += going * runs
    promoted = failed <= 3
    rest = max(0.0, horizon_min - 40.0) * traffic.runs_per_min
    return Outcome(promoted=promoted, rolled_back=~promoted, touched=touched + promoted * rest)


def flagger(
    generator: np.random.Generator, traffic: Traffic, *, simulations: int, horizon_min: float, threshold: int
) -> Outcome:
    """Success rate of at least 99 % over each minute, ten per cent more after each check that passes, until 50 %."""
    weight = np.full(simulations, 0.1)
    failed = np.zeros(simulations, int)
    promoted = np.zeros(simulations, bool)
    touched = np.zeros(simulations)
    minutes = 0.0
    while minutes < 5.0 + threshold:
        minutes += 1.0
        going = ~promoted & (failed < threshold)
        runs, events = _window(generator, traffic, weight * going, 1.0)
        passed = going & (runs > 0) & (events <= 0.01 * runs)
        failed += going & ~passed
        touched += runs
        promoted |= passed & (weight >= 0.5)
        weight = np.where(passed, np.minimum(0.5, weight + 0.1), weight)
    rest = max(0.0, horizon_min - minutes) * traffic.runs_per_min
    return Outcome(promoted=promoted, rolled_back=failed >= threshold, touched=touched + promoted * rest)
