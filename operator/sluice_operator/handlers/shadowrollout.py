"""Handlers of ShadowRollout: the jobs that analyse, and the route that carries the weight."""

import kopf

from sluice_operator.handlers.common import Waker, watch_children, watch_own
from sluice_operator.resources import CONFIG_MAP, HTTP_ROUTE, JOB, RAY_JOB


def register(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Watch ShadowRollout objects and their children."""
    watch_own(registry, "ShadowRollout", waker)
    watch_children(registry, "ShadowRollout", waker, CONFIG_MAP, HTTP_ROUTE, JOB, RAY_JOB)
