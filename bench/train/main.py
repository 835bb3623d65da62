"""Training speed and memory against TRL, under Ray against bare, and what a checkpoint costs.

python bench/train/main.py [--only sft sft-stock dpo ray checkpoint] [--turns 30] [--minutes 14] [--json FILE]
"""

import argparse
import json
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import beside_ray
import contenders
import workload
from turns import Tally, take_turns

GIB = 2**30


def print_tallies(title: str, unit: str, tallies: dict[str, Tally]) -> None:
    """Print each contender's rate, time of a turn and peak memory."""
    print(f"\n{title}")
    for name, tally in tallies.items():
        print(
            f"  {name:<14} {tally.rate:>9,.1f} {unit}/s   {tally.cpu_rate:>8,.1f} a processor second   "
            f"{tally.turn_seconds:>7.3f} s a step (median of {len(tally.seconds)})   "
            f"{tally.peak_bytes / GIB:>5.2f} GiB at most"
        )


def against(name: str, value: float, reach: str, held: bool) -> None:
    """Print a ratio beside what is asked for."""
    print(f"  {name:<44} {value:>6.2f} x   (asked for: {reach}) {'reached' if held else 'NOT reached'}")


def against_packed(ours: Tally, packed: Tally) -> tuple[float, float]:
    """Print and return the ratios of speed and memory that supervised training is asked for."""
    speed, memory = ours.rate / packed.rate, ours.peak_bytes / packed.peak_bytes
    against("speed against TRL packed", speed, ">= 5", speed >= 5)
    against("memory against TRL packed", memory, "<= 0.5", memory <= 0.5)
    return speed, memory


def sft(toy: workload.Toy, turns: int, seconds: float) -> dict[str, float]:
    """Supervised training beside TRL, packed and padded."""
    tallies = take_turns(
        {
            "sluice": contenders.sft_sluice,
            "TRL packed": contenders.sft_trl_packed,
            "TRL padded": contenders.sft_trl_padded,
        },
        turns,
        seconds=seconds,
        seldom={"TRL padded": 5},
        toy=toy,
    )
    print_tallies("SFT, real tokens", "tokens", tallies)
    ours, packed, padded = (tallies[name] for name in ("sluice", "TRL packed", "TRL padded"))
    speed, memory = against_packed(ours, packed)
    print(f"  {'the same by processor time':<44} {ours.cpu_rate / packed.cpu_rate:>6.2f} x")
    print(f"  {'speed against TRL padded':<44} {ours.rate / padded.rate:>6.2f} x")
    print(f"  {'memory against TRL padded':<44} {ours.peak_bytes / padded.peak_bytes:>6.2f} x")
    return {
        "sft_tokens_per_second": ours.rate,
        "sft_speed_over_trl_packed": speed,
        "sft_speed_over_trl_packed_cpu": ours.cpu_rate / packed.cpu_rate,
        "sft_memory_over_trl_packed": memory,
        "sft_speed_over_trl_padded": ours.rate / padded.rate,
    }


def sft_stock(toy: workload.Toy, turns: int, seconds: float) -> dict[str, float]:
    """Supervised training beside TRL packed, both with the allocator's own settings."""
    contended = {"sluice": contenders.sft_sluice, "TRL packed": contenders.sft_trl_packed}
    tallies = take_turns(contended, turns, seconds=seconds, keeping=False, toy=toy)
    print_tallies("SFT, real tokens, memory handed back as glibc does by itself", "tokens", tallies)
    speed, memory = against_packed(tallies["sluice"], tallies["TRL packed"])
    return {"sft_stock_speed_over_trl_packed": speed, "sft_stock_memory_over_trl_packed": memory}


