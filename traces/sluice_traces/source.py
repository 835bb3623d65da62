"""Where traces come from: a listing kept on disk, and files read ahead of their use.

A listing is taken once and kept in SQLite, so that its length costs no memory, the order never depends on the
storage, and screenshots are found without a request each.
"""

import hashlib
import re
import sqlite3
import tempfile
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from sluice_artifacts import ArtifactError, ForbiddenError, NotFoundError, ObjectInfo, Store
from sluice_traces.convert import NO_SCREENS, Screens
from sluice_traces.local import is_text, name_text
from sluice_traces.reader import (
    MAX_FILE_BYTES,
    SCREENS_SUFFIX,
    BadFileError,
    BadReason,
    check_size,
    is_temporary_name,
    is_trace_name,
    screens_folder,
)
from sluice_traces.screens import MAX_SCREEN_BYTES

READ_AHEAD_BYTES = 64 * 1024 * 1024
"""Bytes in flight at most, unless a single file is larger."""
READ_AHEAD_FILES = 128
"""Files in flight at most."""
_SCREEN = re.compile(r"(.+" + re.escape(SCREENS_SUFFIX) + r")/(\d{4,9})\.png")
_SCHEMA = """
CREATE TABLE file (
    path TEXT PRIMARY KEY, uri TEXT NOT NULL, size INTEGER NOT NULL, fingerprint TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE misnamed (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE screens (folder TEXT PRIMARY KEY, steps BLOB NOT NULL, fingerprint BLOB NOT NULL) WITHOUT ROWID;
"""
_BATCH = 1024


class SourceFile(NamedTuple):
    """One trace file of a listing."""

    path: str
    """Path below the source."""
    uri: str
    """Where to read it."""
    size: int
    """Bytes."""
    fingerprint: str = ""
    """Changes whenever the file does; empty when the listing cannot tell."""


