"""Versions of a TraceDataset as the trainer reads them: shards by row group, of either format, damaged ones named."""

from pathlib import Path
from typing import Any

import pytest

from sluice_api.contracts.base import ModelRef, RunRef
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.jobs import FailureClass, LabelOutput, TrainJob
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_traces import shards
from sluice_traces.worker import run
from sluice_trainer.data import ROWS, check_rows, read_rows, stream_rows
from sluice_trainer.rows import fetch_rows
from trace_factory import label_job, step, trace, write_trace


def build(tmp_path: Path, runs: int = 6, **fields: Any) -> LabelOutput:
    """A version whose every run has a failed step and one that passed in the same state."""
    for number in range(runs):
        wrong = step(0, intent=f"p{number}", success=False, observed_outcome="", last_action={"action_type": "wait"})
        write_trace(tmp_path / "s", trace(f"r{number}", steps=[wrong, step(1, intent=f"p{number}")]))
    job = label_job(tmp_path / "s", tmp_path, holdout=0.0, **fields)
    return run(job, Reporter(job))


def files_of(tmp_path: Path, output: LabelOutput, method: str = "sft") -> list[Path]:
    uri = f"{tmp_path.as_uri()}/runs/"
    job = TrainJob(
        run=RunRef(kind="FineTuneRun", namespace="default", name="r", uid="u"),
        attempt=1,
        output_uri=uri,
        dataset=output.dataset,
        base_model=ModelRef(uri=uri),
        checkpoint_uri=uri,
        adapter_uri=uri,
        method=method,
    )
    return fetch_rows(job, tmp_path / "cache")


def test_supervised_rows_of_a_version_are_read_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)
    files = files_of(tmp_path, build(tmp_path))
    assert [path.name for path in files] == ["train-00000.parquet", "train-00001.parquet"]
    rows = read_rows(files, *ROWS["sft"])
    assert [row.metadata.run_id for row in rows] == [f"r{number}" for number in range(6)]
    assert all(isinstance(row, SftRow) and row.image is None for row in rows)
    assert [turn.role for turn in rows[0].conversations] == ["system", "human", "gpt"]
    assert rows[0].metadata.label == "positive"


def test_pairs_of_a_version_are_read_too(tmp_path: Path) -> None:
    rows = read_rows(files_of(tmp_path, build(tmp_path, format="preference"), "dpo"), *ROWS["dpo"])
    assert all(isinstance(row, PreferenceRow) and row.chosen != row.rejected for row in rows)
    assert len(rows) == 6


def test_rows_come_one_by_one(tmp_path: Path) -> None:
    first = next(stream_rows(files_of(tmp_path, build(tmp_path)), *ROWS["sft"]))
    assert first.metadata.run_id == "r0"


def test_a_row_that_must_not_be_learnt_is_named_by_shard_and_row(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^train-00000\.parquet:1: no$") as caught:
        check_rows(files_of(tmp_path, build(tmp_path)), SftRow, lambda row: "no")
    assert caught.value.failure_class is FailureClass.DATA


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    (path,) = files_of(tmp_path, build(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"{}")
    with pytest.raises(WorkerError, match=r"train-00000\.parquet: is no readable Parquet file") as caught:
        read_rows([path], *ROWS["sft"])
    assert caught.value.failure_class is FailureClass.DATA
