"""What a built-in suite is made of."""

import json
from dataclasses import dataclass
from typing import Any

from sluice_api.contracts.evaluation import Criterion, EvalTask


@dataclass(frozen=True, kw_only=True)
class BuiltinTask:
    """A task and an answer that passes it."""

    task: EvalTask
    """The task."""
    gold: str
    """The reference answer."""


@dataclass(frozen=True, kw_only=True)
class BuiltinSuite:
    """A named suite."""

    name: str
    """Name, as in `builtin:<name>`."""
    purpose: str
    """What its score means, and what it does not."""
    tasks: tuple[BuiltinTask, ...]
    """The tasks."""


def make(
    task_id: str, text: str, gold: str, *criteria: str | tuple[str, dict[str, Any]], cluster: str = ""
) -> BuiltinTask:
    """Make a task; a criterion is a type, or a type with its structured operand."""
    made = [
        Criterion(type=item) if isinstance(item, str) else Criterion(type=item[0], value=json.dumps(item[1]))
        for item in criteria
    ]
    return BuiltinTask(task=EvalTask(task_id=task_id, task_text=text, criteria=made, cluster=cluster), gold=gold)
