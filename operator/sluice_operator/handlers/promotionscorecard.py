"""Handlers of PromotionScorecard: the job that judges."""

import kopf

from sluice_operator.handlers.common import Waker, watch_children, watch_own
from sluice_operator.resources import JOB, RAY_JOB


def register(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Watch PromotionScorecard objects and their children."""
    watch_own(registry, "PromotionScorecard", waker)
    watch_children(registry, "PromotionScorecard", waker, JOB, RAY_JOB)
