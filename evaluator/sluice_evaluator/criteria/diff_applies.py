"""`diff_applies` and `diff_applies_fuzzy`: the answer is a unified diff that turns the files into the expected ones.

The operand is JSON: `files` and `expected`, texts by path.
"""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.operands import fenced, operand
from sluice_evaluator.criteria.registry import Failed, criterion
from sluice_evaluator.unified_diff import DiffError, apply, parse


def _check(outcome: Outcome, value: str, *, strict: bool) -> bool:
    task = operand(value, "files", "expected")
    text = fenced(outcome.output, "diff", "patch")
    try:
        result = apply(task["files"], parse(text, strict=strict), strict=strict)
    except DiffError as error:
        raise Failed(str(error)) from error
    if result != task["expected"]:
        raise Failed("applies, but the result is not the expected one")
    return True


@criterion("diff_applies", needs_value=True)
def diff_applies(outcome: Outcome, value: str) -> bool:
    """Hold when it applies exactly as it is written."""
    return _check(outcome, value, strict=True)


@criterion("diff_applies_fuzzy", needs_value=True)
def diff_applies_fuzzy(outcome: Outcome, value: str) -> bool:
    """Hold when its content applies, whatever its line numbers say."""
    return _check(outcome, value, strict=False)
