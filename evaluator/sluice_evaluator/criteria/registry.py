"""The registry of criteria."""

from collections.abc import Callable
from dataclasses import dataclass

from sluice_api.contracts.evaluation import Criterion, CriterionResult, Outcome
from sluice_evaluator.criteria.operands import OperandError

Predicate = Callable[[Outcome, str], bool]
"""Whether a criterion holds for an outcome, given its operand (empty where it takes none)."""


class Failed(Exception):
    """A criterion does not hold; the message says why."""


@dataclass(frozen=True, kw_only=True)
class CriterionSpec:
    """A registered criterion."""

    holds: Predicate
    """The rule."""
    needs_value: bool
    """Whether it compares with an operand."""
    blocking: bool
    """Whether it takes long enough to need a thread."""
    version: int
    """Raised when the rule changes: reports judged by different rules are not comparable."""


CRITERIA: dict[str, CriterionSpec] = {}
"""All criteria by type."""


def criterion(
    name: str, *, needs_value: bool, blocking: bool = False, version: int = 1
) -> Callable[[Predicate], Predicate]:
    """Register a criterion under a type name.

    Raises:
        ValueError: the name is taken.
    """
    if name in CRITERIA:
        raise ValueError(f"criterion {name!r} is registered already")

    def register(predicate: Predicate) -> Predicate:
        CRITERIA[name] = CriterionSpec(holds=predicate, needs_value=needs_value, blocking=blocking, version=version)
        return predicate

    return register


def check(item: Criterion, outcome: Outcome) -> CriterionResult:
    """Check one criterion; an unknown type, or a missing operand, does not hold and says so."""
    spec = CRITERIA.get(item.type)
    if spec is None:
        passed, detail = False, f"unknown criterion {item.type!r}"
    elif spec.needs_value and not item.value:
        passed, detail = False, "no value to compare with"
    else:
        try:
            passed = spec.holds(outcome, item.value or "")
            detail = "" if passed else f"{item.type} does not hold"
        except Failed as failure:
            passed, detail = False, str(failure)
        except OperandError as error:
            passed, detail = False, f"malformed task: {error}"
    return CriterionResult(type=item.type, value=item.value, passed=passed, detail=detail)
