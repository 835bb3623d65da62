"""Training on one accelerator against TRL: tokens and pairs per second, peak memory, share of the device's peak.

    python bench/gpu/main.py [--only check sft vision dpo] [--shape 8b|small] [--turns 30] [--minutes 9] [--json FILE]
    python bench/gpu/main.py --smoke

`check` compares what the device computes with fp32 and plain operations, and fails where it is too far off. The other
parts are speed. Shapes are those of models of 7 to 8 billion parameters, with random weights, which do as well for
speed. Contenders, data and rules are those of `bench/train`; a contender has the device to itself, since two models of
this size would not measure memory fairly side by side, and the rounds alternate. The fastest of TRL's settings counts.
`--shape small` is for a rehearsal on a device. `--smoke` runs everything once on a processor at a tiny shape, to show
that it runs; its figures mean nothing. Figures are written after every contender; one that fails is noted, the rest go
on, and the exit code is 1 in the end.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
# Nothing is downloaded, and nothing asks whether it could be.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import check
import contenders
import peers
import vision
import workload
from rounds import ContenderError, Figures, Run, alone, measure

SHAPES = {
    "8b": workload.Toy(size=4096, layers=36, middle=12_288, head=128, device="cuda", bf16=True, chats=256),
    "small": workload.Toy(
        size=1024, layers=4, middle=3072, head=128, device="cuda", bf16=True, chats=64, row=2048, pairs=4
    ),
    "tiny": workload.Toy(size=64, layers=2, head=16, chats=24, row=512, pairs=2),
}
"""Models by name: Qwen3-8B's shape (with a head over 32,000 tokens), one to rehearse with on a device, in the same
precision and with the same kernels, and one for trying this script out on a processor."""
WORK: dict[str, dict[str, Callable[..., None]]] = {
    "sft": {
        "sluice": contenders.sft_sluice,
        "TRL packed": contenders.sft_trl_packed,
        "TRL flex": peers.sft_flex,
        "TRL compiled": peers.sft_compiled,
    },
    "vision": {
        "sluice": vision.sluice_packed,
        "TRL in halves": vision.trl_in_halves,
        "TRL recomputed": vision.trl_recomputed,
    },
    "dpo": {
        "sluice": contenders.dpo_sluice,
        "TRL in halves": peers.dpo_in_halves,
        "TRL recomputed": peers.dpo_recomputed,
    },
}
"""Contenders by kind of work; the product comes first."""
CHECK = "check"
PARTS = [CHECK, *WORK]
"""What can be asked for."""
NEED_ACCELERATOR = frozenset({"TRL flex", "TRL compiled"})
"""Contenders that do not run on a processor."""
REACH = {"sft": (1.5, 0.6), "vision": (2.0, 0.6), "dpo": (2.5, 0.6)}
"""Asked for: speed at least, and memory at most, against TRL."""
UNITS = {"sft": "tokens", "vision": "samples", "dpo": "pairs"}
"""What is counted."""
Write = Callable[[str, Any], None]
"""Keeps the figures of a part."""


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


def line(name: str, unit: str, each: dict[str, Any]) -> str:
    """A contender's figures."""
    told = f"  {name:<15}"
    if "rate" in each:
        told += (
            f" {each['rate']:>10,.1f} {unit}/s   {each['step_seconds']:>7.3f} s a step (median of {each['steps']})   "
            f"{each['peak_gib']:>6.2f} GiB allocated, {each['reserved_gib']:.2f} reserved   "
            f"{each['before_seconds']:.0f} s before the first step that counts"
        )
    return told + (f" FAILED: {each['error']}" if "error" in each else "")


