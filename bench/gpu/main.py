"""Training on one accelerator against TRL: tokens and pairs per second, peak memory, share of the device's peak.

    python bench/gpu/main.py [--only sft dpo] [--shape 8b] [--turns 30] [--device cuda] [--json FILE]

Shapes are those of models of 7 to 8 billion parameters, with random weights, which do as well for speed. Contenders,
data and rules are those of `bench/train`; a contender has the device to itself, since two models of this size would
not measure memory fairly side by side, and the rounds alternate. `--device cpu --shape tiny` shows that it runs.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import contenders
import workload
from turns import Turn

SHAPES = {
    "8b": workload.Toy(size=4096, layers=36, middle=12_288, head=128, device="cuda", bf16=True, chats=256),
    "tiny": workload.Toy(size=64, layers=2, chats=24),
}
"""Models by name: Qwen3-8B's shape (with a head over 32,000 tokens), and one for trying this script out."""
WARM_UP = 3
"""Steps of a round that do not count."""
ROUNDS = 3
"""Rounds; the contenders alternate."""
WORK: dict[str, dict[str, Callable[..., None]]] = {
    "sft": {"sluice": contenders.sft_sluice, "TRL packed": contenders.sft_trl_packed},
    "dpo": {"sluice": contenders.dpo_sluice, "TRL": contenders.dpo_trl},
}
"""Contenders by kind of work."""
REACH = {"sft": (1.5, 0.6), "dpo": (2.5, 0.6)}
"""Asked for: speed at least, and memory at most, against TRL."""


class _OwnTurns(Turn):
    """Turns without anybody to wait for: as many steps as are asked for."""

    def __init__(self, connection: Connection, steps: int) -> None:
        super().__init__(connection)
        self._left = steps
        self.seconds: list[float] = []
        self.units: list[float] = []

    def begin(self) -> bool:
        """Start the next step's clock, if there is one."""
        self._left -= 1
        self._started = time.perf_counter()
        return self._left >= 0

    def end(self, units: float, **figures: float) -> None:
        """Note the step, once the device is done with it."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)
        self.units.append(units)


def _round(function: Callable[..., None], connection: Connection, steps: int, toy: workload.Toy) -> None:
    """One contender's round in a process of its own."""
    import torch

    turns = _OwnTurns(connection, WARM_UP + steps)

    def ready() -> Turn:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return turns

    function(ready, toy=toy)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    counted = slice(WARM_UP, None)
    connection.send((turns.seconds[counted], turns.units[counted], peak, reserved))


def measure(part: str, toy: workload.Toy, steps: int) -> dict[str, dict[str, float]]:
    """Rates and memory of each contender, over alternating rounds.

    Raises:
        RuntimeError: a contender failed.
    """
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Any]] = {name: [] for name in WORK[part]}
    for _ in range(ROUNDS):
        for name, function in WORK[part].items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_round, args=(function, theirs, max(1, steps // ROUNDS), toy))
            process.start()
            theirs.close()
            try:
                found[name].append(mine.recv())
            except EOFError as error:
                raise RuntimeError(f"{name} failed: its own message is above") from error
            finally:
                process.join()
    return {
        name: {
            "rate": sum(sum(units) for _, units, _, _ in rounds) / sum(sum(seconds) for seconds, _, _, _ in rounds),
            "step_seconds": median(second for seconds, _, _, _ in rounds for second in seconds),
            "peak_gib": max(peak for _, _, peak, _ in rounds) / 2**30,
            "reserved_gib": max(reserved for _, _, _, reserved in rounds) / 2**30,
        }
        for name, rounds in found.items()
    }


def flops_per_second(toy: workload.Toy, rate: float) -> float:
    """Model FLOP/s of supervised training at a rate of real tokens, by the rule for LoRA."""
    import torch

    from sluice_trainer.flops import Load, Work
    from sluice_trainer.model import LoraSettings, add_adapter

    with torch.device("meta"):
        model = workload.toy_model(workload.Toy(**{**vars(toy), "device": "meta"})).requires_grad_(False)
        adapted = add_adapter(model, LoraSettings(rank=workload.RANK, alpha=workload.ALPHA), seed=0)
    documents = workload.chats(toy.chats)
    tokens = sum(document.length for document in documents)
    squares = sum(document.length**2 for document in documents)
    scored = sum(document.scored_count for document in documents)
    return rate * Work.of(adapted).flops(Load(tokens=tokens, scored=scored, squares=squares)) / tokens


def show(part: str, toy: workload.Toy, found: dict[str, dict[str, float]]) -> None:
    """Print the figures beside what is asked for."""
    import torch

    from sluice_trainer.flops import peak_of

    unit = "tokens" if part == "sft" else "pairs"
    print(f"\n{part.upper()}, real {unit}" if part == "sft" else f"\n{part.upper()}, {unit}")
    for name, each in found.items():
        print(
            f"  {name:<12} {each['rate']:>10,.1f} {unit}/s   {each['step_seconds']:>7.3f} s a step   "
            f"{each['peak_gib']:>6.2f} GiB allocated, {each['reserved_gib']:.2f} reserved"
        )
    ours, theirs = found["sluice"], next(each for name, each in found.items() if name != "sluice")
    speed, (fast, lean) = ours["rate"] / theirs["rate"], REACH[part]
    print(f"  speed against TRL {speed:.2f} x (asked for: >= {fast}) {'reached' if speed >= fast else 'NOT reached'}")
    if theirs["peak_gib"]:
        memory = ours["peak_gib"] / theirs["peak_gib"]
        held = "reached" if memory <= lean else "NOT reached"
        print(f"  memory against TRL {memory:.2f} x (asked for: <= {lean}) {held}")
    if part == "sft":
        flops = flops_per_second(toy, ours["rate"])
        peak = peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        share = f", {flops / peak:.1%} of the peak (asked for: >= 50 %)" if peak else ""
        print(f"  model FLOP/s {flops / 1e12:.2f} T{share}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(WORK), default=list(WORK), help="kinds of work")
    parser.add_argument("--shape", choices=list(SHAPES), default="8b", help="model (%(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where (%(default)s)")
    parser.add_argument("--turns", type=int, default=30, help="steps that count, over all rounds (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA or ROCm device here: try --device cpu --shape tiny, or run it where one is")
    toy = workload.Toy(**{**vars(SHAPES[arguments.shape]), "device": arguments.device})
    figures = {}
    for part in arguments.only:
        figures[part] = measure(part, toy, arguments.turns)
        show(part, toy, figures[part])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
