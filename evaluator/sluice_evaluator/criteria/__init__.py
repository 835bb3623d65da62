"""Criteria of a task, one a file. A task passes when every criterion holds; an unknown one never does."""

from sluice_api.contracts.evaluation import Criterion, CriterionResult, EvalTask, Outcome
from sluice_evaluator.criteria import (
    clean_format,
    diff_applies,
    json_calls,
    no_secrets,
    output_contains,
    python_cases,
    shell_output,
    status_eq,
    task_success,
    url_contains,
)
from sluice_evaluator.criteria.registry import CRITERIA, check

__all__ = [
    "CRITERIA",
    "OPERAND_CRITERIA",
    "check",
    "clean_format",
    "diff_applies",
    "is_blocking",
    "json_calls",
    "judge",
    "no_secrets",
    "output_contains",
    "python_cases",
    "shell_output",
    "status_eq",
    "task_success",
    "url_contains",
]

OPERAND_CRITERIA = frozenset(name for name, spec in CRITERIA.items() if spec.needs_value)
"""Criteria that compare with a value; without one they would hold for every answer, so the task is malformed."""

_DEFAULT = (Criterion(type="task_success"),)


def judge(task: EvalTask, outcome: Outcome) -> tuple[bool, list[CriterionResult]]:
    """Judge an outcome: every criterion must hold, no criteria mean `task_success`, a returned error never passes."""
    results = [check(criterion, outcome) for criterion in task.criteria or _DEFAULT]
    return all(result.passed for result in results) and not outcome.error, results


def is_blocking(task: EvalTask) -> bool:
    """Tell whether judging a task takes long enough to need a thread."""
    return any(item.type in CRITERIA and CRITERIA[item.type].blocking for item in task.criteria)