def show(part: str, toy: workload.Toy, figures: Figures) -> None:
    """Print a part's ratios beside what is asked for."""
    import torch

    from sluice_trainer.flops import peak_of

    rated: dict[str, dict[str, Any]] = {name: each for name, each in figures.items() if "rate" in each}
    ours = rated.pop("sluice", None)
    if ours is None or not rated:
        print("  nothing to compare: " + ("the product failed" if ours is None else "TRL failed at every setting"))
        return
    name, theirs = max(rated.items(), key=lambda each: each[1]["rate"])
    speed, (fast, lean) = ours["rate"] / theirs["rate"], REACH[part]
    word = "reached" if speed >= fast else "NOT reached"
    print(f"  speed against {name} {speed:.2f} x (asked for: >= {fast}) {word}")
    if theirs["peak_gib"]:
        memory = ours["peak_gib"] / theirs["peak_gib"]
        held = "reached" if memory <= lean else "NOT reached"
        print(f"  memory against {name} {memory:.2f} x (asked for: <= {lean}) {held}")
    if part == "sft":
        flops = flops_per_second(toy, ours["rate"])
        peak = peak_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        share = f", {flops / peak:.1%} of the peak (asked for: >= 50 %)" if peak else ""
        print(f"  model FLOP/s {flops / 1e12:.2f} T{share}")


def compete(part: str, run: Run, write: Write) -> bool:
    """Measure one kind of work and show it; whether every contender did its share."""
    able = {name: each for name, each in WORK[part].items() if run.toy.device != "cpu" or name not in NEED_ACCELERATOR}
    print(f"\n{part}, {'real ' if part == 'sft' else ''}{UNITS[part]}", flush=True)

    def told(name: str, figures: Figures) -> None:
        print(line(name, UNITS[part], figures[name]), flush=True)
        write(part, figures)

    figures = measure(able, run, {"shape": run.shape} if part == "vision" else {}, told)
    show(part, run.toy, figures)
    return not any("error" in each for each in figures.values())


def compare(run: Run, write: Write) -> bool:
    """Check what the device computes; whether everything keeps its bounds."""
    print("\ncheck, differences from fp32", flush=True)
    if run.toy.device == "cpu":
        print("  on a processor rows are computed document by document: the other kernels have no version for it")
    found: dict[str, Any] = {}
    passed = True
    for part in check.PARTS:
        try:
            findings = alone(check.check, run.limit, part=part, device=run.toy.device)
            found[part] = [{**vars(each), "passed": each.passed} for each in findings]
            passed = passed and all(each.passed for each in findings)
        except ContenderError as error:
            print(f"  {part} FAILED: {error}", flush=True)
            found[part], passed = {"error": str(error)}, False
        write(CHECK, found)
    return passed


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts")
    parser.add_argument("--shape", choices=list(SHAPES), default="8b", help="model (%(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where (%(default)s)")
    parser.add_argument("--turns", type=int, default=30, help="steps that count, over all rounds (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds; the contenders alternate (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for one kind of work (%(default)s)")
    parser.add_argument("--limit", type=float, default=200.0, help="seconds for a contender's round (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="everything once, tiny, on a processor")
    parser.add_argument("--json", type=Path, help="also write the figures there, after every contender")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse()
    # Asked to end, it ends the contender that is at work first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before it was done"))
    import torch

    device, shape = ("cpu", "tiny") if arguments.smoke else (arguments.device, arguments.shape)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA or ROCm device here: try --smoke, or run it where one is")
    run = Run(
        toy=dataclasses.replace(SHAPES[shape], device=device),
        shape=shape,
        steps=1 if arguments.smoke else arguments.turns,
        warm_up=1 if arguments.smoke else 3,
        rounds=1 if arguments.smoke else arguments.rounds,
        seconds=60 * arguments.minutes,
        limit=arguments.limit,
    )
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'processor'}, torch {torch.__version__}, {shape}")
    figures: dict[str, Any] = {}

    def write(part: str, found: Any) -> None:
        figures[part] = found
        if arguments.json:
            beside = arguments.json.with_name(f".{arguments.json.name}")
            beside.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            beside.replace(arguments.json)

    good = [compare(run, write) if part == CHECK else compete(part, run, write) for part in arguments.only]
    if not all(good):
        raise SystemExit("something failed or kept no bound: see above")


if __name__ == "__main__":
    main()
