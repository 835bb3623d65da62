"""Labelled copies of trace files: every field carried, a judgement on every step, the input's folders mirrored.

Steps are copied as the bytes that they are and the judgement is appended, so that nothing a newer exporter writes is
lost. A finished output carries its input's modification time: that is how an interrupted run knows what is done.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.ladder import LABEL_OF, judge_fast
from sluice_traces.reader import (
    MAX_FILE_BYTES,
    BadFile,
    BadFileError,
    BadReason,
    check_size,
    decode,
    is_trace_name,
)
from sluice_traces.records import HeaderRecord

REVIEW_PENDING = "pending"
"""`review_status` of a trace that nobody has judged yet."""
OUTPUT_FIRST = ("schema_version", "run_id", "tenant_id", "variant", "status", "source_path", "source_digest")
"""Order of the first fields of a labelled trace."""


class _JudgedStep(msgspec.Struct, gc=False):
    """What the ladder needs of a step, and what an earlier labeller has left on it."""

    success: bool | None = None
    data: str | None = None
    observed_outcome: str | None = None
    label: Any = msgspec.UNSET
    label_reason: Any = msgspec.UNSET


_HEADER = msgspec.json.Decoder(HeaderRecord)
_DOCUMENT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STEPS = msgspec.json.Decoder(list[msgspec.Raw])
_STEP = msgspec.json.Decoder(_JudgedStep)
_STEP_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode
_LABELS = (Label.POSITIVE.value, Label.NEGATIVE.value, Label.NEUTRAL.value)
_LABEL_NAMES = {reason: label.value for reason, label in LABEL_OF.items()}
_SUFFIXES = {
    reason: b'"label":' + _ENCODE(label.value) + b',"label_reason":' + _ENCODE(reason.value) + b"}"
    for reason, label in LABEL_OF.items()
}


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A labelled document and its counts."""

    content: bytes
    """The document, with a line end."""
    reasons: dict[LabelReason, int]
    """Steps by ladder rule."""


@dataclass(slots=True)
class LabelRun:
    """What a run of the labeller did."""

    labelled: int = 0
    """Files labelled now."""
    unchanged: int = 0
    """Files that an earlier run had finished."""
    reasons: dict[LabelReason, int] = field(default_factory=dict)
    """Steps of both, by ladder rule."""
    bad: list[BadFile] = field(default_factory=list)
    """Files left out."""

    def count(self, reasons: dict[LabelReason, int]) -> None:
        """Count the steps of a labelled file."""
        for reason, count in reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def labels(self) -> dict[str, int]:
        """Steps of the labelled and the unchanged files, by label."""
        return summarise(self.reasons)


def summarise(reasons: dict[LabelReason, int]) -> dict[str, int]:
    """Steps by label, from steps by ladder rule."""
    counts = dict.fromkeys(_LABELS, 0)
    for reason, count in reasons.items():
        counts[_LABEL_NAMES[reason]] += count
    return counts


def label_document(raw: bytes, source_path: str, review_status: str | None = None) -> LabelledFile:
    """Label one trace document.

    Args:
        raw: the trace, or a labelled trace that is to be labelled anew.
        source_path: where it was read from, carried in the output.
        review_status: what a person said of the same document; None keeps what the document says, or `pending`.

    Raises:
        BadFileError: it is no usable trace.
    """
    decode(raw, _HEADER)
    document = _DOCUMENT.decode(raw)
    steps = document.pop("steps", None)
    if steps is None:
        raise BadFileError(BadReason.NOT_A_TRACE, "Object missing required field `steps`")
    reasons: dict[LabelReason, int] = {}
    labelled: list[bytes] = []
    for index, step in enumerate(_raw_steps(steps)):
        judged = _decode_step(step, index)
        _, reason = judge_fast(judged.success, judged.data, judged.observed_outcome)
        reasons[reason] = reasons.get(reason, 0) + 1
        labelled.append(_with_judgement(step, judged, reason))
    # A document that was labelled before keeps pointing to the trace that it came from.
    if "source_path" not in document:
        document["source_path"] = msgspec.Raw(_ENCODE(source_path))
        document["source_digest"] = msgspec.Raw(_ENCODE("sha256:" + hashlib.sha256(raw).hexdigest()))
    if review_status is not None or "review_status" not in document:
        document["review_status"] = msgspec.Raw(_ENCODE(review_status or REVIEW_PENDING))
    document["label_summary"] = msgspec.Raw(_ENCODE(summarise(reasons)))
    first = {name: document.pop(name) for name in OUTPUT_FIRST if name in document}
    document["steps"] = msgspec.Raw(b"[" + b",".join(labelled) + b"]")
    return LabelledFile(_ENCODE({**first, **document}) + b"\n", reasons)


