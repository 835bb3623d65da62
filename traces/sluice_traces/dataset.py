"""A dataset version: rows in one fixed order, its lineage, its manifest, and what it owes to its parent version."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import msgspec

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import HOLDOUT_FILE, RUNS_FILE, TRAIN_FILE, DatasetManifest, FileEntry
from sluice_artifacts import CorruptError, digest_file, join, open_store, publish, read_manifest, to_hex
from sluice_traces.convert import Tally
from sluice_traces.pipeline import RowFormat
from sluice_traces.rows import row_key
from sluice_traces.spool import Part, Spool


class RunLine(msgspec.Struct, gc=False):
    """One line of `runs.jsonl`: where the rows of a run come from and where they went."""

    tenant_id: str
    """Tenant of the run, empty for shared runs."""
    run_id: str
    """The run."""
    source: str
    """Path of its trace below the source."""
    part: Part
    """Where its rows went."""
    rows: int
    """Rows that it gave; 0 also for a run of the parent version whose trace is gone."""


_RUN_LINE = msgspec.json.Decoder(RunLine)
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class BuildCounts:
    """What a build saw, for the manifest and the result."""

    traces: int = 0
    """Traces used."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Good traces that were not used, by reason."""
    tally: Tally = field(default_factory=Tally)
    """Steps by what became of them."""
    redactions: dict[str, int] = field(default_factory=dict)
    """Private texts replaced, by detector."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published version."""

    ref: ArtifactRef
    """Where it lies."""
    manifest: DatasetManifest
    """Its manifest."""
    new_rows: int
    """Rows to train on that the parent version has not."""


class ParentVersion:
    """The version that a build continues: its runs and rows, verified while they are read."""

    def __init__(self, dataset_uri: str, digest: str, folder: Path) -> None:
        """Read the manifest of a version.

        Args:
            dataset_uri: prefix of all versions.
            digest: the version.
            folder: where files may be downloaded to.

        Raises:
            ArtifactError: the version cannot be read, or is corrupt.
        """
        self.ref = ArtifactRef(uri=join(dataset_uri, to_hex(digest) + "/"), digest=digest)
        self.manifest = read_manifest(self.ref, DatasetManifest)
        self._folder = folder
        self._store = open_store(dataset_uri)

    def runs(self) -> Iterator[RunLine]:
        """Every run that the version knows, in its order."""
        with self._fetch(RUNS_FILE).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield _RUN_LINE.decode(line)
                except msgspec.DecodeError as error:
                    raise CorruptError(join(self.ref.uri, RUNS_FILE), f"line {number} is no run: {error}") from None

    def train_rows(self) -> Path:
        """The rows that it trained on, downloaded."""
        return self._fetch(TRAIN_FILE)

    def _fetch(self, name: str) -> Path:
        target = self._folder / name
        if not target.exists():
            entry = next((entry for entry in self.manifest.files if entry.path == name), None)
            if entry is None:
                raise CorruptError(
                    self.ref.uri, f"this version has no {name}, so nothing can continue it; give another output prefix"
                )
            self._store.download(join(self.ref.uri, name), target, sha256=entry.sha256)
        return target


def code_version() -> str:
    """Version of Sluice, as installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "unknown"


def write_files(spool: Spool, folder: Path) -> dict[str, Path]:
    """Write the files of a version from a split spool; return them by name.

    Rows are in the order of tenant, run and step, whatever the order in which they came.
    """
    files = {name: folder / name for name in (TRAIN_FILE, HOLDOUT_FILE, RUNS_FILE)}
    for name, part in ((TRAIN_FILE, Part.TRAIN), (HOLDOUT_FILE, Part.HOLDOUT)):
        with files[name].open("wb") as out:
            for block in spool.blocks(part):
                out.write(block)
    with files[RUNS_FILE].open("wb") as out:
        for entry in spool.lineage():
            out.write(_ENCODE(RunLine(*entry)) + b"\n")
    return files


def publish_version(
    spool: Spool,
    folder: Path,
    dataset_uri: str,
    counts: BuildCounts,
    row_format: RowFormat,
    parent: ParentVersion | None,
    before_upload: Callable[[], None] = lambda: None,
) -> Version:
    """Write and publish a version; the parent itself when nothing changed since.

    Args:
        spool: the rows, already split.
        folder: where to write the files before they are sent.
        dataset_uri: prefix of all versions.
        counts: what the build saw.
        row_format: shape of the rows.
        parent: the version that this one continues.
        before_upload: called once the files are written.

    Raises:
        ArtifactError: the storage failed.
    """
    files = write_files(spool, folder)

    def manifest(entries: list[FileEntry]) -> DatasetManifest:
        return DatasetManifest(
            files=entries,
            format=row_format,
            rows=spool.row_count(Part.TRAIN),
            holdout_rows=spool.row_count(Part.HOLDOUT),
            traces=counts.traces,
            labels=counts.tally.labels(),
            label_reasons=counts.tally.label_reasons(),
            dropped=counts.tally.drops(),
            skipped=dict(sorted(counts.skipped.items())),
            redactions=dict(sorted(counts.redactions.items())),
            parent=None if parent is None else parent.ref.digest,
            code_version=code_version(),
        )

    before_upload()
    document = manifest(_entries(files))
    if parent is not None and document.model_copy(update={"parent": parent.manifest.parent}) == parent.manifest:
        return Version(ref=parent.ref, manifest=parent.manifest, new_rows=0)
    new_rows = document.rows if parent is None else count_new_rows(files[TRAIN_FILE], parent.train_rows())
    return Version(ref=publish(dataset_uri, files, manifest), manifest=document, new_rows=new_rows)


def count_new_rows(rows: Path, parent_rows: Path) -> int:
    """Rows of one file that the other, in the same order, has not; holds one run of each in memory."""
    new = 0
    with rows.open("rb") as ours, parent_rows.open("rb") as theirs:
        old = _by_run(theirs)
        current = next(old, None)
        for run, lines in _by_run(ours):
            while current is not None and current[0] < run:
                current = next(old, None)
            known = current[1] if current is not None and current[0] == run else frozenset()
            new += sum(line not in known for line in lines)
    return new


def _by_run(lines: Iterable[bytes]) -> Iterator[tuple[tuple[str, str], frozenset[bytes]]]:
    keyed = ((row_key(line), line) for line in lines)
    for run, group in groupby(keyed, key=lambda pair: (pair[0].tenant_id, pair[0].run_id)):
        yield run, frozenset(line for _, line in group)


def _entries(files: dict[str, Path]) -> list[FileEntry]:
    return [
        FileEntry(path=name, sha256=to_hex(digest_file(files[name])), size=files[name].stat().st_size)
        for name in sorted(files)
    ]
