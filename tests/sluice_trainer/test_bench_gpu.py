"""The scripts for a lent accelerator run on a processor at a tiny shape, so that they cannot rot."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The script as a module, imported as it is run: with its own folder and that of `bench/train` on the path."""
    places, names = [str(BENCH / "gpu"), str(BENCH / "train")], ("main", "contenders", "vision", "workload", "turns")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path[:0] = places
    try:
        yield import_module("main")
    finally:
        for place in places:
            sys.path.remove(place)
        for name in names:
            sys.modules.pop(name, None)
            if (module := before[name]) is not None:
                sys.modules[name] = module


@pytest.mark.parametrize("part", ["sft", "vision", "dpo"])
def test_our_contenders_take_steps(scripts: Any, part: str) -> None:
    counted: list[float] = []

    class Two:
        """As many turns as it takes to see that there is more than one step."""

        def begin(self) -> bool:
            return len(counted) < 2

        def end(self, units: float, **figures: float) -> None:
            counted.append(units)
            assert figures["loss"] > 0

    toy = dataclasses.replace(scripts.SHAPES["tiny"], row=256, pairs=1, chats=16)
    options = {"shape": "tiny"} if part == "vision" else {}
    scripts.WORK[part]["sluice"](Two, toy=toy, **options)
    assert len(counted) == 2
    assert all(units > 0 for units in counted)


def test_the_peers_are_named_and_the_share_of_the_peak_is_counted(scripts: Any) -> None:
    assert {part: len(able) for part, able in scripts.WORK.items()} == {"sft": 4, "vision": 2, "dpo": 2}
    # A model of 8 billion parameters at 10,000 tokens/s: four operations a weight and token, and attention.
    assert 2.5e14 < scripts.flops_per_second(scripts.SHAPES["8b"], 10_000.0) < 4e14


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_whole_script_runs_on_a_processor(tmp_path: Path) -> None:
    """With TRL, which the `bench` extra installs."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH / "gpu" / "main.py"), "--smoke", "--json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(file.read_text())
    assert set(figures) == {"sft", "vision", "dpo"}
    assert all(each["rate"] > 0 for part in figures.values() for each in part.values())
