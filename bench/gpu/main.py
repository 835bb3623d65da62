"""Training on one accelerator against TRL: tokens and pairs per second, peak memory, share of the device's peak.

    python bench/gpu/main.py [--only sft vision dpo] [--shape 8b] [--turns 30] [--minutes 9] [--json FILE]
    python bench/gpu/main.py --smoke

Shapes are those of models of 7 to 8 billion parameters, with random weights, which do as well for speed. Contenders,
data and rules are those of `bench/train`; a contender has the device to itself, since two models of this size would
not measure memory fairly side by side, and the rounds alternate. TRL runs packed with its own attention, with
FlexAttention, and compiled: the fastest counts. `--smoke` runs everything once on a processor at a tiny shape, to show
that it runs; its figures mean nothing.
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import contenders
import vision
import workload
from turns import Turn

SHAPES = {
    "8b": workload.Toy(size=4096, layers=36, middle=12_288, head=128, device="cuda", bf16=True, chats=256),
    "tiny": workload.Toy(size=64, layers=2, head=16, chats=24, row=512, pairs=2),
}
"""Models by name: Qwen3-8B's shape (with a head over 32,000 tokens), and one for trying this script out."""
ROUNDS = 2
"""Rounds; the contenders alternate."""
WORK: dict[str, dict[str, Callable[..., None]]] = {
    "sft": {
        "sluice": contenders.sft_sluice,
        "TRL packed": contenders.sft_trl_packed,
        "TRL flex": contenders.sft_trl_flex,
        "TRL compiled": contenders.sft_trl_compiled,
    },
    "vision": dict(vision.CONTENDERS),
    "dpo": {"sluice": contenders.dpo_sluice, "TRL": contenders.dpo_trl},
}
"""Contenders by kind of work; the product comes first."""
NEED_ACCELERATOR = frozenset({"TRL flex", "TRL compiled"})
"""Contenders that do not run on a processor."""
REACH = {"sft": (1.5, 0.6), "vision": (2.0, 0.6), "dpo": (2.5, 0.6)}
"""Asked for: speed at least, and memory at most, against TRL."""
UNITS = {"sft": "tokens", "vision": "samples", "dpo": "pairs"}
"""What is counted."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How much is measured."""

    toy: workload.Toy
    """The language model."""
    shape: str
    """Its name."""
    steps: int
    """Steps of a contender that count, over all rounds."""
    warm_up: int
    """Steps of a round that do not."""
    rounds: int
    """Rounds."""
    seconds: float
    """Time for one kind of work; no round but the first begins after it."""


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


def _round(function: Callable[..., None], connection: Connection, run: Run, options: dict[str, Any]) -> None:
    """One contender's round in a process of its own."""
    import torch

    turns = _OwnTurns(connection, run.warm_up + max(1, run.steps // run.rounds))
    started = time.perf_counter()

    def ready() -> Turn:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return turns

    function(ready, toy=run.toy, **options)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    counted = slice(run.warm_up, None)
    # Loading, compiling and warm-up: what a short run pays besides.
    before = time.perf_counter() - started - sum(turns.seconds[counted])
    connection.send((turns.seconds[counted], turns.units[counted], peak, reserved, before))


def measure(part: str, run: Run) -> dict[str, dict[str, float]]:
    """Rates and memory of each contender, over alternating rounds.

    Raises:
        RuntimeError: a contender failed.
    """
    context = multiprocessing.get_context("spawn")
    able = {name: each for name, each in WORK[part].items() if run.toy.device != "cpu" or name not in NEED_ACCELERATOR}
    found: dict[str, list[Any]] = {name: [] for name in able}
    options = {"shape": run.shape} if part == "vision" else {}
    began = time.monotonic()
    for number in range(run.rounds):
        if number and time.monotonic() - began > run.seconds * number / (number + 1):
            break
        for name, function in able.items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_round, args=(function, theirs, run, options))
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
            "rate": sum(sum(each[1]) for each in rounds) / sum(sum(each[0]) for each in rounds),
            "step_seconds": median(second for each in rounds for second in each[0]),
            "peak_gib": max(each[2] for each in rounds) / 2**30,
            "reserved_gib": max(each[3] for each in rounds) / 2**30,
            "before_seconds": median(each[4] for each in rounds),
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

    unit = UNITS[part]
    print(f"\n{part}, real {unit}" if part == "sft" else f"\n{part}, {unit}")
    for name, each in found.items():
        print(
            f"  {name:<12} {each['rate']:>10,.1f} {unit}/s   {each['step_seconds']:>7.3f} s a step   "
            f"{each['peak_gib']:>6.2f} GiB allocated, {each['reserved_gib']:.2f} reserved   "
            f"{each['before_seconds']:.0f} s before the first step that counts"
        )
    ours = found["sluice"]
    theirs = max((each for name, each in found.items() if name != "sluice"), key=lambda each: each["rate"])
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
    parser.add_argument("--minutes", type=float, default=9.0, help="time for one kind of work (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="everything once, tiny, on a processor")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    import torch

    device, shape = ("cpu", "tiny") if arguments.smoke else (arguments.device, arguments.shape)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA or ROCm device here: try --smoke, or run it where one is")
    run = Run(
        toy=dataclasses.replace(SHAPES[shape], device=device),
        shape=shape,
        steps=1 if arguments.smoke else arguments.turns,
        warm_up=1 if arguments.smoke else 3,
        rounds=1 if arguments.smoke else ROUNDS,
        seconds=60 * arguments.minutes,
    )
    figures = {}
    for part in arguments.only:
        figures[part] = measure(part, run)
        show(part, run.toy, figures[part])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
