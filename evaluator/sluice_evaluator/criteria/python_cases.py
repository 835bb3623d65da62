"""`python_cases`: the answer is code whose function returns what it should, run in the sandbox, compared outside.

The operand is JSON: `entry_point`, `cases` of `{"args": "(1, 2)", "expected": "3", "tolerance": 0}` with Python
literals as text, and optionally a `prompt` that the answer continues.
"""

import ast
from typing import Any

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.operands import OperandError, fenced, operand
from sluice_evaluator.criteria.registry import Failed, criterion
from sluice_evaluator.sandbox.client import Case
from sluice_evaluator.sandbox.shared import shared_sandbox


def parse_case(entry: dict[str, Any]) -> Case:
    """Read one case of an operand.

    Raises:
        OperandError: it is not made of literals.
    """
    try:
        arguments = ast.literal_eval(entry["args"])
        expected = ast.literal_eval(entry["expected"])
    except (KeyError, ValueError, SyntaxError, TypeError) as error:
        raise OperandError(f"a case is not made of Python literals: {type(error).__name__}") from error
    return Case(arguments=tuple(arguments), expected=expected, tolerance=float(entry.get("tolerance", 0.0)))


def candidate_code(answer: str, entry_point: str, prompt: str) -> str:
    """Take the code from an answer; one that does not define the function continues the prompt."""
    code = fenced(answer, "python", "py")
    return code if f"def {entry_point}" in code or not prompt else prompt + code


@criterion("python_cases", needs_value=True, blocking=True)
def python_cases(outcome: Outcome, value: str) -> bool:
    """Hold when every case does."""
    task = operand(value, "entry_point", "cases")
    code = candidate_code(outcome.output, task["entry_point"], task.get("prompt", ""))
    found = shared_sandbox().run_python(code, task["entry_point"], [parse_case(entry) for entry in task["cases"]])
    if not found.passed:
        raise Failed(found.reason)
    return True
