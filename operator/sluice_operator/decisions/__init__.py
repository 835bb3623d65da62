"""Pure decisions: `decide(object, observed, now) -> Decision`, one module a kind."""

from collections.abc import Callable

from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, ShadowRollout, TraceDataset
from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.decisions import evalrun, finetunerun, promotionscorecard, shadowrollout, tracedataset
from sluice_operator.decisions.base import Decision, Now, Observed
from sluice_operator.decisions.rivals import rivals_of
from sluice_operator.decisions.wants import AttemptWant, Wants, wanted

_BY_KIND: dict[type[SluiceObject], Callable[..., Decision]] = {
    TraceDataset: tracedataset.decide,
    FineTuneRun: finetunerun.decide,
    EvalRun: evalrun.decide,
    PromotionScorecard: promotionscorecard.decide,
    ShadowRollout: shadowrollout.decide,
}


def decide(obj: SluiceObject, observed: Observed, now: Now) -> Decision:
    """Return what to do about `obj`, what to tell, and when to look again.

    Raises:
        TypeError: `obj` is none of the five kinds.
    """
    for kind, function in _BY_KIND.items():
        if isinstance(obj, kind):
            return function(obj, observed, now)
    raise TypeError(f"{type(obj).__name__} is none of the five kinds")


__all__ = ["AttemptWant", "Wants", "decide", "rivals_of", "wanted"]
