"""The promotion scorecard: nine gates at three tiers, composed from evidence that others measured.

Two judgements stand side by side. `overall_passed` is the seed's: a missing input is skipped and noted. `verdict` is
what the operator acts on: Pass needs every required gate to pass on enough evidence about the very weights judged.
"""

from sluice_evaluator.scorecard.card import TIERS, evaluate, failing_gates, judge_evidence
from sluice_evaluator.scorecard.evidence import Evidence, Measurement
from sluice_evaluator.scorecard.history import HISTORY_FILE, append_history, history_entry
from sluice_evaluator.scorecard.promotion import PromotionDecision, PromotionGate
from sluice_evaluator.scorecard.thresholds import DEFAULT_THRESHOLDS, with_overrides

__all__ = [
    "DEFAULT_THRESHOLDS",
    "HISTORY_FILE",
    "TIERS",
    "Evidence",
    "Measurement",
    "PromotionDecision",
    "PromotionGate",
    "append_history",
    "evaluate",
    "failing_gates",
    "history_entry",
    "judge_evidence",
    "with_overrides",
]
