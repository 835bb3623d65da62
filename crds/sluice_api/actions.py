"""The action grammar: one call a line, as the agent answers it, the converter teaches it and the environment reads it.

```
click(x, y)            double_click(x, y)      pixels from the top left, integers
type_text("…")         key_press("…")          text in JSON string syntax, never empty
scroll("down", 3)                              up, down, left or right; notches, at least 1
wait(1)                                        seconds
done("…")                                      the answer; may be empty
```

Strings are JSON strings, so quotes, backslashes and line breaks are escaped and an action always fits on one line.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DEFAULT_SCROLL_AMOUNT = 3
"""Notches of a scroll that names none."""
DEFAULT_WAIT_SECONDS = 1
"""Seconds of a wait that names none."""
SCROLL_DIRECTIONS = ("up", "down", "left", "right")
"""Directions of a scroll."""


class ActionType(StrEnum):
    """Actions of the grammar; `type` is read as an alias of `type_text`."""

    CLICK = "click"
    DOUBLE_CLICK = "double_click"
    TYPE_TEXT = "type_text"
    KEY_PRESS = "key_press"
    SCROLL = "scroll"
    WAIT = "wait"
    DONE = "done"


_ALIASES = {"type": ActionType.TYPE_TEXT}


@dataclass(frozen=True)
class Action:
    """One parsed action, with arguments under the names that traces use."""

    action_type: str
    """One of `ActionType`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """`x`, `y`; `text`; `keys`; `direction`, `amount`; `seconds`; `summary`."""

    def __str__(self) -> str:
        return format_action(self.action_type, self.params) or f"{self.action_type}(?)"


def format_action(action_type: str, params: Mapping[str, Any] | None = None) -> str | None:
    """The action as one line of text, or None where the grammar has no words for it.

    None for an unknown type, for missing or non-numeric coordinates, and for empty text or keys: such a step teaches
    nothing and its row is dropped.
    """
    name = _ALIASES.get(action_type, action_type)
    formatter = _FORMATTERS.get(name)
    return None if formatter is None else formatter(str(name), params or {})


def parse_action(text: str) -> Action | None:
    """The action on the last non-empty line of an answer, or None where that line is not exactly one action.

    Lines before it are the predicted outcome and are ignored. The line must match the grammar from its first to its
    last character: whoever follows the result must never act on a guess.
    """
    # Only "\n" ends a line here: JSON leaves other separators (U+2028, U+0085, …) as they are inside strings.
    match = _CALL.fullmatch(text.strip().rpartition("\n")[2].strip())
    if match is None:
        return None
    name = _ALIASES.get(match["name"], match["name"])
    arguments = _arguments(match["arguments"])
    reader = _READERS.get(name)
    if reader is None or arguments is None:
        return None
    params = reader(arguments)
    return None if params is None else Action(str(name), params)


_CALL = re.compile(r"(?P<name>[a-z_]+)\((?P<arguments>.*)\)")


def _arguments(text: str) -> list[Any] | None:
    """Arguments as JSON values; None where they are not JSON. NaN and infinity are no numbers of this grammar."""
    try:
        values = json.loads(f"[{text}]", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of the action grammar")


def _whole(value: object) -> int | None:
    """A non-negative integer, rounded where needed; None for anything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return round(value)


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _format_point(name: str, params: Mapping[str, Any]) -> str | None:
    x, y = _whole(params.get("x")), _whole(params.get("y"))
    return None if x is None or y is None else f"{name}({x}, {y})"


def _format_text(name: str, params: Mapping[str, Any]) -> str | None:
    text = params.get("text")
    return f"{name}({_quoted(text)})" if isinstance(text, str) and text else None


def _format_keys(name: str, params: Mapping[str, Any]) -> str | None:
    keys = params.get("keys", params.get("key"))
    if isinstance(keys, list | tuple):
        keys = "+".join(str(key) for key in keys)
    return f"{name}({_quoted(keys)})" if isinstance(keys, str) and keys else None


def _format_scroll(name: str, params: Mapping[str, Any]) -> str | None:
    direction = str(params.get("direction") or "down").lower()
    amount = _whole(params.get("amount", DEFAULT_SCROLL_AMOUNT))
    return f"{name}({_quoted(direction)}, {amount})" if direction in SCROLL_DIRECTIONS and amount else None


def _format_wait(name: str, params: Mapping[str, Any]) -> str | None:
    seconds = params.get("seconds", DEFAULT_WAIT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        return None
    return f"{name}({seconds:g})"


def _format_done(name: str, params: Mapping[str, Any]) -> str | None:
    summary = params.get("summary", params.get("text"))
    return f"{name}({_quoted('' if summary is None else summary)})"


_FORMATTERS: dict[str, Callable[[str, Mapping[str, Any]], str | None]] = {
    ActionType.CLICK: _format_point,
    ActionType.DOUBLE_CLICK: _format_point,
    ActionType.TYPE_TEXT: _format_text,
    ActionType.KEY_PRESS: _format_keys,
    ActionType.SCROLL: _format_scroll,
    ActionType.WAIT: _format_wait,
    ActionType.DONE: _format_done,
}


def _read_point(values: list[Any]) -> dict[str, Any] | None:
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
        return None
    return {"x": values[0], "y": values[1]}


def _read_string(values: list[Any]) -> str | None:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else None


def _read_text(values: list[Any]) -> dict[str, Any] | None:
    text = _read_string(values)
    return {"text": text} if text else None


def _read_keys(values: list[Any]) -> dict[str, Any] | None:
    keys = _read_string(values)
    return {"keys": keys} if keys else None


def _read_scroll(values: list[Any]) -> dict[str, Any] | None:
    if len(values) > 2:
        return None
    direction = values[0] if values else "down"
    amount = values[1] if len(values) == 2 else DEFAULT_SCROLL_AMOUNT
    if direction not in SCROLL_DIRECTIONS:
        return None
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
        return None
    return {"direction": direction, "amount": amount}


def _read_wait(values: list[Any]) -> dict[str, Any] | None:
    seconds = values[0] if values else DEFAULT_WAIT_SECONDS
    if len(values) > 1 or isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        return None
    return {"seconds": seconds}


def _read_done(values: list[Any]) -> dict[str, Any] | None:
    if not values:
        return {"summary": ""}
    summary = _read_string(values)
    return None if summary is None else {"summary": summary}


_READERS: dict[str, Callable[[list[Any]], dict[str, Any] | None]] = {
    ActionType.CLICK: _read_point,
    ActionType.DOUBLE_CLICK: _read_point,
    ActionType.TYPE_TEXT: _read_text,
    ActionType.KEY_PRESS: _read_keys,
    ActionType.SCROLL: _read_scroll,
    ActionType.WAIT: _read_wait,
    ActionType.DONE: _read_done,
}
