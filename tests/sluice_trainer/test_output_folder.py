"""`sluice train` and its output folder: names, numbers of attempts, two commands at once, rows from a pipe."""

import argparse
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from sluice_trainer import commands, worker
from sluice_trainer.output_folder import claim_attempt, held
from tiny_models import save_base, sft_row

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

ROWS = "".join(json.dumps(sft_row(number)) + "\n" for number in range(6))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS)
    return path


def parse(data: Path, output: Path, base: Path | str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    where = ["--train-jsonl", str(data), "--output-dir", str(output), "--base-model", str(base), "--no-ray"]
    return parser.parse_args(["train", *where, "--max-steps", "1", "--max-seq-length", "300", *more])


def main(*argv: object) -> int:
    arguments = parse(*argv)  # type: ignore[arg-type]
    return int(arguments.handler(arguments))


def test_a_folder_of_any_name_takes_the_adapter(data: Path, base: Path, tmp_path: Path) -> None:
    output = tmp_path / "a b ü%20"
    assert main(data, output, base) == 0
    assert (output / "adapter" / "adapter_model.safetensors").is_file()


def test_an_attempt_has_a_number_above_all_that_have_left_something(tmp_path: Path) -> None:
    assert [claim_attempt(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "attempts" / "1").rmdir()
    assert claim_attempt(tmp_path) == 4
    (tmp_path / "checkpoints" / "step-00000250.attempt-7").mkdir(parents=True)
    (tmp_path / "attempts" / "notes").touch()
    shutil.rmtree(tmp_path / "attempts")
    assert claim_attempt(tmp_path) == 8


def test_attempts_that_are_claimed_at_once_are_all_different(tmp_path: Path) -> None:
    claimed: list[int] = []
    threads = [threading.Thread(target=lambda: claimed.append(claim_attempt(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 9))


def test_a_second_command_is_refused_while_the_first_holds_the_folder(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    with held(output):
        assert main(data, output, base) == 2
    assert "another `sluice train` writes there: wait for it" in capsys.readouterr().err
    assert not (output / "attempts").exists(), "nothing was begun"


def test_rows_may_come_from_a_pipe(data: Path, base: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(ROWS,))
    writer.start()
    job = commands.build_job(parse(pipe, tmp_path / "piped", base))
    writer.join()
    assert job.dataset.digest == commands.build_job(parse(data, tmp_path / "file", base)).dataset.digest


def test_an_adapter_that_is_gone_is_told_without_a_traceback(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = commands._show

    def lose(output: object, arguments: argparse.Namespace) -> None:
        (weights,) = (arguments.output / "adapters").glob("*/adapter_model.safetensors")
        weights.unlink()
        publish(output, arguments)

    monkeypatch.setattr(commands, "_show", lose)
    assert main(data, tmp_path / "out", base) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sluice train: trained, but the adapter cannot be copied: file://")
    assert "adapter_model.safetensors" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tokens-per-step", "0"], "tokens_per_step is 0: a step needs at least 2 tokens"),
        (["--revision", "main"], "--revision main: only a model of the hub (hf://) has revisions"),
    ],
)
def test_a_flag_that_says_nothing_sensible_is_refused(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(data, tmp_path / "out", base, *flags) == 2
    assert words in capsys.readouterr().err
