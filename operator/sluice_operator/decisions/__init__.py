"""Pure decisions: `decide(object, observed, now) -> Decision`, one module a kind."""
