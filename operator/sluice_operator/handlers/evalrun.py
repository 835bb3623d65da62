"""Handlers of EvalRun: the job that evaluates."""

import kopf

from sluice_operator.handlers.common import Waker, watch_children, watch_own
from sluice_operator.resources import JOB, RAY_JOB


def register(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Watch EvalRun objects and their children."""
    watch_own(registry, "EvalRun", waker)
    watch_children(registry, "EvalRun", waker, JOB, RAY_JOB)
