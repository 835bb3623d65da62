"""A fast path over the label ladder of `sluice_api.ladder`, whose `judge` stays the one definition.

Rule 1 searches every step's `data` for six words in any case. Environments answer with few different strings, so the
search is remembered by string; long ones, which repeat rarely, are searched each time.
"""

from functools import lru_cache

from sluice_api.contracts.trace import Label, LabelReason
from sluice_api.ladder import GATE_PASS_PREFIX, is_escalation, judge

__all__ = ["judge", "judge_fast"]

REMEMBERED = 8192
"""Strings whose search is remembered."""
REMEMBERED_LENGTH = 200
"""Characters of the longest of them."""

_escalates = lru_cache(maxsize=REMEMBERED)(is_escalation)

_ESCALATION = (Label.NEGATIVE, LabelReason.ESCALATION)
_FAILED = (Label.NEGATIVE, LabelReason.FAILED_STEP)
_GATE = (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)
_DELTA = (Label.POSITIVE, LabelReason.SUCCESS_WITH_OBSERVED_DELTA)
_NO_DELTA = (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)


def judge_fast(success: bool | None, data: str | None, observed_outcome: str | None) -> tuple[Label, LabelReason]:
    """`judge`, remembering the searches of its first rule."""
    if data:
        if _escalates(data) if len(data) <= REMEMBERED_LENGTH else is_escalation(data):
            return _ESCALATION
        if not success:
            return _FAILED
        if data.startswith(GATE_PASS_PREFIX):
            return _GATE
    elif not success:
        return _FAILED
    return _DELTA if observed_outcome else _NO_DELTA
