"""Handlers of FineTuneRun: the job that trains."""

import kopf

from sluice_operator.handlers.common import Waker, watch_children, watch_own
from sluice_operator.resources import JOB, RAY_JOB


def register(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Watch FineTuneRun objects and their children."""
    watch_own(registry, "FineTuneRun", waker)
    watch_children(registry, "FineTuneRun", waker, JOB, RAY_JOB)
