"""Generated candidates, brought to one strict shape before anything is judged.

Three spellings are read: `{"prompt", "response"}`; a list of turns under `messages` (`role`, `content`) or
`conversations` (`from`, `value`); and one ChatML text under `text`. The last assistant turn is the response, what comes
before it the prompt.
"""

import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from sluice_traces.reader import MALFORMED


class CandidateError(ValueError):
    """A row that cannot be brought to the strict shape; the message names the field, never its text."""


class Kind(StrEnum):
    """What the response has to be."""

    PYTHON = "python"
    """Python source."""
    TYPESCRIPT = "typescript"
    """TypeScript source."""
    DIFF = "diff"
    """A unified diff."""
    JSON = "json"
    """A JSON document, e.g. a function call."""
    TEXT = "text"
    """Natural language."""

    @property
    def is_code(self) -> bool:
        """Whether the response is a program."""
        return self in (Kind.PYTHON, Kind.TYPESCRIPT)


class Repair(msgspec.Struct, frozen=True):
    """The failed answer that a candidate corrects."""

    failed_output: str
    """What was answered first."""
    labels: dict[str, bool | None]
    """What the critic said of it."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One generated answer in the strict shape."""

    id: str
    """Identity of the row."""
    prompt: str
    """What was asked."""
    response: str
    """What was answered."""
    system: str = ""
    """System turn, if any."""
    kind: Kind = Kind.TEXT
    """What the response has to be."""
    entry_point: str | None = None
    """Function, class or `Class.method` that the code must define."""
    tests: str | None = None
    """Harness that runs after the code; it must raise on failure."""
    required_keys: tuple[str, ...] = ()
    """Keys that a JSON object must have."""
    repair: Repair | None = None
    """The failed answer that this one corrects."""


_CHATML_START = re.compile(r"\s*<\|im_start\|>(system|user|assistant|tool)\n")
_CHATML_END = "<|im_end|>"
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
_CARRIED = ("kind", "entry_point", "tests", "required_keys", "repair")


def scrubbed(candidate: Candidate, scrub: Callable[[str], str]) -> Candidate:
    """A candidate without private text in anything that its row would say.

    Args:
        candidate: the candidate.
        scrub: removes private text; may raise to keep the candidate back.
    """
    repair = candidate.repair
    if repair is not None:
        labels = {scrub(name): value for name, value in repair.labels.items()}
        repair = Repair(failed_output=scrub(repair.failed_output), labels=labels)
    return msgspec.structs.replace(
        candidate,
        id=scrub(candidate.id),
        system=scrub(candidate.system),
        prompt=scrub(candidate.prompt),
        response=scrub(candidate.response),
        repair=repair,
    )


def normalise(raw: bytes, number: int) -> Candidate:
    """A candidate from one line of JSON.

    Args:
        raw: the line.
        number: its number in the file, from 1; the identity of rows that have none.

    Raises:
        CandidateError: the line is no candidate.
    """
    try:
        row = msgspec.json.decode(raw)
    except MALFORMED:
        raise CandidateError("not JSON") from None
    if not isinstance(row, dict):
        raise CandidateError("not a JSON object")
    system, prompt, response = _turns(row)
    fields: dict[str, Any] = {name: row[name] for name in _CARRIED if row.get(name) is not None}
    fields |= {"id": str(row.get("id") or f"row-{number}"), "system": system, "prompt": prompt, "response": response}
    try:
        return msgspec.convert(fields, Candidate)
    except msgspec.ValidationError as error:
        raise CandidateError(str(error)) from None


def _turns(row: dict[str, Any]) -> tuple[str, str, str]:
    """System, prompt and response."""
    if "prompt" in row or "response" in row:
        turns = [("user", row.get("prompt")), ("assistant", row.get("response"))]
    elif isinstance(row.get("messages"), list):
        turns = [_turn(turn, "role", "content") for turn in row["messages"]]
    elif isinstance(row.get("conversations"), list):
        turns = [_turn(turn, "from", "value") for turn in row["conversations"]]
    elif isinstance(row.get("text"), str):
        turns = list(_chatml(row["text"].rstrip()))
    else:
        raise CandidateError("has neither prompt and response, nor messages, conversations or text")
    return _split(turns)


def _chatml(text: str) -> Iterator[tuple[str, str]]:
    """Role and text of every turn, in one pass: a text may be made of markers."""
    position = 0
    while position < len(text):
        start = _CHATML_START.match(text, position)
        end = -1 if start is None else text.find(_CHATML_END, start.end())
        if start is None or end < 0:
            raise CandidateError("text is not ChatML from end to end")
        yield start[1], text[start.end() : end]
        position = end + len(_CHATML_END)


def _turn(turn: object, role: str, value: str) -> tuple[str, object]:
    if not isinstance(turn, dict):
        raise CandidateError("a turn is not an object")
    name = str(turn.get(role))
    return _ROLES.get(name, name), turn.get(value)


def _split(turns: list[tuple[str, Any]]) -> tuple[str, str, str]:
    for role, value in turns:
        if role not in ("system", "user", "assistant", "tool"):
            raise CandidateError("a turn has an unknown role")
        if not isinstance(value, str):
            raise CandidateError(f"the {role} turn is not text")
    if not turns or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise CandidateError("does not end with an answer")
    system = turns[0][1].strip() if turns[0][0] == "system" else ""
    before = [(role, value) for role, value in turns[:-1] if role != "system"]
    if not before or not any(value.strip() for _, value in before):
        raise CandidateError("asks nothing")
    if len(before) == 1:
        return system, before[0][1].strip(), turns[-1][1].strip()
    return system, "\n\n".join(f"{role}: {value.strip()}" for role, value in before), turns[-1][1].strip()
