"""What can go wrong around an evaluation.

EvaluationError
├── SuiteError              the tasks are malformed; nothing was run
├── InfrastructureError     a task could not be judged: the endpoint, not the model, is at fault
│   └── ThrottledError      the endpoint asked for a slower pace
├── TooManyInfrastructureErrors   the run was given up: what is left would not be evidence
└── IncomparableError       two reports that must not be compared
"""


class EvaluationError(Exception):
    """Root of the errors of this package; the message says what to do."""


class SuiteError(EvaluationError):
    """The tasks are malformed."""

    def __init__(self, source: str, problems: list[str]) -> None:
        """Name the file and every problem in it, the first ten in full."""
        shown = "; ".join(problems[:10])
        rest = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        super().__init__(f"{source}: {shown}{rest}")
        self.source = source
        self.problems = problems


class InfrastructureError(EvaluationError):
    """A task could not be judged."""

    def __init__(self, message: str, *, retryable: bool = True, retry_after_s: float | None = None) -> None:
        """Say what happened, and whether and when another try makes sense."""
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ThrottledError(InfrastructureError):
    """The endpoint asked for a slower pace (429)."""


class TooManyInfrastructureErrors(EvaluationError):
    """More tasks than allowed could not be judged."""


class IncomparableError(EvaluationError):
    """The reports are about different tasks, judges, or have nothing in common."""
