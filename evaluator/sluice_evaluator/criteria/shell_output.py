"""`shell_output`: the answer is a shell command that prints what it should, run in the sandbox.

The operand is JSON: `files`, texts by path, and `stdout`, the expected output; white space at line ends is forgiven.
"""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.operands import fenced, operand
from sluice_evaluator.criteria.registry import Failed, criterion
from sluice_evaluator.sandbox.shared import shared_sandbox


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


@criterion("shell_output", needs_value=True, blocking=True)
def shell_output(outcome: Outcome, value: str) -> bool:
    """Hold when the command ends with status 0 and prints the expected lines."""
    task = operand(value, "files", "stdout")
    command = fenced(outcome.output, "sh", "bash", "shell").strip()
    found = shared_sandbox().run_shell(command, task["files"])
    if not found.passed:
        raise Failed(found.reason)
    if _lines(found.output) != _lines(task["stdout"]):
        raise Failed("prints something else")
    return True
