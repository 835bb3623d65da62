"""`python bench/rollout/main.py`: how rollouts end, simulated rule by rule, and how fast a rollback is."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import agreement
import numpy as np
import others
import sluice
from rollback import measure_rollbacks
from traffic import Traffic, blocks

from sluice_evaluator.statistics import SequentialConfig, two_arm_sample_size

MARGIN = 0.03
HORIZON_MIN = 7 * 1440.0
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)
PROMOTES_WORSE, ROLLS_BACK_EQUAL, FIXED_SHARE, FLAGGER_SHARE, ROLLBACK_S = 0.01, 0.05, 0.5, 0.2, 2.0
WORLDS = {
    "lag, clustered": Traffic(),
    "lag alone": Traffic(clustering=0.0),
    "neither": Traffic(clustering=0.0, lag_min=0.0),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rule in one world."""

    world: str
    rule: str
    ratio: float
    promoted: float
    rolled_back: float
    touched_median: float
    touched_mean: float


def _with_ratio(traffic: Traffic, ratio: float) -> Traffic:
    return Traffic(
        ratio=ratio,
        stable_rate=traffic.stable_rate,
        runs_per_min=traffic.runs_per_min,
        lag_min=traffic.lag_min,
        clustering=traffic.clustering,
    )


def rules(simulations: int, blocks_each: int) -> dict[str, Callable[[np.random.Generator, Traffic], others.Outcome]]:
    """Return every rule as a function of generator and traffic."""

    def ours(generator: np.random.Generator, traffic: Traffic) -> others.Outcome:
        config = SequentialConfig(margin=MARGIN)
        found = sluice.climb(generator, traffic, config, simulations=simulations, count=blocks_each)
        rest = np.maximum(0.0, HORIZON_MIN - found.minutes) * traffic.runs_per_min
        return others.Outcome(
            promoted=found.promoted, rolled_back=found.rolled_back, touched=found.touched + found.promoted * rest
        )

    return {
        "Sluice, sequential": ours,
        "seed: rate ≤ stable rate": lambda g, t: others.seed_rule(g, t, simulations=simulations),
        "3 of 20, 24 windows": lambda g, t: others.three_of_twenty(g, t, simulations=simulations),
        "Argo, documented example": lambda g, t: others.argo(g, t, simulations=simulations, horizon_min=HORIZON_MIN),
        "Flagger, threshold 1": lambda g, t: others.flagger(
            g, t, simulations=simulations, horizon_min=HORIZON_MIN, threshold=1
        ),
        "Flagger, threshold 5": lambda g, t: others.flagger(
            g, t, simulations=simulations, horizon_min=HORIZON_MIN, threshold=5
        ),
    }


