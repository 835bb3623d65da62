"""Rows on disk: reading them, and refusing what must not be learnt."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sluice_api.contracts.base import Contract
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_traces.shards import ShardError, count_rows, iter_rows

POSITIVE = "positive"
"""The only label that supervised training accepts."""

Told = Callable[[int, int], None]
"""Hears how much is done of how much, and may raise to have the work end."""
TOLD_ROWS = 256
"""Rows after which a `Told` hears of them."""

Row = TypeVar("Row", bound=Contract)


def read_rows(paths: Path | Sequence[Path], model: type[Row], check: Callable[[Row], str]) -> list[Row]:
    """Every row of some files, in order.

    Args:
        paths: a file, or the files of a dataset: Parquet shards, or lines of JSON.
        model: shape of a row.
        check: says what is wrong with a row that has the right shape; empty when nothing is.

    Raises:
        WorkerError: `Data`, naming file and row, for a missing or damaged file, a row of another shape, one that
            `check` objects to, and files without rows.
    """
    return list(stream_rows(paths, model, check))


def stream_rows(
    paths: Path | Sequence[Path], model: type[Row], check: Callable[[Row], str], told: Told | None = None
) -> Iterator[Row]:
    """`read_rows`, a row at a time; of a shard no more than a row group is in memory.

    `told` hears how many of how many rows have been taken, every `TOLD_ROWS` and at the end.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    of = 0 if told is None else _count(files)
    done = 0
    for where, content in _contents(files):
        row = _parse(where, content, model)
        if objection := check(row):
            raise WorkerError(FailureClass.DATA, f"{where}: {objection}")
        yield row
        done += 1
        if told is not None and (done % TOLD_ROWS == 0 or done == of):
            told(done, of)
    if not done:
        names = ", ".join(path.name for path in files)
        message = (
            f"{names} has no rows: nothing to train on; widen the TraceDataset's source, tenants, variants or since"
        )
        raise WorkerError(FailureClass.DATA, message)


def place_of(paths: Sequence[Path], number: int) -> str:
    """Where a row lies, as `file:row`; `number` counts the rows of all files from 0.

    Raises:
        WorkerError: as `read_rows`.
    """
    return next((where for where, _ in islice(_contents(paths), number, None)), f"row {number + 1}")


def check_rows(
    paths: Path | Sequence[Path], model: type[Row], check: Callable[[Row], str], told: Told | None = None
) -> None:
    """Read every row and keep none; `told` hears how many of how many are read.

    Raises:
        WorkerError: as `read_rows`.
    """
    for _ in stream_rows(paths, model, check, told):
        pass


def sft_objection(row: SftRow) -> str:
    """Why supervised training refuses a row; empty when it does not."""
    if row.metadata.label != POSITIVE:
        label = row.metadata.label or "none"
        return (
            f"metadata.label is {label!r}, supervised training accepts only {POSITIVE!r}: "
            "keep only positive rows, or use preference pairs with method dpo"
        )
    if not row.conversations or row.conversations[-1].role != "gpt":
        return "conversations: the last turn must be the assistant's (`gpt`)"
    if row.conversations[0].role == "gpt":
        return "conversations: the first turn must not be the assistant's (`gpt`): nothing asks for it"
    if not any(turn.role == "gpt" and turn.value.strip() for turn in row.conversations):
        return "conversations: no assistant turn says anything"
    return ""


def text_only_objection(row: SftRow | PreferenceRow) -> str:
    """Why a base model that reads text only cannot learn a row; empty when it can."""
    if row.image is not None:
        return (
            "image: the row carries a screenshot, and the base model reads text only: use a vision-language base, or "
            "convert with requireScreenshot: false and no screenshots"
        )
    return ""


def preference_objection(row: PreferenceRow) -> str:
    """Why preference training refuses a pair; empty when it does not."""
    if not row.prompt or row.prompt[-1].role == "gpt":
        return "prompt: the last turn must not be the assistant's (`gpt`)"
    if row.prompt[0].role == "gpt":
        return "prompt: the first turn must not be the assistant's (`gpt`): nothing asks for it"
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


def _contents(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Place, as `file:row`, and content of every row."""
    with _damaged():
        for name, number, content in iter_rows(files):
            yield f"{name}:{number}", content


def _count(files: Sequence[Path]) -> int:
    with _damaged():
        return count_rows(files)


@contextmanager
def _damaged() -> Iterator[None]:
    """Missing and damaged files as `Data`."""
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        message = f"the dataset has no {missing}: publish it again with `sluice trace convert` or a TraceDataset"
        raise WorkerError(FailureClass.DATA, message) from error
    except ShardError as error:
        raise WorkerError(FailureClass.DATA, str(error)) from error


def _parse(where: str, content: Any, model: type[Row]) -> Row:
    """One row; names place and field when it is not one."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the row"
        raise WorkerError(FailureClass.DATA, f"{where}: {field}: {first['msg']}") from error
