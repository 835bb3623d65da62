"""A dataset version: rows in one fixed order, its lineage, its manifest, and what it owes to its parent version."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import (
    BAD_FILES_FILE,
    MIXTURE_FILE,
    REPORT_FILE,
    RUNS_FILE,
    TRAIN_PART,
    BucketCounts,
    DatasetManifest,
    FileEntry,
    RowFormat,
    ScreenCounts,
    part_files,
)
from sluice_api.contracts.trace import SHARED_TENANT_FOLDER
from sluice_artifacts import CorruptError, canonical_json, digest_file, join, open_store, publish, read_manifest, to_hex
from sluice_traces.convert import Tally
from sluice_traces.curate import Removed, image_of
from sluice_traces.lineage import RunLine, read_runs, write_runs
from sluice_traces.mix import Mixed
from sluice_traces.shards import WRITER, Row, RowWriter, ShardError, iter_shard, iter_tables, row_digest
from sluice_traces.spool import Part, Spool

TENANTS_NAMED = 1000
"""Tenants that a manifest counts by name; the others are counted together."""
OTHER_TENANTS = "__others__"
"""Name under which they are counted."""
BAD_FILES_NAMED = 100
"""Bad files that the report names itself; `bad-files.jsonl` names all."""
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
    bad_files: dict[str, int] = field(default_factory=dict)
    """Trace files that could not be used, by reason."""
    bad_screens: dict[str, int] = field(default_factory=dict)
    """Screenshots that could not be used, by reason."""
    kept_rows: int = 0
    """Rows of the parent version whose traces are gone."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published version."""

    ref: ArtifactRef
    """Where it lies."""
    manifest: DatasetManifest
    """Its manifest."""
    new_rows: int
    """Rows to train on that the parent version has not."""
    new: bool = True
    """Whether it is another version than the one that the build continued."""


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
        entry = next((entry for entry in self.manifest.files if entry.path == RUNS_FILE), None)
        if entry is None:
            raise CorruptError(
                self.ref.uri, f"this version has no {RUNS_FILE}, so nothing can continue it; give another output prefix"
            )
        yield from read_runs(self._fetch(entry), self.ref.uri)

    def train_digests(self) -> Iterator[bytes]:
        """Digests of the rows that it trained on, in order; of one shard at a time."""
        for entry in part_files(self.manifest.files, TRAIN_PART):
            path = self._fetch(entry)
            try:
                for table in iter_tables(path, ["digest"]):
                    yield from table.column("digest").to_pylist()
            except ShardError as error:
                raise CorruptError(self.ref.uri, str(error)) from None
            path.unlink()

    def rows(self, part: str) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Rows of a part with their digests, in order; of one shard at a time."""
        for entry in part_files(self.manifest.files, part):
            path = self._fetch(entry)
            try:
                yield from iter_shard(path)
            except ShardError as error:
                raise CorruptError(self.ref.uri, str(error)) from None
            path.unlink()

    def _fetch(self, entry: FileEntry) -> Path:
        target = self._folder / entry.path
        if not target.exists():
            self._store.download(join(self.ref.uri, entry.path), target, sha256=entry.sha256)
        return target


def code_version() -> str:
    """Version of Sluice, as installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "unknown"


@dataclass(slots=True)
class Written:
    """The files of a version, before they are sent."""

    files: dict[str, Path]
    """By name."""
    rows: dict[Part, int]
    """Rows by part."""
    tenants: Counter[str]
    """Rows to train on by tenant."""
    new_rows: int
    """Different rows to train on that the parent version has not."""


