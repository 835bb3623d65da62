"""`url_contains`: the run ended on the right page."""

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import criterion


@criterion("url_contains", needs_value=True)
def url_contains(outcome: Outcome, value: str) -> bool:
    """Hold when the final URL contains the value, case-sensitive."""
    return value in outcome.url
