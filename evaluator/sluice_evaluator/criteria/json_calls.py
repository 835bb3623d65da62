"""`json_calls`: the answer is the function calls that were asked for, checked by structure, with typed errors.

The operand is JSON: `calls`, a list of `{"name", "arguments": {parameter: [allowed values]}, "optional": [names]}`. The
answer is one `{"name", "arguments"}` object or a list of them, in order. Error types after the Berkeley function
calling leaderboard's: `unparsable`, `wrong_count`, `wrong_func_name`, `missing_required`, `unexpected_param`,
`type_error`, `value_error`. No call at all is unparsable, never a correct abstention.
"""

from typing import Any

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.operands import OperandError, json_value, operand
from sluice_evaluator.criteria.registry import Failed, criterion


def _same_kind(found: Any, allowed: Any) -> bool:
    if isinstance(found, bool) or isinstance(allowed, bool):
        return isinstance(found, bool) and isinstance(allowed, bool)
    if isinstance(allowed, float):
        return isinstance(found, int | float)
    return type(found) is type(allowed)


def _check_call(position: int, found: Any, wanted: dict[str, Any]) -> None:
    where = f"call {position}"
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise Failed(f"unparsable: {where} has no name")
    if found["name"] != wanted["name"]:
        raise Failed(f"wrong_func_name: {where} is {found['name'][:80]!r}, asked for {wanted['name']!r}")
    arguments = found.get("arguments", {})
    if not isinstance(arguments, dict):
        raise Failed(f"type_error: {where} has arguments that are not an object")
    parameters, optional = wanted["arguments"], set(wanted.get("optional", []))
    missing = [name for name in parameters if name not in arguments and name not in optional]
    if missing:
        raise Failed(f"missing_required: {where} lacks {', '.join(missing)}")
    unexpected = [name for name in arguments if name not in parameters]
    if unexpected:
        raise Failed(f"unexpected_param: {where} has {', '.join(unexpected)[:80]}")
    for name, value in arguments.items():
        allowed = parameters[name]
        if not any(_same_kind(value, choice) for choice in allowed):
            raise Failed(f"type_error: {where}, {name} is a {type(value).__name__}")
        if not any(_same_kind(value, choice) and value == choice for choice in allowed):
            raise Failed(f"value_error: {where}, {name} has a value that is not allowed")


@criterion("json_calls", needs_value=True)
def json_calls(outcome: Outcome, value: str) -> bool:
    """Hold when the calls are those asked for."""
    wanted = operand(value, "calls")["calls"]
    if not isinstance(wanted, list) or not all(isinstance(call, dict) and "arguments" in call for call in wanted):
        raise OperandError("the operand's `calls` is not a list of calls")
    try:
        found = json_value(outcome.output)
    except ValueError as error:
        raise Failed("unparsable: no JSON value in the answer") from error
    calls = found if isinstance(found, list) else [found]
    if len(calls) != len(wanted):
        raise Failed(f"wrong_count: {len(calls)} calls, asked for {len(wanted)}")
    for position, (call, want) in enumerate(zip(calls, wanted, strict=True)):
        _check_call(position, call, want)
    return True
