"""`python bench/eval/main.py`: decisions, power and overhead of the evaluator, as tables."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import decisions
import overhead
import power
import sandbox_rate

OVERHEAD_REACH_MS = 0.2
POWER_REACH = 0.9
SANDBOX_REACH = 300.0


def main() -> int:
    """Run all benchmarks; 1 when something fell short of its reach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations and samples")
    parser.add_argument("--seed", type=int, default=20261101)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    simulations = args.simulations // (10 if args.quick else 1)
    short: list[str] = []

    print("| wrong decision | rule | rate | ± s.e. | promised |")
    print("|---|---|---:|---:|---:|")
    rows = []
    for row in (*decisions.evaluations(simulations, args.seed), *decisions.rollouts(simulations, args.seed)):
        promised = "" if row.bound is None else f"≤ {row.bound:.0%}"
        print(f"| {row.question} | {row.rule} | {row.rate:.2%} | {row.error:.2%} | {promised} |", flush=True)
        rows.append(asdict(row))
        if row.holds is False:
            short.append(f"{row.question}: {row.rate:.2%}")

    print("\n| escalations | share | planned runs (90 %) | fixed sample (90 %) | median | power on fresh runs |")
    print("|---:|---:|---:|---:|---:|---:|")
    powers = []
    for found in power.rows(max(200, simulations // 5), args.seed):
        print(
            f"| {found.ratio:.0f}× | {found.share:.0%} | {found.planned} | {found.fixed} | {found.median:.0f} | "
            f"{found.power:.1%} |",
            flush=True,
        )
        powers.append(asdict(found))
        if found.power < POWER_REACH:
            short.append(f"power at {found.ratio:.0f}×: {found.power:.1%}")

    print("\n| harness overhead, concurrency 32 | ms a sample |")
    print("|---|---:|")
    costs = overhead.measure(2000 if args.quick else 20_000, 32, rounds=3)
    for name, seconds in costs.items():
        print(f"| {name} | {1000 * seconds:.3f} |")
    if 1000 * costs["in process"] > OVERHEAD_REACH_MS:
        short.append(f"overhead in process: {1000 * costs['in process']:.3f} ms")

    print("\n| sandboxed executions | a second |")
    print("|---|---:|")
    rate = sandbox_rate.measure(200 if args.quick else 2000)
    print(f"| every protection on | {rate:.0f} |")
    if rate < SANDBOX_REACH:
        short.append(f"sandbox: {rate:.0f} a second")

    if args.json:
        document = {"decisions": rows, "power": powers, "overhead_s": costs, "sandbox_per_s": rate, "short": short}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    print("\n" + ("fell short: " + "; ".join(short) if short else "everything within its reach"))
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