def label_file(source: Path, target: Path, source_path: str, run: LabelRun, *, force: bool = False) -> None:
    """Label one file into another; does nothing when that is done already.

    A target is whole or absent. What a person said of the target stays while the trace is the same.

    Args:
        source: the trace file.
        target: the labelled file; its folder is created.
        source_path: what the output says it was read from.
        run: counts what was done.
        force: label even when the target is up to date.

    Raises:
        BadFileError: the source is no usable trace.
        OSError: a file cannot be read or written.
    """
    stat = source.stat()
    modified = _modified(target)
    if not force and modified == stat.st_mtime_ns:
        finished = _finished_reasons(target)
        if finished is not None:
            run.unchanged += 1
            run.count(finished)
            return
    check_size(stat.st_size, MAX_FILE_BYTES)
    raw = source.read_bytes()
    labelled = label_document(raw, source_path, _review_of(target, raw) if modified is not None else None)
    write_atomically(target, labelled.content, modified_ns=stat.st_mtime_ns)
    run.labelled += 1
    run.count(labelled.reasons)


def trace_files(root: Path) -> Iterator[Path]:
    """The trace files below a folder, in the order of their relative paths."""
    with os.scandir(root) as entries:
        listed = sorted(entries, key=lambda entry: entry.name + "/" if entry.is_dir() else entry.name)
    for entry in listed:
        path = root / entry.name
        if entry.is_dir():
            if is_trace_name(f"{entry.name}/x.json"):
                yield from trace_files(path)
        elif is_trace_name(entry.name):
            yield path


def write_atomically(target: Path, content: bytes, *, modified_ns: int | None = None) -> None:
    """Write a file that appears whole or not at all; optionally with a given modification time.

    Raises:
        OSError: it cannot be written.
    """
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        if modified_ns is not None:
            os.utime(temporary, ns=(modified_ns, modified_ns))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _raw_steps(steps: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return _STEPS.decode(steps)
    except msgspec.ValidationError as error:
        raise BadFileError(BadReason.NOT_A_TRACE, str(error).replace("`$", "`$.steps")) from None


def _decode_step(step: msgspec.Raw, index: int) -> _JudgedStep:
    try:
        return _STEP.decode(step)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise BadFileError(BadReason.NOT_A_TRACE, f"{what} - at `$.steps[{index}]{where.rstrip('`')}`") from None


def _with_judgement(step: msgspec.Raw, judged: _JudgedStep, reason: LabelReason) -> bytes:
    raw = bytes(step)
    if judged.label is not msgspec.UNSET or judged.label_reason is not msgspec.UNSET:
        fields: dict[str, Any] = _STEP_FIELDS.decode(raw)
        fields.pop("label", None)
        fields.pop("label_reason", None)
        raw = _ENCODE(fields)
    body = raw.rstrip()[:-1].rstrip()
    return body + (_SUFFIXES[reason] if body == b"{" else b"," + _SUFFIXES[reason])


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


class _FinishedStep(msgspec.Struct, gc=False):
    label_reason: LabelReason


class _Finished(msgspec.Struct, gc=False):
    steps: list[_FinishedStep]


_FINISHED = msgspec.json.Decoder(_Finished)


def _finished_reasons(target: Path) -> dict[LabelReason, int] | None:
    """Steps of a finished file by ladder rule; None when it cannot be read, so that it is labelled again."""
    try:
        finished = _FINISHED.decode(target.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    reasons: dict[LabelReason, int] = {}
    for step in finished.steps:
        reasons[step.label_reason] = reasons.get(step.label_reason, 0) + 1
    return reasons


class _Reviewed(msgspec.Struct, gc=False):
    review_status: str | None = None
    source_digest: str | None = None


_REVIEWED = msgspec.json.Decoder(_Reviewed)


def _review_of(target: Path, raw: bytes) -> str | None:
    """What a person said of a target that was made from the very same bytes."""
    try:
        reviewed = _REVIEWED.decode(target.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    same = reviewed.source_digest == "sha256:" + hashlib.sha256(raw).hexdigest()
    return reviewed.review_status if same else None
