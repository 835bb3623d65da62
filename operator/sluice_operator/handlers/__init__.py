"""kopf handlers: parse, make one call, end. One module a kind."""

import kopf

from sluice_operator.handlers import evalrun, finetunerun, promotionscorecard, shadowrollout, tracedataset
from sluice_operator.handlers.common import Waker

MODULES = (tracedataset, finetunerun, evalrun, promotionscorecard, shadowrollout)
"""One module a kind, in the order of a lineage."""


def register_all(registry: kopf.OperatorRegistry, waker: Waker) -> None:
    """Register the handlers of all kinds."""
    for module in MODULES:
        module.register(registry, waker)
