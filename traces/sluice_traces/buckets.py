"""Buckets of a mixture: lines from storage, brought to one shape, judged by the critic, redacted, kept on disk.

Privacy comes after the critic, so that a candidate with a secret is rejected for it rather than repaired by it, and
before anything is kept. What a line says appears in no message: places are named by file and line.
"""

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from sluice_api.contracts.jobs import CriticRule
from sluice_artifacts import Store, join, open_store
from sluice_traces.convert import PrivateTextError
from sluice_traces.critic import Candidate, CandidateError, Critic, HarnessRunner, normalise, scrubbed
from sluice_traces.critic.judge import ACCEPTED_REASON, accepted_row
from sluice_traces.mixture import RowInfo, row_tags
from sluice_traces.privacy import Redactor
from sluice_traces.reader import MALFORMED

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are no candidates."""
BUCKET_SUFFIX = ".jsonl"
"""Files of a bucket that hold candidates."""
BAD_NAMED = 100
"""Bad lines of a bucket that are named; beyond them they are only counted."""
CORPUS_REASON = "corpus"
"""`label_reason` of rows that no critic accepted."""
_ROW = msgspec.msgpack.Decoder(tuple[bytes, str, bytes])
_ENCODE = msgspec.msgpack.Encoder().encode


class BadLine(NamedTuple):
    """A line that is no candidate."""

    place: str
    """Bucket, file and line."""
    reason: str
    """Class of the defect."""


class BucketRow(NamedTuple):
    """One row of a bucket file."""

    trace: str
    """File that it came from."""
    tenant_id: str
    """Tenant of its run; empty outside traces."""
    line: bytes
    """The row as JSON."""


@dataclass(slots=True)
class BucketFile:
    """The rows of one bucket on disk."""

    name: str
    """Name of the bucket."""
    path: Path
    """Its file."""
    infos: list[RowInfo] = field(default_factory=list)
    """What planning needs of each row."""
    offsets: "array[int]" = field(default_factory=lambda: array("Q", [0]))
    """Where each row begins, and behind the last one where the file ends."""
    candidates: int = 0
    """Lines that were looked at."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Candidates left out, by reason."""
    bad: Counter[str] = field(default_factory=Counter)
    """Lines that are no candidates, by reason."""
    bad_lines: list[BadLine] = field(default_factory=list)
    """The first of them."""
    redactions: Counter[str] = field(default_factory=Counter)
    """Private texts found, by detector."""

    def rows(self, order: Iterator[int]) -> Iterator[BucketRow]:
        """The rows at some positions."""
        with self.path.open("rb") as file:
            for position in order:
                file.seek(self.offsets[position])
                yield decode_row(file.read(self.offsets[position + 1] - self.offsets[position]))


def bucket_path(folder: Path, name: str) -> Path:
    """Where a bucket is kept; its name is for people and need not be one of a file."""
    return folder / f"bucket-{hashlib.sha256(name.encode()).hexdigest()}"


class BucketWriter:
    """Writes a bucket file. A context manager."""

    def __init__(self, name: str, path: Path) -> None:
        self.file = BucketFile(name, path)
        self._out = path.open("wb")

    def __enter__(self) -> "BucketWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def add(self, row: BucketRow, tags: tuple[str, ...] = ()) -> None:
        """Keep a row."""
        data = _ENCODE((row.trace.encode("utf-8", "surrogateescape"), row.tenant_id, row.line))
        self._out.write(data)
        self.file.offsets.append(self.file.offsets[-1] + len(data))
        self.file.infos.append(RowInfo(hashlib.sha256(row.line).digest(), tags))


def decode_row(data: bytes) -> BucketRow:
    """A row of a bucket file."""
    trace, tenant_id, line = _ROW.decode(data)
    return BucketRow(trace.decode("utf-8", "surrogateescape"), tenant_id, line)


class BucketReader:
    """Fills bucket files from storage."""

    def __init__(self, redactor: Redactor, rule: CriticRule | None, runner: HarnessRunner | None = None) -> None:
        """Prepare to read.

        Args:
            redactor: looks for private text.
            rule: what the critic asks for; None takes every well-formed candidate.
            runner: runs candidates' tests; None leaves them unknown.
        """
        self._redactor = redactor
        self._rule = rule
        self._critic = None if rule is None else Critic(runner, languages=frozenset(rule.languages))

    def read(self, name: str, uri: str, folder: Path) -> BucketFile:
        """Read, judge and keep every line of a bucket.

        Args:
            name: the bucket.
            uri: prefix of its files.
            folder: where its file is kept.

        Raises:
            ArtifactError: the storage failed.
        """
        store = open_store(uri)
        base = uri.rstrip("/") + "/"
        with BucketWriter(name, bucket_path(folder, name)) as writer:
            for found in store.list(base):
                path = found.uri.removeprefix(base)
                if path.endswith(BUCKET_SUFFIX) and not path.rpartition("/")[2].startswith("."):
                    self._file(writer, store, base, path)
        return writer.file

    def _file(self, writer: BucketWriter, store: Store, base: str, path: str) -> None:
        with tempfile.TemporaryDirectory(prefix="sluice-bucket-", dir=writer.file.path.parent) as folder:
            local = Path(folder) / "lines"
            store.download(join(base, path), local)
            for number, line in _bounded_lines(local):
                self._line(writer, path, number, line)

    def _line(self, writer: BucketWriter, path: str, number: int, line: bytes | None) -> None:
        bucket = writer.file
        bucket.candidates += 1
        try:
            if line is None:
                raise CandidateError("too long")
            candidate = normalise(line, number)
            tags = row_tags(line)
        except (CandidateError, *MALFORMED):
            reason = "too_large" if line is None else "not_a_candidate"
            bucket.bad[reason] += 1
            if len(bucket.bad_lines) < BAD_NAMED:
                place = self._redactor.mask(f"{bucket.name}: {path}:{number}")
                bucket.bad_lines.append(BadLine(place, reason))
            return
        reason = CORPUS_REASON
        if self._critic is not None and self._rule is not None:
            judgement = self._critic.judge(candidate)
            if judgement.labels.accepted:
                reason = ACCEPTED_REASON
            else:
                bucket.rejected[judgement.reasons[0].value] += 1
                if self._rule.require_accepted:
                    return
        try:
            cleaned = self._scrubbed(candidate, bucket)
        except PrivateTextError:
            bucket.rejected["private"] += 1
            return
        writer.add(BucketRow(self._redactor.mask(path), "", accepted_row(cleaned, number, reason)), tags)

    def _scrubbed(self, candidate: Candidate, bucket: BucketFile) -> Candidate:
        if not self._redactor.config.active:
            return candidate
        redactor = self._redactor.run()
        try:
            return scrubbed(candidate, redactor.scrub)
        finally:
            bucket.redactions.update(redactor.counts)


def _bounded_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of every line that is not blank; None for one that is too long, which is never held whole."""
    with path.open("rb") as file:
        number, long = 0, False
        while piece := file.readline(MAX_LINE_BYTES):
            ended = piece.endswith(b"\n")
            if not long:
                number += 1
            if long or (not ended and len(piece) >= MAX_LINE_BYTES):
                if ended or len(piece) < MAX_LINE_BYTES:
                    yield number, None
                long = not ended and len(piece) >= MAX_LINE_BYTES
            elif piece.strip():
                yield number, piece.rstrip(b"\r\n")
        if long:
            yield number, None
