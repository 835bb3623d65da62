"""Suites of tasks: the seed's JSON, a list of tasks or `{"tasks": [...]}`, and the digest that versions them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalTask
from sluice_artifacts import canonical_json, digest_bytes
from sluice_evaluator.criteria import OPERAND_CRITERIA
from sluice_evaluator.errors import SuiteError


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks in their order."""

    tasks: tuple[EvalTask, ...]
    """The tasks; ids are unique."""
    digest: str
    """Digest of the tasks, whatever the file's layout."""
    source: str
    """Where they were read."""


def suite_digest(tasks: Sequence[EvalTask]) -> str:
    """Digest tasks: equal for equal tasks in equal order, whatever the layout of the file that they came from.

    Defaults are left out, so that a field that Sluice adds later does not change the digest of an old suite.
    """
    plain = [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]
    return digest_bytes(canonical_json({"tasks": plain}))


def _normalized(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the seed's variants to one shape: a plan stands in for the text, scalar operands are strings."""
    task = dict(entry)
    if not task.get("task_text") and isinstance(task.get("plan_text"), str):
        task["task_text"] = task["plan_text"]
    criteria = task.get("criteria")
    if criteria is None:
        task["criteria"] = []
    elif isinstance(criteria, list):
        task["criteria"] = [
            {**item, "value": str(item["value"])}
            if isinstance(item, dict) and isinstance(item.get("value"), int | float)
            else item
            for item in criteria
        ]
    return task


def _problems_of(task: EvalTask) -> list[str]:
    problems = []
    if not task.task_id.strip():
        problems.append("task_id is empty")
    if not (task.task_text.strip() or getattr(task, "micro_plan", None)):
        problems.append("task_text is empty")
    if not (math.isfinite(task.max_cost) and task.max_cost > 0):
        problems.append(f"max_cost must be a positive number, got {task.max_cost}")
    for name in ("max_steps", "max_tokens"):
        if getattr(task, name) < 1:
            problems.append(f"{name} must be at least 1, got {getattr(task, name)}")
    for index, criterion in enumerate(task.criteria):
        if criterion.type in OPERAND_CRITERIA and not criterion.value:
            problems.append(f"criteria[{index}].value is empty: {criterion.type} would hold for every answer")
    return problems


def _parse_task(entry: object) -> tuple[EvalTask | None, list[str]]:
    if not isinstance(entry, dict):
        return None, [f"expected an object, got {type(entry).__name__}"]
    try:
        task = EvalTask.model_validate(_normalized(entry))
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False)]
    return task, _problems_of(task)


def parse_tasks(entries: object, source: str) -> list[EvalTask]:
    """Parse tasks.

    Args:
        entries: decoded JSON: a list of tasks, or an object with the list under `tasks`.
        source: name for error messages.

    Raises:
        SuiteError: something is malformed; every bad task is named by position and id.
    """
    if isinstance(entries, dict):
        if "tasks" not in entries:
            raise SuiteError(source, ["expected a list of tasks or an object with `tasks`"])
        entries = entries["tasks"]
    if not isinstance(entries, list):
        raise SuiteError(source, [f"expected a list of tasks, got {type(entries).__name__}"])
    if not entries:
        raise SuiteError(source, ["there are no tasks"])
    tasks: list[EvalTask] = []
    problems: list[str] = []
    first_at: dict[str, int] = {}
    for index, entry in enumerate(entries):
        task, found = _parse_task(entry)
        name = f"tasks[{index}]" + (
            f" ({entry['task_id']})" if isinstance(entry, dict) and entry.get("task_id") else ""
        )
        problems.extend(f"{name}: {problem}" for problem in found)
        if task is None:
            continue
        if task.task_id in first_at:
            problems.append(f"{name}: task_id is used by tasks[{first_at[task.task_id]}] already")
        first_at.setdefault(task.task_id, index)
        tasks.append(task)
    if problems:
        raise SuiteError(source, problems)
    return tasks


def parse_suite(data: bytes, source: str) -> Suite:
    """Parse the bytes of a suite file.

    Raises:
        SuiteError: the bytes are not JSON, or a task is malformed.
    """
    try:
        entries = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SuiteError(source, [f"not JSON: {error}"]) from error
    tasks = parse_tasks(entries, source)
    return Suite(tasks=tuple(tasks), digest=suite_digest(tasks), source=source)