def dpo(toy: workload.Toy, turns: int, seconds: float) -> dict[str, float]:
    """Preference training beside TRL."""
    # Keeping what is freed takes TRL past the 24 GiB of a small machine here, so both have glibc's own settings.
    contended = {"sluice": contenders.dpo_sluice, "TRL": contenders.dpo_trl}
    tallies = take_turns(contended, turns, seconds=seconds, keeping=False, toy=toy)
    print_tallies("DPO, pairs, the reference's pass included", "pairs", tallies)
    ours, theirs = tallies["sluice"], tallies["TRL"]
    speed, memory = ours.rate / theirs.rate, ours.peak_bytes / theirs.peak_bytes
    against("speed against TRL", speed, ">= 2.5", speed >= 2.5)
    print(f"  {'the same by processor time':<44} {ours.cpu_rate / theirs.cpu_rate:>6.2f} x")
    print(f"  {'memory against TRL':<44} {memory:>6.2f} x")
    return {
        "dpo_pairs_per_second": ours.rate,
        "dpo_speed_over_trl": speed,
        "dpo_speed_over_trl_cpu": ours.cpu_rate / theirs.cpu_rate,
        "dpo_memory_over_trl": memory,
    }


def ray(toy: workload.Toy, turns: int, seconds: float) -> dict[str, float]:
    """The same job in this process and by a worker of Ray Train, in turns of a whole run.

    Once with a thread on every processor, where training and Ray's own processes share them, and once with one thread,
    which leaves them the others.
    """
    figures = {}
    for threads in sorted({os.cpu_count() or 1, 1}):
        rates = beside_ray.measure(toy, rounds=max(1, turns // 10), seconds=seconds / 2, threads=threads)
        bare, under = (sum(rates[name]) / len(rates[name]) for name in ("bare", "under Ray"))
        print(f"\nUnder Ray, {threads} of {os.cpu_count()} processors, real tokens, loading not counted")
        for name, found in rates.items():
            each = ", ".join(f"{rate:,.0f}" for rate in found)
            print(f"  {name:<14} {sum(found) / len(found):>9,.1f} tokens/s   {each}")
        against("under Ray against bare", under / bare, ">= 0.99", under / bare >= 0.99)
        figures[f"ray_over_bare_{threads}_threads"] = under / bare
    return figures


def checkpoint(toy: workload.Toy, turns: int, seconds: float) -> dict[str, float]:
    """What a full checkpoint of 0.5 GB makes training wait."""
    contended = {"background": contenders.checkpoint_sluice, "synchronous": contenders.checkpoint_synchronous}
    tallies = take_turns(contended, max(3, turns // 3), seconds=seconds, toy=toy)
    print("\nCheckpoints of 0.5 GB, one every four steps: adapter and moments")
    for name, tally in tallies.items():
        stalls = tally.figures["stall"]
        print(
            f"  {name:<14} {1000 * median(stalls):>7.1f} ms waited a checkpoint (median; at most "
            f"{1000 * max(stalls):.1f})   {tally.turn_seconds:>6.2f} s for four steps"
        )
    background, synchronous = (median(tallies[name].figures["stall"]) for name in contended)
    held = background <= 0.05
    print(f"  {'waited a checkpoint':<44} {1000 * background:>5.1f} ms  (asked for: <= 50) ", end="")
    print("reached" if held else "NOT reached")
    return {"checkpoint_stall_ms": 1000 * background, "checkpoint_synchronous_ms": 1000 * synchronous}


SHARES = {"sft": 0.25, "sft-stock": 0.15, "dpo": 0.25, "ray": 0.2, "checkpoint": 0.15}
"""Of the time, by part."""
PARTS: dict[str, Callable[[workload.Toy, int, float], dict[str, float]]] = {
    "sft": sft,
    "sft-stock": sft_stock,
    "dpo": dpo,
    "ray": ray,
    "checkpoint": checkpoint,
}
"""What can be measured, by name."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--turns", type=int, default=30, help="steps of each contender that count (%(default)s)")
    parser.add_argument("--minutes", type=float, default=14.0, help="time for all parts, about (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="width of the toy (%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the toy (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, fp32")
    toy = workload.Toy(size=arguments.size, layers=arguments.layers)
    figures: dict[str, float] = {}
    for part in arguments.only:
        figures |= PARTS[part](toy, arguments.turns, SHARES[part] * 60 * arguments.minutes)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
