"""What earlier builds made of each trace file, so that a refresh reads only what is new or changed.

The cache is an SQLite file under the dataset's prefix, one for each set of options. It can only save work: an entry
counts while the file and its run's screenshots have the same fingerprint (size, etag, time of change), and what it
holds is what reading them would give. A cache that is missing, broken or of another version is an empty one.
"""

import hashlib
import logging
import sqlite3
from pathlib import Path

from sluice_api.contracts.jobs import LabelJob
from sluice_artifacts import ArtifactError, Store, canonical_json, join
from sluice_traces.dataset import code_version
from sluice_traces.labeller import Outcome, decode_outcome, encode_outcome
from sluice_traces.pipeline import RunRows
from sluice_traces.reader import BadFileError, BadReason
from sluice_traces.screens import ScreenProblem
from sluice_traces.source import SourceFile

CACHE_FOLDER = "_cache"
"""Below the dataset's prefix."""
CACHE_VERSION = 4
"""Raised whenever the meaning of an entry changes."""
_OPTIONS = (
    *("source_uri", "tenants", "variants", "since", "keep", "format", "screen_width", "screen_height"),
    *("require_screenshot", "require_review", "privacy"),
)
_SCHEMA = "CREATE TABLE entry (path BLOB PRIMARY KEY, fingerprint TEXT NOT NULL, outcome BLOB NOT NULL) WITHOUT ROWID"
_PASSING = frozenset({BadReason.VANISHED, BadReason.UNREADABLE})
_PASSING_SCREENS = frozenset({ScreenProblem.VANISHED.value, ScreenProblem.UNREADABLE.value})

_log = logging.getLogger(__name__)


class OutcomeCache:
    """Outcomes by path and fingerprint."""

    def __init__(self, folder: Path, store: Store, job: LabelJob) -> None:
        """Fetch the cache of a job's options, or start an empty one.

        Args:
            folder: where its file may be kept while it is used.
            store: the dataset's store.
            job: the job; its options name the cache.
        """
        self._store = store
        self._uri = join(job.dataset_uri, CACHE_FOLDER, f"{_options_key(job)}.sqlite3")
        self._file = folder / "cache.sqlite3"
        self._index = self._open()
        self._changed = False

    def close(self) -> None:
        """Give the file back."""
        self._index.close()

    def get(self, file: SourceFile, fingerprint: str) -> Outcome | None:
        """The outcome of a file that is the same as when it was stored; None when it has to be read."""
        found = self._index.execute(
            "SELECT outcome FROM entry WHERE path = ? AND fingerprint = ?", (_key(file), fingerprint)
        ).fetchone()
        return None if found is None else decode_outcome(found[0])

    def has(self, file: SourceFile, fingerprint: str) -> bool:
        """Whether the outcome of a file is known."""
        found = self._index.execute("SELECT 1 FROM entry WHERE path = ? AND fingerprint = ?", (_key(file), fingerprint))
        return found.fetchone() is not None

    def put(self, file: SourceFile, fingerprint: str, outcome: Outcome) -> None:
        """Store the outcome of a file; one that may be another on the next reading is not stored."""
        if isinstance(outcome, BadFileError) and outcome.reason in _PASSING:
            return
        if isinstance(outcome, RunRows) and not _PASSING_SCREENS.isdisjoint(outcome.bad_screens):
            return
        self._index.execute(
            "INSERT OR REPLACE INTO entry VALUES (?,?,?)", (_key(file), fingerprint, encode_outcome(outcome))
        )
        self._changed = True

    def save(self) -> None:
        """Write the cache back when it has changed. A storage that refuses is logged: the build does not need it."""
        if not self._changed:
            return
        self._index.execute("COMMIT")
        self._index.close()
        try:
            self._store.upload(self._file, self._uri)
        except ArtifactError as error:
            _log.warning("the cache was not written: %s", error)

    def _open(self) -> sqlite3.Connection:
        try:
            if self._store.exists(self._uri):
                self._store.download(self._uri, self._file)
                index = _connect(self._file)
                if index.execute("PRAGMA quick_check").fetchone() == ("ok",):
                    index.execute("SELECT path, fingerprint, outcome FROM entry LIMIT 1")
                    index.execute("BEGIN")
                    return index
                index.close()
        except (ArtifactError, sqlite3.Error) as error:
            _log.warning("the cache cannot be used and is made anew: %s", error)
        self._file.unlink(missing_ok=True)
        index = _connect(self._file)
        index.execute(_SCHEMA)
        index.execute("BEGIN")
        return index


def _connect(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-8192"):
        index.execute(f"PRAGMA {pragma}")
    return index


def _options_key(job: LabelJob) -> str:
    options = job.model_dump(mode="json", include=set(_OPTIONS))
    known = {"cache_version": CACHE_VERSION, "code_version": code_version(), **options}
    return hashlib.sha256(canonical_json(known)).hexdigest()


def _key(file: SourceFile) -> bytes:
    """Paths name tenants and runs, so only their hashes are kept."""
    return hashlib.sha256(file.path.encode("utf-8", "surrogateescape")).digest()
