"""The scripts for an accelerator run on a processor at a tiny shape, so that they cannot rot."""

import dataclasses
import json
import os
import subprocess
import sys
import time
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
    places = [str(BENCH / "gpu"), str(BENCH / "train")]
    own = ("main", "check", "findings", "peers", "rounds", "vision", "whole")
    names = (*own, "contenders", "workload", "turns")
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
    assert {part: len(able) for part, able in scripts.WORK.items()} == {"sft": 4, "vision": 3, "dpo": 3}
    assert scripts.SHAPES.keys() == scripts.vision.SHAPES.keys()
    # A model of 8 billion parameters at 10,000 tokens/s: four operations a weight and token, and attention.
    assert 2.5e14 < scripts.flops_per_second(scripts.SHAPES["8b"], 10_000.0) < 4e14


def test_a_process_that_fails_ends_or_hangs_is_told_and_ended(scripts: Any) -> None:
    from rounds import ContenderError, alone

    assert alone(json.loads, 60.0, s="[1]") == [1]
    with pytest.raises(ContenderError, match="JSONDecodeError: Expecting value"):
        alone(json.loads, 60.0, s="[")
    with pytest.raises(ContenderError, match="ended with exit code 3"):
        alone(os._exit, 60.0, status=3)
    with pytest.raises(ContenderError, match="not done within 1 s"):
        alone(subprocess.run, 1.0, args=["sleep", "60"])


def test_a_contender_that_fails_leaves_the_others_their_rounds(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import rounds

    run = rounds.Run(toy=scripts.SHAPES["tiny"], shape="tiny", steps=4, warm_up=1, rounds=2, seconds=1e6, limit=7.0)
    asked: list[str] = []

    def alone(function: Any, seconds: float, **options: Any) -> Any:
        assert (function, seconds) == (rounds.take_round, 7.0)
        assert 0 < options["until"] - time.time() <= 7.0
        asked.append(options["contender"])
        if asked.count("late") == 2 or asked[-1] == "bad":
            raise rounds.ContenderError("out of memory")
        slow = 9.0 if asked[-1] == "late" else 0.5
        return rounds.Round(seconds=[0.5, 0.5, slow], units=[10, 10, 10], peak=2**30, reserved=2**31, before=3.0)

    monkeypatch.setattr(rounds, "alone", alone)
    heard: list[str] = []
    able = {name: name for name in ("good", "bad", "late")}
    figures = rounds.measure(able, run, {}, lambda name, found: heard.append(f"{name} of {len(found)}"))
    assert asked == ["good", "bad", "late", "good", "late"]
    assert heard == ["good of 1", "bad of 2", "late of 3", "good of 3", "late of 3"]
    assert figures["bad"] == {"error": "out of memory"}
    assert (figures["good"]["rate"], figures["good"]["steps"], figures["good"]["peak_gib"]) == (20, 6, 1)
    # A step that compiles once more changes no median; what rounds before gave is kept beside the error.
    assert (figures["late"]["rate"], figures["late"]["error"]) == (20, "out of memory")
    assert figures["late"]["mean_rate"] == 3


def test_steps_end_in_time_but_some_always_count(scripts: Any) -> None:
    from rounds import OwnTurns

    def steps(until: float) -> int:
        turns = OwnTurns(steps=9, fewest=4, until=until, on_device=False)
        while turns.begin():
            turns.end(1.0)
        assert len(turns.seconds()) == len(turns.units)
        return len(turns.units)

    assert steps(until=float("inf")) == 9
    assert steps(until=0.0) == 4


@pytest.mark.parametrize("part", ["attention", "blocks", "head", "layers", "models", "snapshots"])
def test_what_a_device_computes_is_checked(scripts: Any, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    findings = scripts.check.check(part, "cpu")
    assert findings
    assert all(each.passed for each in findings)
    assert all(each.name in capsys.readouterr().out for each in findings[:1])


def test_attention_that_sees_one_token_too_many_does_not_pass(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = scripts.check._document_attention

    def wrong(*three: Any, layout: Any, window: int | None) -> Any:
        return right(*three, layout=layout, window=window and window + 1)

    monkeypatch.setattr(scripts.check, "_document_attention", wrong)
    findings = scripts.check.check("attention", "cpu")
    assert {each.passed for each in findings if "window" in each.name} == {False}
    assert {each.passed for each in findings if "window" not in each.name} == {True}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_whole_script_runs_on_a_processor(tmp_path: Path) -> None:
    """With TRL, which the `bench` extra installs."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH / "gpu" / "main.py"), "--smoke", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(file.read_text())
    assert set(figures) == {"check", "sft", "vision", "dpo"}
    assert all(finding["passed"] for part in figures.pop("check").values() for finding in part)
    assert all(each["rate"] > 0 for part in figures.values() for each in part.values())
    # Every batch of a step counts: eight conversations, two pairs.
    done_in_a_step = {
        (part, name): round(each["rate"] * each["step_seconds"])
        for part in ("vision", "dpo")
        for name, each in figures[part].items()
        if name != "sluice"
    }
    assert done_in_a_step == {
        (part, name): count
        for part, count in (("vision", 8), ("dpo", 2))
        for name in ("TRL in halves", "TRL recomputed")
    }