class _Newcomers:
    """Counts different rows that the parent version has not; on disk, so that memory does not grow with the rows."""

    def __init__(self, folder: Path, parent: ParentVersion | None) -> None:
        self._index = sqlite3.connect(folder / "known.sqlite3", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-16384"):
            self._index.execute(f"PRAGMA {pragma}")
        self._index.execute("CREATE TABLE known (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._index.execute("BEGIN")
        for digest in parent.train_digests() if parent is not None else ():
            self._index.execute("INSERT OR IGNORE INTO known VALUES (?)", (digest,))
        self.count = 0

    def see(self, line: bytes) -> None:
        self.count += self._index.execute("INSERT OR IGNORE INTO known VALUES (?)", (row_digest(line),)).rowcount

    def close(self) -> None:
        self._index.close()


class VersionWriter:
    """Writes the files of a version from a split and curated spool."""

    def __init__(self, spool: Spool, removed: Removed, row_format: RowFormat, folder: Path) -> None:
        self._spool, self._removed, self._format, self._folder = spool, removed, row_format, folder
        self._pictures = spool.has_pictures()

    def write(self, mixed: Mixed | None, parent: ParentVersion | None) -> Written:
        """Write shards and lineage; rows are in the order of tenant, run and step, or of the mixture's plan.

        Args:
            mixed: the mixture; None takes the rows of the traces.
            parent: the version that this one continues.

        Raises:
            ArtifactError: the parent version cannot be read.
        """
        tenants: Counter[str] = Counter()
        newcomers = _Newcomers(self._folder, parent)
        files: dict[str, Path] = {}
        rows = {}
        try:
            for part in (Part.TRAIN, Part.HOLDOUT):
                with RowWriter(self._folder, part.value, self._format) as writer:
                    for tenant, row in self._rows(part, mixed):
                        writer.add(row)
                        self._note_picture(row.line)
                        if part is Part.TRAIN:
                            newcomers.see(row.line)
                            if tenant is not None:
                                tenants[tenant or SHARED_TENANT_FOLDER] += 1
                rows[part] = writer.rows
                files |= {path.name: path for path in writer.paths}
        finally:
            newcomers.close()
        files[RUNS_FILE] = self._folder / RUNS_FILE
        write_runs(files[RUNS_FILE], (RunLine(*entry) for entry in self._spool.lineage()))
        files[BAD_FILES_FILE] = self._folder / BAD_FILES_FILE
        with files[BAD_FILES_FILE].open("wb") as out:
            for path, reason, detail in self._spool.bad_files():
                out.write(_ENCODE({"path": path, "reason": reason, "detail": detail}) + b"\n")
        if mixed is not None:
            files[MIXTURE_FILE] = self._folder / MIXTURE_FILE
            files[MIXTURE_FILE].write_bytes(mixed.plan.encode())
        return Written(files, rows, tenants, newcomers.count)

    def _rows(self, part: Part, mixed: Mixed | None) -> Iterator[tuple[str | None, Row]]:
        """Tenant (None outside traces) and row."""
        if mixed is not None and part is Part.TRAIN:
            for bucket, row in mixed.rows():
                tenant = row.tenant_id if bucket == mixed.traces_bucket else None
                yield tenant, Row(row.line, row.trace, bucket)
            return
        for run in self._removed.left(self._spool, part):
            for line in run.lines:
                yield run.tenant_id, Row(line, run.source)

    def _note_picture(self, line: bytes) -> None:
        if self._pictures and (name := image_of(line)) is not None:
            self._spool.use_picture(name)


def publish_version(
    spool: Spool,
    folder: Path,
    dataset_uri: str,
    counts: BuildCounts,
    removed: Removed,
    row_format: RowFormat,
    parent: ParentVersion | None,
    mixed: Mixed | None = None,
    before_upload: Callable[[], None] = lambda: None,
) -> Version:
    """Write and publish a version; the parent itself when nothing changed since.

    Args:
        spool: the rows, already split.
        folder: where to write the files before they are sent.
        dataset_uri: prefix of all versions.
        counts: what the build saw.
        removed: rows of the spool that stay out.
        row_format: shape of the rows.
        parent: the version that this one continues.
        mixed: the mixture of the rows to train on.
        before_upload: called once the files are written and before anything is sent.

    Raises:
        ArtifactError: the storage failed.
    """
    written = VersionWriter(spool, removed, row_format, folder).write(mixed, parent)
    document = _manifest(spool, written, counts, removed, row_format, parent, mixed)
    report = {**document.model_dump(mode="json", exclude={"files", "parent"}), "bad_files_named": _first_bad(spool)}
    if mixed is not None:
        report["bad_lines_named"] = [line._asdict() for file in mixed.buckets for line in file.bad_lines]
    written.files[REPORT_FILE] = folder / REPORT_FILE
    written.files[REPORT_FILE].write_bytes(canonical_json(report))
    document = document.model_copy(update={"files": _entries(written.files)})
    before_upload()
    if parent is not None and document.model_copy(update={"parent": parent.manifest.parent}) == parent.manifest:
        return Version(ref=parent.ref, manifest=parent.manifest, new_rows=0, new=False)
    ref = publish(dataset_uri, written.files, lambda entries: document.model_copy(update={"files": entries}))
    return Version(ref=ref, manifest=document, new_rows=written.new_rows)


def _manifest(
    spool: Spool,
    written: Written,
    counts: BuildCounts,
    removed: Removed,
    row_format: RowFormat,
    parent: ParentVersion | None,
    mixed: Mixed | None,
) -> DatasetManifest:
    """The manifest, but for the entries of the files."""
    pictures = [size for _, _, size in spool.used_pictures()] if spool.has_pictures() else []
    redactions = Counter(counts.redactions)
    for each in mixed.buckets if mixed is not None else ():
        redactions.update(each.redactions)
    return DatasetManifest(
        files=[],
        format=row_format,
        rows=written.rows[Part.TRAIN],
        holdout_rows=written.rows[Part.HOLDOUT],
        traces=counts.traces,
        labels=counts.tally.labels(),
        label_reasons=counts.tally.label_reasons(),
        dropped=counts.tally.drops(),
        skipped=dict(sorted(counts.skipped.items())),
        bad_files=dict(sorted(counts.bad_files.items())),
        redactions=dict(sorted(redactions.items())),
        duplicates=dict(sorted(removed.duplicates.items())),
        leaks=removed.leaks,
        tenants=largest(written.tenants, TENANTS_NAMED),
        buckets={} if mixed is None else _bucket_counts(mixed),
        screens=ScreenCounts(files=len(pictures), bytes=sum(pictures), bad=dict(sorted(counts.bad_screens.items()))),
        kept_rows=counts.kept_rows,
        parent=None if parent is None else parent.ref.digest,
        code_version=code_version(),
        writer=WRITER,
    )


def _bucket_counts(mixed: Mixed) -> dict[str, BucketCounts]:
    return {
        planned.name: BucketCounts(
            rows=planned.quota,
            used_rows=planned.used_rows,
            candidates=file.candidates,
            rejected=dict(sorted(file.rejected.items())),
            bad_rows=dict(sorted(file.bad.items())),
        )
        for planned, file in zip(mixed.plan.buckets, mixed.buckets, strict=True)
    }


def _first_bad(spool: Spool) -> list[dict[str, str]]:
    named = zip(spool.bad_files(), range(BAD_FILES_NAMED), strict=False)
    return [{"path": path, "reason": reason, "detail": detail} for (path, reason, detail), _ in named]


def largest(counts: "Counter[str]", most: int) -> dict[str, int]:
    """The largest counts by name, sorted by name, the rest under `__others__`."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    rest = sum(count for _, count in ranked[most:])
    return dict(sorted(ranked[:most])) | ({OTHER_TENANTS: rest} if rest else {})


def _entries(files: dict[str, Path]) -> list[FileEntry]:
    return [
        FileEntry(path=name, sha256=to_hex(digest_file(files[name])), size=files[name].stat().st_size)
        for name in sorted(files)
    ]
