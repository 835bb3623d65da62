"""`python bench/eval/main.py`: decisions, power and overhead of the evaluator, as tables, against its peers."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import decisions
import overhead
import power
import sandbox_rate

QUOTED = "measured by their own tools on another machine of two cores"
"""Where the peers' timings come from: inspect_ai 0.3.285, lm-eval 0.4.13, human_eval and evalplus of 2026."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """A figure, what the peers have, and what was asked."""

    work: str
    peers: str
    asked: str
    found: str
    holds: bool


def print_table(head: str, rows: Iterator[str]) -> None:
    """Print a Markdown table, row by row as they come; columns after the first are numbers unless they say not."""
    print(f"\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
    for row in rows:
        print(f"| {row} |", flush=True)


def decide(simulations: int, seed: int) -> list[decisions.Row]:
    """Simulate decisions and print them."""
    rows: list[decisions.Row] = []

    def lines() -> Iterator[str]:
        for row in (
            *decisions.evaluations(simulations, seed),
            *decisions.peeking(simulations, seed),
            *decisions.one_look(simulations, seed),
            *decisions.rollouts(simulations, seed),
            *decisions.whole_chain(simulations, seed),
        ):
            rows.append(row)
            promised = "" if row.bound is None else f"≤ {row.bound:.0%}"
            yield f"{row.question} | {row.rule} | {row.rate:.2%} | {row.error:.2%} | {promised}"

    print_table("wrong decision | rule | rate | ± s.e. | promised", lines())
    return rows


def plan(simulations: int, seed: int) -> list[power.PowerRow]:
    """Plan samples, check them on fresh simulations and print both."""
    rows: list[power.PowerRow] = []

    def lines() -> Iterator[str]:
        for row in power.rows(simulations, seed):
            rows.append(row)
            yield (
                f"{row.ratio:.0f}× | {row.share:.0%} | {row.planned} | {row.fixed} | {row.median:.0f} | {row.power:.1%}"
            )

    head = "escalations | share | planned candidate runs | fixed sample | median needed | power on fresh runs"
    print_table(head, lines())
    return rows


def reaches(
    rows: list[decisions.Row], powers: list[power.PowerRow], costs: dict[str, float], rate: float
) -> list[Reach]:
    """Hold the figures against what was asked."""
    bounded = [row for row in rows if row.bound is not None]
    seeds = [row.rate for row in rows if row.rule.startswith("seed") and "equal candidate" in row.question]
    worst = max(row.rate for row in bounded)
    chain = next(row.rate for row in rows if row.rule.startswith("Sluice"))
    twice = next(row for row in powers if row.ratio == 2.0 and row.share == 0.05)
    milliseconds = {name: 1000 * seconds for name, seconds in costs.items()}
    return [
        Reach(
            work="harness overhead a sample, stub model in this process, concurrency 32",
            peers=f"inspect_ai 12.7 to 16.6 ms ({QUOTED})",
            asked="≤ 0.2 ms",
            found=f"{milliseconds['in process']:.3f} ms",
            holds=milliseconds["in process"] <= 0.2,
        ),
        Reach(
            work="the same over loopback HTTP, stub server in another process",
            peers=f"lm-eval's client 0.13 ms at concurrency 32, 0.74 ms at 1 ({QUOTED})",
            asked="",
            found=f"{milliseconds['loopback HTTP']:.2f} ms at concurrency 32, of which "
            f"{milliseconds['bare client']:.2f} ms the bare aiohttp client; "
            f"{milliseconds['loopback HTTP, one at a time']:.2f} ms at 1",
            holds=True,
        ),
        Reach(
            work="sandboxed executions a second, two cores, every protection on",
            peers=f"human_eval 28 to 38, evalplus 61 to 107 ({QUOTED})",
            asked="≥ 300",
            found=f"{rate:.0f}",
            holds=rate >= 300,
        ),
        Reach(
            work="false promotion of an equal candidate, looked at after every block",
            peers=f"the seed's rules {min(seeds):.0%} to {max(seeds):.0%} (simulated here)",
            asked="≤ 5 %",
            found=f"{chain:.2%}; worst of all promised rates {worst:.2%}",
            holds=all(row.holds for row in bounded),
        ),
        Reach(
            work="power at twice the escalations, 5 % share, within the planned sample",
            peers="—",
            asked="≥ 90 %",
            found=f"{twice.power:.1%} within {twice.planned} candidate runs",
            holds=twice.power >= 0.9,
        ),
    ]


def main() -> int:
    """Run all benchmarks, and say what fell short of its reach: a measurement, not a test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations and samples")
    parser.add_argument("--seed", type=int, default=20261101)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    part = 10 if args.quick else 1
    # timings first, while nothing else has warmed or filled the machine
    costs = overhead.measure(20_000 // part, 32, rounds=3)
    rate = sandbox_rate.measure(3000 // part, rounds=3)
    rows = decide(args.simulations // part, args.seed)
    powers = plan(args.simulations // part, args.seed)
    found = reaches(rows, powers, costs, rate)
    print_table(
        "work | peers | asked | found | ",
        (f"{r.work} | {r.peers} | {r.asked} | {r.found} | {'' if r.holds else 'falls short'}" for r in found),
    )
    if args.json:
        document = {
            "decisions": [asdict(row) for row in rows],
            "power": [asdict(row) for row in powers],
            "overhead_s": costs,
            "sandbox_per_s": rate,
            "reach": [asdict(r) for r in found],
        }
        args.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    short = [r.work for r in found if not r.holds]
    print("\n" + ("falls short: " + "; ".join(short) if short else "everything within its reach"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
