"""A trace that a person can judge in a terminal, and what the person says of it.

Traces quote web pages, so every text is made harmless before it reaches the terminal: control characters are shown,
never sent.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from sluice_api.contracts.trace import Label
from sluice_traces.convert import DropReason, Screens, action_text
from sluice_traces.label import label_document
from sluice_traces.local import harmless, only_editor, read_trace, write_atomically
from sluice_traces.reader import MALFORMED, BadFileError, BadReason, decode
from sluice_traces.records import ActionRecord, HeaderRecord

ReviewStatus = Literal["pending", "approved", "rejected"]
"""What a person says of a trace."""
REVIEW_STATUSES: tuple[ReviewStatus, ...] = ("pending", "approved", "rejected")
"""All of them."""
_COLOURS = {Label.POSITIVE.value: "32", Label.NEGATIVE.value: "31", Label.NEUTRAL.value: "33"}
_MARKS = {Label.POSITIVE.value: "+", Label.NEGATIVE.value: "-", Label.NEUTRAL.value: "."}
_INDENT = " " * 8

Paint = Callable[[str, str], str]


class _Versionless(HeaderRecord, kw_only=True, gc=False):
    schema_version: int = 0


class _Indexed(msgspec.Struct, gc=False):
    step_index: Any = None


_HEADER = msgspec.json.Decoder(_Versionless)
_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_STEPS = msgspec.json.Decoder(list[msgspec.Raw])
_INDEXED = msgspec.json.Decoder(_Indexed)


def load(path: Path) -> dict[str, Any]:
    """The labelled trace in a file; one that was never labelled is labelled on the way.

    Raises:
        BadFileError: it is no usable trace, or cannot be read.
    """
    raw, _ = read_trace(path)
    return _loaded(raw, path.name)


def _loaded(raw: bytes, name: str) -> dict[str, Any]:
    document = _values(raw)
    steps = document.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadFileError(BadReason.NOT_A_TRACE, "Object missing required field `steps`, a list of objects")
    if all("label" in step for step in steps) and isinstance(document.get("label_summary"), dict):
        return document
    labelled = _values(label_document(raw, name).content)
    labelled["review_status"] = document.get("review_status", "")
    return labelled


def _values(raw: bytes) -> dict[str, Any]:
    """A document whose header is a trace's, with everything that it holds."""
    decode(raw, _HEADER, oldest=0)
    try:
        document: dict[str, Any] = msgspec.json.decode(raw, type=dict[str, Any])
    except MALFORMED:
        # The header's decoder skips what a person would see and JSON allows: numbers beyond all bounds, deep nesting.
        raise BadFileError(BadReason.INVALID_JSON, "a number is out of range, or it is nested too deeply") from None
    return document


def set_review_status(path: Path, status: ReviewStatus) -> None:
    """Write what a person says into a labelled file, which keeps its modification time.

    Raises:
        BadFileError: it is no labelled trace, or cannot be read.
        OSError: it cannot be written.
    """
    with only_editor(path):
        raw, modified = read_trace(path)
        _loaded(raw, path.name)
        document = _RAW_FIELDS.decode(raw)
        if "label_summary" not in document:
            raise BadFileError(BadReason.NOT_LABELLED, "it has no labels to judge: run sluice trace label first")
        document["review_status"] = msgspec.Raw(msgspec.json.encode(status))
        write_atomically(path, msgspec.json.encode(document) + b"\n", modified_ns=modified)


def set_human_edit(path: Path, step_index: int, edit: dict[str, Any]) -> None:
    """Write the answer that a person says a step should have given; everything else stays to the byte.

    A labelled file keeps its modification time, so that labelling again does not take it for out of date.

    Raises:
        BadFileError: it is no trace with just one step of that index, or cannot be read.
        OSError: it cannot be written.
    """
    with only_editor(path):
        raw, modified = read_trace(path)
        _loaded(raw, path.name)
        document = _RAW_FIELDS.decode(raw)
        steps = _RAW_STEPS.decode(document["steps"])
        places = [place for place, step in enumerate(steps) if _INDEXED.decode(step).step_index == step_index]
        if len(places) != 1:
            raise BadFileError(BadReason.NOT_A_TRACE, f"has {len(places)} steps with the index {step_index}")
        step = _RAW_FIELDS.decode(steps[places[0]])
        step["human_edit"] = msgspec.Raw(msgspec.json.encode(edit))
        steps[places[0]] = msgspec.Raw(msgspec.json.encode(step))
        document["steps"] = msgspec.Raw(msgspec.json.encode(steps))
        labelled = "label_summary" in document
        write_atomically(path, msgspec.json.encode(document) + b"\n", modified_ns=modified if labelled else None)


def render(document: dict[str, Any], screens: Screens, *, colour: bool, width: int) -> str:
    """A labelled trace as text.

    Args:
        document: as `load` gives it.
        screens: its screenshots.
        colour: whether to colour labels.
        width: columns.
    """

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    summary = document["label_summary"]
    counts = "  ".join(
        paint(f"{name} {harmless(summary.get(name, 0))}", _COLOURS[name]) for name in (label.value for label in Label)
    )
    costs = document.get("costs")
    cost = costs.get("total") if isinstance(costs, dict) else None
    review = harmless(document.get("review_status")) or "(not labelled)"
    lines = [
        paint(f"run {harmless(document.get('run_id'))}", "1"),
        f"tenant {harmless(document.get('tenant_id')) or '(shared)'}   "
        f"variant {harmless(document.get('variant')) or '(none)'}   status {harmless(document.get('status'))}",
        f"started {harmless(document.get('started_at')) or '(unknown)'}   cost "
        + (f"${cost:.4f}" if isinstance(cost, int | float) else "(unknown)"),
        f"steps {len(document['steps'])}   {counts}   review {review}",
    ]
    for step in document["steps"]:
        lines += ["", *_step_lines(step, screens, paint, width)]
    return "\n".join(lines) + "\n"


def action_line(step: dict[str, Any]) -> str:
    """A step's action in the grammar, or why there is none."""
    try:
        action = msgspec.convert(step.get("last_action"), ActionRecord | None)
    except msgspec.ValidationError:
        return f"({DropReason.ACTION_NOT_IN_GRAMMAR})"
    text = action_text(action)
    return f"({text})" if isinstance(text, DropReason) else text


def _step_lines(step: dict[str, Any], screens: Screens, paint: Paint, width: int) -> list[str]:
    label = harmless(step.get("label"))
    mark = paint(f"{_MARKS.get(label, '?')} {label:<8}", _COLOURS.get(label, "0"))
    index = step.get("step_index")
    lines = [f"{harmless(index):>4}  {mark} {harmless(step.get('label_reason'))}"]
    details = {
        "intent": step.get("intent"),
        "action": action_line(step),
        "expected": step.get("predicted_outcome"),
        "observed": step.get("observed_outcome"),
        "data": step.get("data"),
        "reasoning": step.get("reasoning"),
        "success": step.get("success"),
        "screenshot": screens.image(index) if isinstance(index, int) else None,
    }
    for name, value in details.items():
        if value is None or value == "":
            continue
        head = f"{name + ':':<12}"
        lines += textwrap.wrap(
            head + harmless(value),
            width=max(width, 40),
            initial_indent=_INDENT,
            subsequent_indent=_INDENT + " " * len(head),
            break_on_hyphens=False,
        )
    return lines
