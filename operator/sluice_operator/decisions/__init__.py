"""Pure decisions: `decide(object, observed, now) -> Decision`, one module a kind."""

from sluice_operator.decisions.wants import AttemptWant, Wants, wanted

__all__ = ["AttemptWant", "Wants", "wanted"]
