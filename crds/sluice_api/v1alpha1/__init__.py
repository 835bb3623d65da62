"""API group `sluice.dev/v1alpha1`: one module a kind. Changes within the version are additive only."""

from sluice_api.v1alpha1.common import GROUP, VERSION
from sluice_api.v1alpha1.evalrun import EvalRun
from sluice_api.v1alpha1.finetunerun import FineTuneRun
from sluice_api.v1alpha1.promotionscorecard import PromotionScorecard
from sluice_api.v1alpha1.shadowrollout import ShadowRollout
from sluice_api.v1alpha1.tracedataset import TraceDataset

KINDS = (TraceDataset, FineTuneRun, EvalRun, PromotionScorecard, ShadowRollout)
"""The five kinds, in the order in which a lineage passes through them."""

__all__ = [
    "GROUP",
    "KINDS",
    "VERSION",
    "EvalRun",
    "FineTuneRun",
    "PromotionScorecard",
    "ShadowRollout",
    "TraceDataset",
]
