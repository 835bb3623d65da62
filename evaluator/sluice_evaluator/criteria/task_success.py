"""`task_success`: the agent says that it succeeded."""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import criterion


@criterion("task_success", needs_value=False)
def task_success(outcome: Outcome, value: str) -> bool:
    """Hold when the run ended in success."""
    return outcome.success
