"""Handlers of TraceDataset: the job that labels and converts."""

import kopf

from sluice_operator.handlers.common import Waker, watch_children, watch_own
from sluice_operator.resources import JOB, RAY_JOB


def register(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Watch TraceDataset objects and their children."""
    watch_own(registry, "TraceDataset", waker)
    watch_children(registry, "TraceDataset", waker, JOB, RAY_JOB)
