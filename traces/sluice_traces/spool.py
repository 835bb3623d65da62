"""Rows on their way into a dataset: kept on disk, so that memory does not grow with the input.

Runs arrive in any order. Their rows are appended to one file; an SQLite index beside it knows where each run's rows
lie, which run of a tenant was seen already, and gives the runs back in the dataset's order (tenant, run).
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Part(StrEnum):
    """Where a run's rows go."""

    TRAIN = "train"
    """Rows to train on."""
    HOLDOUT = "holdout"
    """Rows kept out of training, for ever, in this lineage."""


class RunBlock(NamedTuple):
    """The rows of one run."""

    tenant_id: str
    """Its tenant, empty for shared runs."""
    source: str
    """Path of its trace below the source."""
    lines: list[bytes]
    """Its rows, without line ends, in the order of the steps."""
    known: bool = False
    """Whether the parent version knows the run."""


class LineageEntry(NamedTuple):
    """One run of a version and where its rows went."""

    tenant_id: str
    """Its tenant, empty for shared runs."""
    run_id: str
    """The run."""
    source: str
    """Path of its trace below the source."""
    part: Part
    """Where its rows went, or would go: a run that the parent knows keeps its part even when its trace is gone."""
    rows: int
    """Rows that its steps gave."""


_SCHEMA = """
CREATE TABLE run (
    tenant TEXT NOT NULL, run TEXT NOT NULL, source TEXT NOT NULL, started INTEGER,
    rows INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, part TEXT NOT NULL DEFAULT 'train',
    PRIMARY KEY (tenant, run)
) WITHOUT ROWID;
CREATE TABLE previous (
    tenant TEXT NOT NULL, run TEXT NOT NULL, part TEXT NOT NULL, source TEXT NOT NULL, PRIMARY KEY (tenant, run)
) WITHOUT ROWID;
"""
_MORE_SCHEMA = """
CREATE TABLE bad (path TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE refused (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE picture (
    name TEXT PRIMARY KEY, path TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_CACHE_KIB = 8192
_COPY_BYTES = 1 << 20
_BATCH = 512


class Spool:
    """Collects the rows of runs on disk. A context manager; leaving it removes every trace of the rows."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create the spool.

        Args:
            folder: where to keep the temporary folder; None takes the system's.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-spool-", dir=folder)
        root = Path(self._folder.name)
        self._rows = (root / "rows").open("w+b", buffering=_COPY_BYTES)
        self._offset = 0
        self._index = sqlite3.connect(root / "index.sqlite3", isolation_level=None)
        self._index.execute("PRAGMA journal_mode=OFF")
        self._index.execute("PRAGMA synchronous=OFF")
        self._index.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._index.executescript(_SCHEMA + _MORE_SCHEMA)
        self._index.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary folder."""
        self._index.close()
        self._rows.close()
        self._folder.cleanup()

    def add(
        self, tenant_id: str, run_id: str, source: str, started_us: int | None, block: bytes, rows: int
    ) -> str | None:
        """Keep one run's rows.

        Args:
            tenant_id: its tenant.
            run_id: the run.
            source: path of its trace below the source.
            started_us: its start.
            block: its rows as lines, each ended, in the order of the steps; may be empty.
            rows: how many.

        Returns:
            None, or the path of the trace that gave the same run before: then nothing is kept.
        """
        try:
            self._index.execute(
                "INSERT INTO run (tenant, run, source, started, rows, offset, length) VALUES (?,?,?,?,?,?,?)",
                (tenant_id, run_id, source, started_us, rows, self._offset, len(block)),
            )
        except sqlite3.IntegrityError:
            found = self._index.execute(
                "SELECT source FROM run WHERE tenant=? AND run=?", (tenant_id, run_id)
            ).fetchone()
            return str(found[0])
        self._rows.write(block)
        self._offset += len(block)
        return None

    def remember(self, tenant_id: str, run_id: str, part: Part, source: str) -> None:
        """Note where the parent version put a run."""
        self._index.execute(
            "INSERT OR REPLACE INTO previous (tenant, run, part, source) VALUES (?,?,?,?)",
            (tenant_id, run_id, part.value, source),
        )

    def has_run(self, tenant_id: str, run_id: str) -> bool:
        """Whether a trace of a run was used."""
        found = self._index.execute("SELECT 1 FROM run WHERE tenant = ? AND run = ?", (tenant_id, run_id))
        return found.fetchone() is not None

    def has_tenant(self, tenant_id: str) -> bool:
        """Whether a trace of a tenant was used."""
        return self._index.execute("SELECT 1 FROM run WHERE tenant = ? LIMIT 1", (tenant_id,)).fetchone() is not None

    def tenant_sizes(self) -> list[tuple[str, int, int, int]]:
        """Per tenant, in order: its runs that count, and how many of its runs the parent version trained on or held.

        A run counts when it gave rows or is held out already.
        """
        return self._index.execute(
            "SELECT r.tenant, SUM(r.rows > 0 OR p.part IS 'holdout'), COUNT(*) FILTER (WHERE p.part = 'train'),"
            " COUNT(*) FILTER (WHERE p.part = 'holdout') FROM run r"
            " LEFT JOIN previous p ON p.tenant = r.tenant AND p.run = r.run GROUP BY r.tenant ORDER BY r.tenant"
        ).fetchall()

    def hold_out_previous(self) -> None:
        """Hold out what the parent version held out."""
        self._index.execute(
            "UPDATE run SET part = 'holdout' WHERE (tenant, run) IN"
            " (SELECT tenant, run FROM previous WHERE part = 'holdout')"
        )

    def hold_out_newest(self, count: int) -> None:
        """Hold out the newest runs that gave rows and that the parent does not know; no known start means oldest."""
        self._index.execute(
            "UPDATE run SET part = 'holdout' WHERE (tenant, run) IN (SELECT r.tenant, r.run FROM run r"
            " LEFT JOIN previous p ON p.tenant = r.tenant AND p.run = r.run WHERE p.part IS NULL AND r.rows > 0"
            " ORDER BY r.started DESC NULLS LAST, r.tenant DESC, r.run DESC LIMIT ?)",
            (max(0, count),),
        )

    def hold_out_tenant(self, tenant_id: str) -> None:
        """Hold out the runs of a tenant that the parent does not know."""
        self._index.execute(
            "UPDATE run SET part = 'holdout' WHERE tenant = ? AND NOT EXISTS"
            " (SELECT 1 FROM previous p WHERE p.tenant = run.tenant AND p.run = run.run)",
            (tenant_id,),
        )

    def lineage(self) -> Iterator[LineageEntry]:
        """Every run that gave rows or that the parent version knows, in the dataset's order."""
        cursor = self._index.execute(
            "SELECT tenant, run, source, part, rows FROM run r WHERE rows > 0 OR EXISTS"
            " (SELECT 1 FROM previous p WHERE p.tenant = r.tenant AND p.run = r.run)"
            " UNION ALL SELECT tenant, run, source, part, 0 FROM previous p WHERE NOT EXISTS"
            " (SELECT 1 FROM run r WHERE r.tenant = p.tenant AND r.run = p.run) ORDER BY 1, 2"
        )
        for tenant, run, source, part, rows in cursor:
            yield LineageEntry(tenant, run, source, Part(part), rows)

    def blocks(self, part: Part | None = None) -> Iterator[bytes]:
        """The rows of one part, or of all, a run at a time, each line ended, in the dataset's order."""
        self._rows.flush()
        where, values = ("AND part = ?", (part.value,)) if part else ("", ())
        cursor = self._index.execute(
            f"SELECT offset, length FROM run WHERE rows > 0 {where} ORDER BY tenant, run", values
        )
        while batch := cursor.fetchmany(_BATCH):
            for offset, length in batch:
                self._rows.seek(offset)
                yield self._rows.read(length)

    def runs(self, part: Part) -> Iterator[RunBlock]:
        """The runs of a part that gave rows, in the dataset's order, with their rows."""
        self._rows.flush()
        cursor = self._index.execute(
            "SELECT r.tenant, r.source, r.offset, r.length, p.part IS NOT NULL FROM run r"
            " LEFT JOIN previous p ON p.tenant = r.tenant AND p.run = r.run"
            " WHERE r.rows > 0 AND r.part = ? ORDER BY r.tenant, r.run",
            (part.value,),
        )
        while batch := cursor.fetchmany(_BATCH):
            for tenant, source, offset, length, known in batch:
                self._rows.seek(offset)
                yield RunBlock(tenant, source, self._rows.read(length).split(b"\n")[:-1], bool(known))

    def refuse(self, source: str) -> None:
        """Note a good trace that must not be used, by its path below the source."""
        self._index.execute("INSERT OR IGNORE INTO refused VALUES (?)", (source,))

    def is_refused(self, source: str) -> bool:
        """Whether the trace at a path must not be used."""
        return self._index.execute("SELECT 1 FROM refused WHERE path = ?", (source,)).fetchone() is not None

    def note_bad(self, path: str, reason: str, detail: str) -> None:
        """Note a file that could not be used; all three are written to the version's report."""
        self._index.execute("INSERT INTO bad VALUES (?,?,?)", (path, reason, detail))

    def bad_files(self) -> Iterator[tuple[str, str, str]]:
        """Path, reason and detail of the files that could not be used, in order."""
        yield from self._index.execute("SELECT path, reason, detail FROM bad ORDER BY path, reason, detail")

    def note_picture(self, name: str, path: str, size: int) -> None:
        """Note a screenshot that a row refers to.

        Args:
            name: its name.
            path: where it lies below the source, the first of several; empty where only the dataset has it.
            size: bytes.
        """
        self._index.execute(
            "INSERT INTO picture (name, path, size) VALUES (?,?,?) ON CONFLICT(name) DO UPDATE SET path ="
            " CASE WHEN path = '' OR (excluded.path <> '' AND excluded.path < path) THEN excluded.path ELSE path END",
            (name, path, size),
        )

    def has_pictures(self) -> bool:
        """Whether any row refers to a screenshot."""
        return self._index.execute("SELECT 1 FROM picture LIMIT 1").fetchone() is not None

    def use_picture(self, name: str) -> None:
        """Note that a row of the version refers to a screenshot."""
        self._index.execute("UPDATE picture SET used = 1 WHERE name = ? AND used = 0", (name,))

    def used_pictures(self) -> Iterator[tuple[str, str, int]]:
        """Name, path below the source and size of the screenshots that rows of the version refer to, in order."""
        cursor = self._index.execute("SELECT name, path, size FROM picture WHERE used = 1 ORDER BY name")
        while batch := cursor.fetchmany(_BATCH):
            yield from batch

    def row_count(self, part: Part | None = None) -> int:
        """Rows of one part, or of all."""
        where, values = ("WHERE part = ?", (part.value,)) if part else ("", ())
        found = self._index.execute(f"SELECT COALESCE(SUM(rows), 0) FROM run {where}", values).fetchone()
        return int(found[0])

    def run_count(self) -> int:
        """Runs."""
        return int(self._index.execute("SELECT COUNT(*) FROM run").fetchone()[0])
