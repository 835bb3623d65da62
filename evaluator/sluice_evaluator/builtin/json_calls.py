"""Function calls as JSON: the right names, the right parameters, the right types, nothing else."""

import json
from typing import Any

from sluice_evaluator.reference import BuiltinTask, make

_TOOLS: dict[str, dict[str, list[Any]]] = {
    "search_listings": {"query": ["red bicycle"], "max_price": [200, 200.0]},
    "send_message": {"recipient": ["seller-17"], "text": ["Is it still available?"]},
    "set_timer": {"seconds": [90], "repeat": [False]},
    "convert_currency": {"amount": [12.5], "source": ["USD"], "target": ["EUR"]},
    "book_room": {"nights": [3], "guests": [2], "breakfast": [True]},
    "move_file": {"source": ["notes/a.txt"], "target": ["archive/a.txt"]},
}
_REQUESTS = {
    "search_listings": "Find a red bicycle for at most 200.",
    "send_message": "Ask seller-17: Is it still available?",
    "set_timer": "Start a timer of a minute and a half that does not repeat.",
    "convert_currency": "How much is 12.5 USD in EUR?",
    "book_room": "Book a room for two for three nights, with breakfast.",
    "move_file": "Move notes/a.txt to archive/a.txt.",
}


def _signature(name: str) -> str:
    return f"{name}({', '.join(_TOOLS[name])})"


def _call(name: str) -> dict[str, Any]:
    return {"name": name, "arguments": {key: values[0] for key, values in _TOOLS[name].items()}}


def tasks() -> tuple[BuiltinTask, ...]:
    """Make the tasks: every tool alone, and pairs in order."""
    tools = "; ".join(_signature(name) for name in _TOOLS)
    head = f'Tools: {tools}. Answer with JSON only: {{"name": …, "arguments": {{…}}}}, or a list of such calls.'
    made = []
    for name, request in _REQUESTS.items():
        operand = {"calls": [{"name": name, "arguments": _TOOLS[name]}]}
        made.append(
            make(f"json/{name}", f"{head}\n{request}", json.dumps(_call(name)), ("json_calls", operand), cluster="json")
        )
    for first, second in (("search_listings", "send_message"), ("book_room", "convert_currency")):
        operand = {"calls": [{"name": name, "arguments": _TOOLS[name]} for name in (first, second)]}
        request = f"{_REQUESTS[first]} Then: {_REQUESTS[second]}"
        gold = json.dumps([_call(first), _call(second)])
        made.append(make(f"json/{first}+{second}", f"{head}\n{request}", gold, ("json_calls", operand), cluster="json"))
    return tuple(made)
