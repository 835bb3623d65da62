"""Rows that leave a version again: duplicates within it, and those that hold a task of an evaluation suite.

What is held out comes before what is trained on: a row to train on that says what a held-out row says would spoil the
comparison, so the row to train on goes. But what the parent version trained on comes before what is newly held out: a
model of this lineage has seen it, so it is no test any more, and the held-out row goes. Text decides, without the
system turn that all rows share; rows with a screenshot are the same only with the same screenshot, and are never
near-duplicates, since words do not tell how alike two pictures are.
"""

import hashlib
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, overload

import msgspec

from sluice_api.contracts.jobs import DuplicateRule, FailureClass, LeakRule
from sluice_artifacts import ArtifactError, open_store
from sluice_artifacts.reporting import WorkerError
from sluice_traces.dedup import Deduplicator, DuplicateKind, LeakIndex, NearConfig
from sluice_traces.dedup.texts import row_text, task_texts
from sluice_traces.spool import Part, RunBlock, Spool

PARTS = (Part.HOLDOUT, Part.TRAIN)
"""Order in which the parts are looked at, among runs that the parent knows and then among new ones."""
_BATCH = 2048


class _Pictured(msgspec.Struct, gc=False):
    image: str | None = None


_PICTURED = msgspec.json.Decoder(_Pictured)


def image_of(line: bytes) -> str | None:
    """Name of the screenshot that a row refers to.

    Raises:
        msgspec.DecodeError: the line is no row.
    """
    return _PICTURED.decode(line).image


