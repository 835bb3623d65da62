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
from sluice_traces.label import label_document, write_atomically
from sluice_traces.reader import BadFileError, BadReason, decode
from sluice_traces.records import ActionRecord, HeaderRecord

ReviewStatus = Literal["pending", "approved", "rejected"]
"""What a person says of a trace."""
REVIEW_STATUSES: tuple[ReviewStatus, ...] = ("pending", "approved", "rejected")
"""All of them."""
_COLOURS = {Label.POSITIVE.value: "32", Label.NEGATIVE.value: "31", Label.NEUTRAL.value: "33"}
_MARKS = {Label.POSITIVE.value: "+", Label.NEGATIVE.value: "-", Label.NEUTRAL.value: "."}
_TEXT_LIMIT = 600
_INDENT = " " * 8

Paint = Callable[[str, str], str]


class _Versionless(HeaderRecord, kw_only=True, gc=False):
    schema_version: int = 0


_HEADER = msgspec.json.Decoder(_Versionless)


def load(path: Path) -> dict[str, Any]:
    """The labelled trace in a file; one that was never labelled is labelled on the way.

    Raises:
        BadFileError: it is no usable trace.
        OSError: it cannot be read.
    """
    raw = path.read_bytes()
    decode(raw, _HEADER, oldest=0)
    document: dict[str, Any] = msgspec.json.decode(raw)
    steps = document.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadFileError(BadReason.NOT_A_TRACE, "Object missing required field `steps`, a list of objects")
    if all("label" in step for step in steps) and "label_summary" in document:
        return document
    labelled: dict[str, Any] = msgspec.json.decode(label_document(raw, path.name).content)
    labelled["review_status"] = document.get("review_status", "")
    return labelled


def set_review_status(path: Path, status: ReviewStatus) -> None:
    """Write what a person says into a labelled file, which keeps its modification time.

    Raises:
        BadFileError: it is no labelled trace.
        OSError: it cannot be read or written.
    """
    raw = path.read_bytes()
    decode(raw, _HEADER, oldest=0)
    document: dict[str, msgspec.Raw] = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    if "label_summary" not in document:
        raise BadFileError(BadReason.NOT_LABELLED, "it has no labels to judge: run sluice trace label first")
    document["review_status"] = msgspec.Raw(msgspec.json.encode(status))
    write_atomically(path, msgspec.json.encode(document) + b"\n", modified_ns=path.stat().st_mtime_ns)


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

    summary = document.get("label_summary") or {}
    counts = "  ".join(
        paint(f"{name} {summary.get(name, 0)}", _COLOURS[name]) for name in (label.value for label in Label)
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


def harmless(value: object) -> str:
    """A text without control characters (shown as escapes), cut to a length that a screen can hold."""
    text = "" if value is None else str(value)
    cut = text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + f"… ({len(text)} characters)"
    return "".join(
        character if character.isprintable() else f"\\x{ord(character):02x}" if character != "\n" else " ⏎ "
        for character in cut
    )


def _step_lines(step: dict[str, Any], screens: Screens, paint: Paint, width: int) -> list[str]:
    label = str(step.get("label", ""))
    mark = paint(f"{_MARKS.get(label, '?')} {label:<8}", _COLOURS.get(label, "0"))
    index = step.get("step_index")
    lines = [f"{index!s:>4}  {mark} {harmless(step.get('label_reason'))}"]
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