def endings(simulations: int, blocks_each: int, seed: int) -> Iterator[Row]:
    """Simulate whole rollouts of an equal, a twice and a three times worse candidate by every rule."""
    for world, traffic in WORLDS.items():
        for name, rule in rules(simulations, blocks_each).items():
            for ratio in (1.0, 2.0, 3.0):
                found = rule(np.random.default_rng(seed), _with_ratio(traffic, ratio))
                yield Row(
                    world=world,
                    rule=name,
                    ratio=ratio,
                    promoted=float(found.promoted.mean()),
                    rolled_back=float(found.rolled_back.mean()),
                    touched_median=float(np.median(found.touched)),
                    touched_mean=float(found.touched.mean()),
                )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One step at one share."""

    share: float
    ratio: float
    false_alarms: float
    median_runs: float
    least_runs: int
    fixed_80: int
    fixed_95: int


def detection(simulations: int, blocks_each: int, seed: int) -> Iterator[Cell]:
    """Simulate single steps: candidate runs until harm is shown, and equal candidates that are taken for harmful."""
    config, world = SequentialConfig(margin=MARGIN), WORLDS["lag, clustered"]
    for share in SHARES:
        equal = _step(np.random.default_rng(seed), world, share, config, simulations, blocks_each)
        for ratio in (2.0, 3.0):
            traffic = _with_ratio(world, ratio)
            found = _step(np.random.default_rng(seed), traffic, share, config, simulations, blocks_each)
            needed = np.where(found.harmed, found.runs, np.inf)
            rates = traffic.stable_rate, traffic.candidate_rate
            yield Cell(
                share=share,
                ratio=ratio,
                false_alarms=float(equal.harmed.mean()),
                median_runs=float(np.median(needed)),
                least_runs=round(wald_runs(*rates, share, sluice.harm_alpha(config.alpha, 1))),
                fixed_80=two_arm_sample_size(*rates, share, power=0.8).candidate,
                fixed_95=two_arm_sample_size(*rates, share, power=0.95).candidate,
            )


def wald_runs(stable: float, candidate: float, share: float, alpha: float) -> float:
    """Return the mean of the candidate runs that no test of this level which always detects can beat (Wald 1945).

    It is `ln(1/alpha)` by the information of a candidate run and its part of the stable ones, for the nearest null.
    """
    ratio = (1 - share) / share
    null = (candidate + ratio * stable) / (1 + ratio)
    information = _divergence(candidate, null) + ratio * _divergence(stable, null)
    return math.log(1 / alpha) / information


def _divergence(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _step(
    generator: np.random.Generator,
    traffic: Traffic,
    share: float,
    config: SequentialConfig,
    simulations: int,
    count: int,
) -> sluice.Step:
    drawn = blocks(
        generator, traffic, share=share, simulations=simulations, count=count, maturity_min=sluice.MATURITY_MIN
    )
    return sluice.judge(drawn, traffic, share, config)


def report_endings(rows: list[Row]) -> list[str]:
    """Print the table of endings and return what fell short."""
    print("| world | rule | candidate | promoted to 100 % | rolled back | its runs until then, median | mean |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.world} | {row.rule} | {row.ratio:.0f}× | {row.promoted:.2%} | {row.rolled_back:.2%} | "
            f"{row.touched_median:,.0f} | {row.touched_mean:,.0f} |"
        )
    short = []
    by = {(row.world, row.rule, row.ratio): row for row in rows}
    for world in WORLDS:
        worse, equal, three = (by[world, "Sluice, sequential", ratio] for ratio in (2.0, 1.0, 3.0))
        if worse.promoted > PROMOTES_WORSE:
            short.append(f"{world}: a 2× candidate is promoted in {worse.promoted:.2%}")
        if equal.rolled_back > ROLLS_BACK_EQUAL:
            short.append(f"{world}: an equal candidate is rolled back in {equal.rolled_back:.2%}")
        for name in ("Flagger, threshold 1", "Flagger, threshold 5"):
            flagger = by[world, name, 3.0]
            for kind, ours, theirs in (
                ("mean", three.touched_mean, flagger.touched_mean),
                ("median", three.touched_median, flagger.touched_median),
            ):
                if ours > FLAGGER_SHARE * theirs:
                    short.append(f"{world}: {kind} users touched by 3×: {ours:,.0f} against {theirs:,.0f} of {name}")
    return short


def report_detection(cells: list[Cell]) -> list[str]:
    """Print the table of detections and return what fell short."""
    titles = "share", "candidate", "equal ones taken for harmful", "median runs to detect", "least mean (Wald)"
    print(f"\n| {' | '.join(titles)} | fixed plan, 80 % | 95 % |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    short = []
    for cell in cells:
        by = f"{cell.median_runs / cell.fixed_80:.2f}×, {cell.median_runs / cell.fixed_95:.2f}×"
        print(
            f"| {cell.share:.0%} | {cell.ratio:.0f}× | {cell.false_alarms:.2%} | {cell.median_runs:.0f} ({by}) | "
            f"{cell.least_runs} | {cell.fixed_80} | {cell.fixed_95} |"
        )
        if cell.median_runs > FIXED_SHARE * cell.fixed_80:
            ratio = cell.median_runs / cell.fixed_80
            short.append(f"share {cell.share:.0%}, {cell.ratio:.0f}×: {ratio:.2f}× of the fixed plan's runs")
        if cell.false_alarms > ROLLS_BACK_EQUAL:
            short.append(f"share {cell.share:.0%}: {cell.false_alarms:.2%} of the equal candidates taken for harmful")
    return short


def main() -> int:
    """Run everything, and say what fell short of its reach: a measurement, not a test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=2000, help="blocks after which a step counts as undecided")
    parser.add_argument("--rollbacks", type=int, default=20, help="rollbacks on a real API server; 0: none")
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    simulations = args.simulations // (10 if args.quick else 1)
    began = time.monotonic()

    config = SequentialConfig(margin=MARGIN)
    generator = np.random.default_rng(args.seed)
    samples = sum(
        agreement.check(generator, _with_ratio(world, ratio), share, config, 3)
        for world in WORLDS.values()
        for ratio in (1.0, 3.0)
        for share in (0.05, 0.5)
    )
    print(f"{samples} sampled steps end in the simulation as in `sluice_evaluator.shadow.analyze`\n", flush=True)
    rows = list(endings(simulations, args.blocks, args.seed))
    short = report_endings(rows)
    cells = list(detection(simulations, args.blocks, args.seed))
    short += report_detection(cells)
    times: list[float] = []
    if args.rollbacks:
        times = sorted(measure_rollbacks(args.rollbacks))
        print(f"\nrollback, {len(times)} times: median {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s")
        if times[-1] > ROLLBACK_S:
            short.append(f"the longest rollback took {times[-1]:.2f} s")
    if args.json:
        document = {"endings": [asdict(r) for r in rows], "detection": [asdict(c) for c in cells], "rollback_s": times}
        args.json.write_text(json.dumps(document | {"short": short}, indent=2) + "\n", encoding="utf-8")
    print("\n" + ("fell short:\n- " + "\n- ".join(short) if short else "everything within its reach"))
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
