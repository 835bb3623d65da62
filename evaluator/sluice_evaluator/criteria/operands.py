"""Structured operands: a criterion's `value` as JSON, and answers as code or JSON within prose."""

import json
import re
from typing import Any

_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)```", re.DOTALL)


class OperandError(ValueError):
    """The operand of a criterion is malformed: the task's fault, not the model's."""


def operand(value: str, *required: str) -> dict[str, Any]:
    """Parse a structured operand.

    Raises:
        OperandError: it is not a JSON object, or lacks a key.
    """
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise OperandError(f"the operand is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise OperandError("the operand is not a JSON object")
    missing = [key for key in required if key not in parsed]
    if missing:
        raise OperandError(f"the operand lacks {', '.join(missing)}")
    return parsed


def fenced(text: str, *languages: str) -> str:
    """Give the last fenced block in one of the languages, else the last block, else the whole text."""
    blocks = _FENCE.findall(text)
    wanted = [body for language, body in blocks if language.lower() in languages]
    if wanted:
        return str(wanted[-1])
    return str(blocks[-1][1]) if blocks else text


def json_value(text: str) -> Any:
    """Find the JSON value in an answer: the whole text, a fenced block, or the first brace to the last.

    Raises:
        ValueError: there is none.
    """
    candidates = [text.strip(), fenced(text, "json").strip()]
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            candidates.append(text[start : end + 1])
    for candidate in candidates:
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    raise ValueError("no JSON value in the answer")
