"""`output_contains`: the answer has the right words."""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import criterion


@criterion("output_contains", needs_value=True)
def output_contains(outcome: Outcome, value: str) -> bool:
    """Hold when the output contains the value, case-sensitive."""
    return value in outcome.output