@dataclass(slots=True)
class Removed:
    """Rows that leave again."""

    rows: dict[Part, bytearray] = field(default_factory=lambda: {part: bytearray() for part in PARTS})
    """A byte for every row of a part in the dataset's order, 1 where it leaves; empty where none does."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """How many by kind of duplicate."""
    leaks: int = 0
    """How many hold a task of a suite."""

    def left(self, spool: Spool, part: Part) -> Iterator[RunBlock]:
        """The runs of a part with the rows that stay."""
        gone = self.rows[part]
        if not any(gone):
            yield from spool.runs(part)
            return
        position = 0
        for run in spool.runs(part):
            kept = [line for place, line in enumerate(run.lines, start=position) if not gone[place]]
            position += len(run.lines)
            if kept:
                yield run._replace(lines=kept)


SuiteReader = Callable[[str], list[str]]
"""Gives the texts of the suite at a URI; raises `ValueError` when it is none, `ArtifactError` when storage fails."""


def read_suite(uri: str) -> list[str]:
    """Texts of the tasks of a suite in storage, a JSON file.

    Raises:
        ValueError: it is no suite.
        ArtifactError: the storage failed.
    """
    return task_texts(open_store(uri).read(uri))


def suite_tasks(suites: list[str], reader: SuiteReader = read_suite) -> list[str]:
    """Texts of all tasks of some suites.

    Raises:
        WorkerError: `Data` when a suite is missing, is none, or has no tasks: an unknown suite cannot be kept out.
        ArtifactError: the storage failed.
    """
    tasks: list[str] = []
    for uri in suites:
        try:
            found = reader(uri)
        except ValueError as error:
            raise WorkerError(FailureClass.DATA, f"leaks.suites: {uri}: {error}") from None
        except ArtifactError as error:
            if type(error).__name__ != "NotFoundError":
                raise
            raise WorkerError(FailureClass.DATA, f"leaks.suites: {error}; correct the URI or remove it") from None
        if not found:
            raise WorkerError(FailureClass.DATA, f"leaks.suites: {uri} has no tasks: correct it or remove it")
        tasks += found
    return tasks


def curate(
    spool: Spool, duplicates: DuplicateRule, leaks: LeakRule, folder: Path, reader: SuiteReader = read_suite
) -> Removed:
    """Find the rows that leave again.

    Exact duplicates are found on disk, leaks batch by batch. A search for near-duplicates holds about 200 bytes a row
    (the keys of its bands), and no texts. Near-duplicates are sought among rows that are left once exact ones are gone.

    Args:
        spool: the rows, already split.
        duplicates: which rows count as said before.
        leaks: suites to keep out.
        folder: where temporary files may lie.
        reader: reads suites.

    Raises:
        WorkerError: `UserError` when a threshold cannot be; `Data` as `suite_tasks`.
        ArtifactError: the storage failed.
    """
    removed = Removed()
    if not (duplicates.exact or duplicates.near or leaks.suites):
        return removed
    for part in PARTS:
        removed.rows[part] = bytearray(spool.row_count(part))
    try:
        if leaks.suites:
            tasks = suite_tasks(leaks.suites, reader)
            index = LeakIndex(tasks, shingle_words=leaks.shingle_words, threshold=leaks.threshold)
            _remove_leaks(spool, index, removed)
        if duplicates.exact or duplicates.near:
            _remove_exact(spool, folder, removed)
        if duplicates.near:
            config = NearConfig(threshold=duplicates.threshold, shingle_words=duplicates.shingle_words)
            _remove_near(spool, config, folder, removed)
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: {error}") from None
    return removed


def _lines(spool: Spool, removed: Removed) -> Iterator[tuple[Part, int, bytes]]:
    """Part, position and text of every row that is still there; those of runs that the parent knows first."""
    for known in (True, False):
        for part in PARTS:
            gone, position = removed.rows[part], 0
            for run in spool.runs(part):
                if run.known is known:
                    for place, line in enumerate(run.lines, start=position):
                        if not gone[place]:
                            yield part, place, line
                position += len(run.lines)


def _remove_leaks(spool: Spool, index: LeakIndex, removed: Removed) -> None:
    batch: list[tuple[Part, int, bytes]] = []

    def judge() -> None:
        for (part, position, _), leaked in zip(batch, index.leaks([row_text(row) for _, _, row in batch]), strict=True):
            if leaked:
                removed.rows[part][position] = 1
                removed.leaks += 1
        batch.clear()

    for row in _lines(spool, removed):
        batch.append(row)
        if len(batch) >= _BATCH:
            judge()
    if batch:
        judge()


def _remove_exact(spool: Spool, folder: Path, removed: Removed) -> None:
    path = folder / "said.sqlite3"
    said = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            said.execute(f"PRAGMA {pragma}")
        said.execute("CREATE TABLE said (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        said.execute("BEGIN")
        for part, position, line in _lines(spool, removed):
            text = f"{image_of(line) or ''}\0{row_text(line)}".encode("utf-8", "replace")
            digest = hashlib.blake2b(text, digest_size=16).digest()
            if said.execute("INSERT OR IGNORE INTO said VALUES (?)", (digest,)).rowcount == 0:
                removed.rows[part][position] = 1
                removed.duplicates[DuplicateKind.EXACT.value] += 1
    finally:
        said.close()
        path.unlink(missing_ok=True)


class TextFile(Sequence[str]):
    """Texts in a file, read when they are asked for. A context manager; leaving it removes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b")
        self._ends = array("Q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, text: str) -> None:
        """Add a text; none is added once one was read."""
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        self._file.seek(self._ends[place])
        return self._file.read(self._ends[place + 1] - self._ends[place]).decode("utf-8", "surrogatepass")


def _remove_near(spool: Spool, config: NearConfig, folder: Path, removed: Removed) -> None:
    places, held = array("Q"), bytearray()
    with TextFile(folder / "texts") as texts:
        for part, position, line in _lines(spool, removed):
            if image_of(line) is None:
                texts.append(row_text(line))
                places.append(position)
                held.append(part is Part.HOLDOUT)
        for index in Deduplicator(config).find_near(texts):
            removed.rows[Part.HOLDOUT if held[index] else Part.TRAIN][places[index]] = 1
            removed.duplicates[DuplicateKind.NEAR.value] += 1
