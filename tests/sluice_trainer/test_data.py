"""Rows on disk: what is refused, and how it is named."""

import json
from pathlib import Path

import pytest

from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.data import read_rows, sft_objection
from tiny_models import sft_row


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(path: Path) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        read_rows(path, SftRow, sft_objection)
    assert caught.value.failure_class == FailureClass.DATA
    return caught.value


@pytest.mark.parametrize("label", ["negative", "neutral", "Positive", ""])
def test_a_row_that_is_not_positive_stops_training_with_its_place(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "train.jsonl", [sft_row(0), sft_row(1), sft_row(2, label=label)])
    message = refused(path).message
    assert message.startswith("train.jsonl:3: metadata.label is ")
    assert repr(label or "none") in message


def test_a_row_without_metadata_is_refused(tmp_path: Path) -> None:
    row = sft_row(0)
    del row["metadata"]
    assert "train.jsonl:1: metadata.label is 'none'" in refused(write(tmp_path / "train.jsonl", [row])).message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("{", "train.jsonl:2: not JSON", id="truncated"),
        pytest.param('{"conversations": 1}', "train.jsonl:2: conversations: ", id="wrong type names the field"),
        pytest.param(
            '{"conversations": [{"from": "robot", "value": ""}]}',
            "train.jsonl:2: conversations.0.from",
            id="unknown role",
        ),
        pytest.param(
            json.dumps({**sft_row(1), "conversations": sft_row(1)["conversations"][:2]}),
            "train.jsonl:2: conversations: the last turn",
            id="no answer",
        ),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(sft_row(0)) + "\n" + line + "\n", encoding="utf-8")
    message = refused(path).message
    assert message.startswith(expected)
    assert "open" not in message, "a message never quotes a row"


def test_no_rows_and_no_file_say_what_to_do(tmp_path: Path) -> None:
    assert "no rows" in refused(write(tmp_path / "train.jsonl", [])).message
    assert "has no absent.jsonl" in refused(tmp_path / "absent.jsonl").message
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(tmp_path / "binary.jsonl").message
