"""`status_eq`: the run's end state is the given one."""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import criterion


@criterion("status_eq", needs_value=True)
def status_eq(outcome: Outcome, value: str) -> bool:
    """Hold when the status equals the value, case-sensitive."""
    return outcome.status == value
