"""Rows on disk: reading them, and refusing what must not be learnt."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sluice_api.contracts.base import Contract
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError

POSITIVE = "positive"
"""The only label that supervised training accepts."""

Row = TypeVar("Row", bound=Contract)


def read_rows(path: Path, model: type[Row], check: Callable[[Row], str]) -> list[Row]:
    """Every row of a JSONL file, in the file's order.

    Args:
        path: the file.
        model: shape of a row.
        check: says what is wrong with a row that has the right shape; empty when nothing is.

    Raises:
        WorkerError: `Data`, naming file and line, for a missing file, a line that is not a row, a row that `check`
            objects to, and a file without rows.
    """
    rows = []
    for number, line in _lines(path):
        row = _parse(path, number, line, model)
        if objection := check(row):
            raise WorkerError(FailureClass.DATA, f"{path.name}:{number}: {objection}")
        rows.append(row)
    if not rows:
        message = (
            f"{path.name} has no rows: nothing to train on; widen the TraceDataset's source, tenants, variants or since"
        )
        raise WorkerError(FailureClass.DATA, message)
    return rows


def sft_objection(row: SftRow) -> str:
    """Why supervised training refuses a row; empty when it does not."""
    if row.metadata.label != POSITIVE:
        label = row.metadata.label or "none"
        return (
            f"metadata.label is {label!r}, supervised training accepts only {POSITIVE!r}: "
            "keep only positive rows, or use preference pairs with method dpo"
        )
    if row.image is not None:
        return (
            "image: the row carries a screenshot, and this recipe trains text models: "
            "convert with requireScreenshot: false and no screenshots"
        )
    if not row.conversations or row.conversations[-1].role != "gpt":
        return "conversations: the last turn must be the assistant's (`gpt`)"
    if not any(turn.role == "gpt" and turn.value.strip() for turn in row.conversations):
        return "conversations: no assistant turn says anything"
    return ""


def preference_objection(row: PreferenceRow) -> str:
    """Why preference training refuses a pair; empty when it does not."""
    if not row.prompt or row.prompt[-1].role == "gpt":
        return "prompt: the last turn must not be the assistant's (`gpt`)"
    if not row.chosen.strip() or not row.rejected.strip():
        return "chosen and rejected must both say something"
    if row.chosen == row.rejected:
        return "chosen and rejected are the same: nothing is preferred"
    return ""


ROWS: dict[str, tuple[type[Any], Callable[[Any], str]]] = {
    "sft": (SftRow, sft_objection),
    "dpo": (PreferenceRow, preference_objection),
}
"""Shape of a row, and what is wrong with one, by training method."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that is not blank."""
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        message = f"the dataset has no {path.name}: publish it again with `sluice trace convert` or a TraceDataset"
        raise WorkerError(FailureClass.DATA, message) from error
    except UnicodeDecodeError as error:
        raise WorkerError(FailureClass.DATA, f"{path.name}: not UTF-8 text ({error.reason})") from error


def _parse(path: Path, number: int, line: str, model: type[Row]) -> Row:
    """One row; names file, line and field when it is not one."""
    where = f"{path.name}:{number}"
    try:
        return model.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise WorkerError(FailureClass.DATA, f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise WorkerError(FailureClass.DATA, f"{where}: {field}: {first['msg']}") from error
