"""Does the fast simulation say what the evaluator says? Sampled steps are written out as runs and analysed."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
from sluice import LOOK_MIN, MATURITY_MIN, MIN_RUNS, harm_alpha, judge, looks
from traffic import Traffic, blocks

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.contracts.trace import Variant
from sluice_evaluator.runs import Run, RunSet
from sluice_evaluator.shadow import ShadowConfig, analyze
from sluice_evaluator.statistics import SequentialConfig
from sluice_evaluator.statistics.sequential import Blocks

START = datetime(2026, 11, 1, tzinfo=UTC)


def runs_of(drawn: Blocks, traffic: Traffic) -> list[Run]:
    """Write one simulation's blocks out as runs, in the order in which they end."""
    found: list[Run] = []
    minutes = 0.0
    for place in range(drawn.candidate_runs.shape[-1]):
        n_c, x_c = int(drawn.candidate_runs[0, place]), int(drawn.candidate_events[0, place])
        n_s, x_s = int(drawn.stable_runs[0, place]), int(drawn.stable_events[0, place])
        # A block is many runs of one arm and one of the other, which ends it.
        first = [(Variant.CANDIDATE, n_c, x_c), (Variant.BASELINE, n_s, x_s)]
        for variant, number, events in first if n_c >= n_s else reversed(first):
            for index in range(number):
                minutes += 1 / traffic.runs_per_min
                found.append(_run(len(found), variant, START + timedelta(minutes=minutes), index < events))
    return found


def _run(number: int, variant: Variant, ended: datetime, escalated: bool) -> Run:
    return Run(
        tenant="t",
        run_id=f"{number:07d}",
        variant=variant,
        started_at=ended,
        ended_at=ended,
        steps=1,
        escalations=int(escalated),
        failures=int(escalated),
        model_digest="",
        rollout="",
        path=f"{number}.json",
        reasons={},
    )


def check(
    generator: np.random.Generator, traffic: Traffic, share: float, config: SequentialConfig, samples: int
) -> int:
    """Compare verdict and instant of sampled steps; return how many were compared.

    Raises:
        AssertionError: the simulation and the evaluator differ.
    """
    for _ in range(samples):
        drawn = blocks(generator, traffic, share=share, simulations=1, count=400, maturity_min=MATURITY_MIN)
        fast, runs = judge(drawn, traffic, share, config), RunSet(runs=runs_of(drawn, traffic))
        runs.files = len(runs.runs)
        decided = bool(fast.harmed[0] or fast.advanced[0])
        end = float(fast.minutes[0]) if decided else float(looks(drawn, traffic)[0, -1])
        before = _verdict(runs, end - LOOK_MIN, config)
        now = _verdict(runs, end, config)
        expected = ShadowVerdict.HARM if fast.harmed[0] else ShadowVerdict.NON_INFERIOR
        assert (now is expected) == decided, (now, expected, decided)
        if fast.harmed[0]:
            assert before is not ShadowVerdict.HARM, "harm was shown a look earlier"
        assert not math.isnan(float(fast.touched[0]))
    return samples


def _verdict(runs: RunSet, minutes: float, config: SequentialConfig) -> ShadowVerdict:
    # Half a second later: an instant is whole minutes, a run's end is not.
    asked = ShadowConfig(
        method="sequential",
        margin=config.margin,
        alpha=config.alpha,
        harm_alpha=harm_alpha(config.alpha, 1),
        min_runs=MIN_RUNS,
        since=START,
        now=START + timedelta(minutes=minutes, seconds=0.5),
        maturity_s=60 * MATURITY_MIN,
    )
    return analyze(runs, asked).verdict
