"""Labelled copies of trace files: every field carried, a judgement on every step, the input's folders mirrored.

Steps are copied as the bytes that they are and the judgement is appended, so that nothing a newer exporter writes is
lost. A finished output carries its input's modification time: that is how an interrupted run knows what is done.
"""

import errno
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.ladder import LABEL_OF, judge_fast
from sluice_traces.local import name_text, read_trace, trace_time, write_atomically
from sluice_traces.reader import MALFORMED, BadFile, BadFileError, BadReason, decode
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
    withdrawn: int = 0
    """Traces that changed after a person had reviewed or corrected their labelled copy, so that it has to be redone."""
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


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a person said of a document."""

    status: str | None = None
    """The review status; None where nothing was said."""
    edits: dict[int, msgspec.Raw] = field(default_factory=dict)
    """Corrections, by position of the step in the document."""

    def __bool__(self) -> bool:
        return bool(self.edits) or self.status not in (None, "", REVIEW_PENDING)


_NOT_REVIEWED = Reviewed()


def label_document(raw: bytes, source_path: str, reviewed: Reviewed = _NOT_REVIEWED) -> LabelledFile:
    """Label one trace document.

    Args:
        raw: the trace, or a labelled trace that is to be labelled anew.
        source_path: where it was read from, carried in the output.
        reviewed: what a person said of the same document; what is not said stays as the document has it.

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
        labelled.append(_with_judgement(step, judged, reason, reviewed.edits.get(index)))
    # A document that was labelled before keeps pointing to the trace that it came from.
    if "source_path" not in document:
        document["source_path"] = msgspec.Raw(_ENCODE(name_text(source_path)))
        document["source_digest"] = msgspec.Raw(_ENCODE("sha256:" + hashlib.sha256(raw).hexdigest()))
    if reviewed.status is not None or "review_status" not in document:
        document["review_status"] = msgspec.Raw(_ENCODE(reviewed.status or REVIEW_PENDING))
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
        BadFileError: the source cannot be read, or is no usable trace.
        OSError: the target cannot be read or written, or is there already and no labelled trace.
    """
    modified = _modified(target)
    if not force and modified == trace_time(source):
        finished = _finished_reasons(target)
        if finished is not None:
            run.unchanged += 1
            run.count(finished)
            return
    raw, source_modified = read_trace(source)
    reviewed = _NOT_REVIEWED if modified is None else _review_of(target, raw, run)
    labelled = label_document(raw, source_path, reviewed)
    write_atomically(target, labelled.content, modified_ns=source_modified)
    run.labelled += 1
    run.count(labelled.reasons)


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


def _with_judgement(step: msgspec.Raw, judged: _JudgedStep, reason: LabelReason, edit: msgspec.Raw | None) -> bytes:
    raw = bytes(step)
    if edit is not None or judged.label is not msgspec.UNSET or judged.label_reason is not msgspec.UNSET:
        fields: dict[str, Any] = _STEP_FIELDS.decode(raw)
        fields.pop("label", None)
        fields.pop("label_reason", None)
        if edit is not None:
            fields["human_edit"] = edit
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
    except (OSError, *MALFORMED):
        return None
    reasons: dict[LabelReason, int] = {}
    for step in finished.steps:
        reasons[step.label_reason] = reasons.get(step.label_reason, 0) + 1
    return reasons


class _ReviewedStep(msgspec.Struct, gc=False):
    human_edit: msgspec.Raw = msgspec.Raw(b"null")


class _Reviewed(msgspec.Struct, gc=False):
    label_summary: Any = None
    review_status: str | None = None
    source_digest: str | None = None
    steps: list[_ReviewedStep] = []


_REVIEWED = msgspec.json.Decoder(_Reviewed)


def _review_of(target: Path, raw: bytes, run: LabelRun) -> Reviewed:
    """What a person said of a target that was made from the very same bytes.

    Raises:
        OSError: the target cannot be read, or is a document that no labeller wrote, which must not be lost.
    """
    try:
        found = _REVIEWED.decode(target.read_bytes())
    except MALFORMED:
        return _NOT_REVIEWED
    if found.label_summary is None:
        problem = "is there already and is no labelled trace: give another folder"
        raise FileExistsError(errno.EEXIST, problem, str(target))
    edits = {place: step.human_edit for place, step in enumerate(found.steps) if bytes(step.human_edit) != b"null"}
    reviewed = Reviewed(found.review_status, edits)
    if found.source_digest == "sha256:" + hashlib.sha256(raw).hexdigest():
        return reviewed
    run.withdrawn += bool(reviewed)
    return _NOT_REVIEWED