class Inventory:
    """What lies below a source. A context manager; leaving it forgets the listing."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create an empty inventory; `folder` is where to keep its temporary file, None takes the system's."""
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-inventory-", dir=folder)
        self._index = sqlite3.connect(Path(self._folder.name) / "index.sqlite3", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192"):
            self._index.execute(f"PRAGMA {pragma}")
        self._index.executescript(_SCHEMA)
        self._index.execute("BEGIN")
        self._pending: tuple[str, array[int], list[str]] | None = None
        self.unfinished = 0
        """Files left out because their name says that they are still being written."""
        self.large_screens = 0
        """Screenshots left out because they are larger than any screenshot."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._index.close()
        self._folder.cleanup()

    def scan(self, store: Store, prefix: str, seen: Callable[[int], None] = lambda count: None) -> None:
        """List a source.

        Args:
            store: where it lies.
            prefix: its prefix.
            seen: told from time to time how many objects were listed.

        Raises:
            ArtifactError: the storage cannot list it.
        """
        base = prefix.rstrip("/") + "/"
        for count, found in enumerate(store.list(base), start=1):
            self._note(found.uri.removeprefix(base), found)
            if count % _BATCH == 0:
                seen(count)
        self._keep_screens()

    def files(self) -> Iterator[SourceFile]:
        """The trace files, in the order of their paths."""
        cursor = self._index.execute("SELECT path, uri, size, fingerprint FROM file ORDER BY path")
        while batch := cursor.fetchmany(_BATCH):
            yield from map(SourceFile._make, batch)

    def misnamed(self) -> Iterator[str]:
        """Trace files whose names are no text and which no lineage could name, with escapes, in order."""
        for (path,) in self._index.execute("SELECT path FROM misnamed ORDER BY path"):
            yield path

    def count(self) -> int:
        """Trace files, misnamed ones included."""
        counted = "SELECT (SELECT COUNT(*) FROM file) + (SELECT COUNT(*) FROM misnamed)"
        return int(self._index.execute(counted).fetchone()[0])

    def screens(self, path: str) -> Screens:
        """Screenshots that belong to the trace file at a path."""
        folder = screens_folder(path)
        found = self._index.execute("SELECT steps FROM screens WHERE folder = ?", (folder,)).fetchone()
        return Screens(folder, frozenset(array("L", found[0]))) if found else NO_SCREENS

    def fingerprint(self, file: SourceFile) -> str:
        """Changes whenever the file or one of its run's screenshots does; empty when the listing cannot tell."""
        if not file.fingerprint:
            return ""
        folder = screens_folder(file.path)
        found = self._index.execute("SELECT fingerprint FROM screens WHERE folder = ?", (folder,)).fetchone()
        return f"{file.fingerprint}:{found[0].hex() if found else ''}"

    def _note(self, path: str, found: ObjectInfo) -> None:
        uri, size = found.uri, found.size
        if not is_text(path):
            if is_trace_name(path):
                self._index.execute("INSERT OR IGNORE INTO misnamed VALUES (?)", (name_text(path),))
        elif is_trace_name(path):
            self._index.execute("INSERT OR REPLACE INTO file VALUES (?,?,?,?)", (path, uri, size, _fingerprint(found)))
        elif screen := _SCREEN.fullmatch(path):
            # An empty picture is none.
            if size > MAX_SCREEN_BYTES:
                self.large_screens += 1
            elif size > 0:
                self._note_screen(screen[1], int(screen[2]), _fingerprint(found))
        elif is_temporary_name(path):
            self.unfinished += 1

    def _note_screen(self, folder: str, step: int, fingerprint: str) -> None:
        if self._pending is None or self._pending[0] != folder:
            self._keep_screens()
            self._pending = (folder, array("L"), [])
        self._pending[1].append(step)
        self._pending[2].append(f"{step}:{fingerprint}")

    def _keep_screens(self) -> None:
        if self._pending is not None:
            folder, steps, fingerprints = self._pending
            digest = hashlib.sha256("\n".join(sorted(fingerprints)).encode()).digest()
            self._index.execute(
                "INSERT INTO screens VALUES (?,?,?) ON CONFLICT(folder) DO UPDATE SET steps = steps || excluded.steps,"
                " fingerprint = fingerprint || excluded.fingerprint",
                (folder, steps.tobytes(), digest),
            )
        self._pending = None


def _fingerprint(found: ObjectInfo) -> str:
    return f"{found.size}:{found.etag}:{found.modified.isoformat()}"


def read_files(
    read: Callable[[SourceFile], bytes | BadFileError],
    files: Iterator[SourceFile],
    *,
    threads: int,
    known: Callable[[SourceFile], bool] = lambda file: False,
) -> Iterator[tuple[SourceFile, bytes | BadFileError | None]]:
    """Read files in order, ahead of their use.

    Args:
        read: reads one.
        files: which.
        threads: files read at a time; 1 reads without threads, which is fastest on a local disk.
        known: which files need not be read.

    Yields:
        Each file with its bytes, or with what is wrong with it, or with None where it is known.

    Raises:
        ArtifactError: the storage as a whole fails.
    """
    if threads <= 1:
        for file in files:
            yield file, None if known(file) else read(file)
        return
    waiting: deque[tuple[SourceFile, Future[bytes | BadFileError] | None]] = deque()
    in_flight = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sluice-read")
    try:
        for file in files:
            if known(file):
                waiting.append((file, None))
            else:
                waiting.append((file, pool.submit(read, file)))
                in_flight += file.size
            while waiting and (in_flight > READ_AHEAD_BYTES or len(waiting) > READ_AHEAD_FILES):
                first, answer = waiting.popleft()
                yield first, None if answer is None else answer.result()
                in_flight -= 0 if answer is None else first.size
        while waiting:
            first, answer = waiting.popleft()
            yield first, None if answer is None else answer.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_source_file(store: Store, file: SourceFile, limit: int = MAX_FILE_BYTES) -> bytes | BadFileError:
    """The bytes of a file, or what is wrong with it.

    Args:
        store: where it lies.
        file: which.
        limit: a larger file is not read, in bytes.

    Raises:
        ArtifactError: the storage as a whole failed.
    """
    try:
        check_size(file.size, limit)
        return store.read(file.uri)
    except BadFileError as error:
        return error
    except NotFoundError:
        return BadFileError(BadReason.VANISHED, "listed, and gone when it was read")
    except ForbiddenError as error:
        return BadFileError(BadReason.UNREADABLE, error.message)
    except ArtifactError as error:
        # The storage itself (unreachable, credentials expired) is no property of one file.
        if type(error) is ArtifactError:
            return BadFileError(BadReason.UNREADABLE, error.message)
        raise
