"""A fast path over the label ladder of `sluice_api.ladder`, whose `judge` stays the one definition.

Rule 1 searches every step's `data` for six words. Most traces contain none of them anywhere, which one scan over the
file's bytes shows; the search is then skipped for all its steps. The scan is only trusted where bytes and text agree:
a file that is not pure ASCII (U+212A lower-cases to `k`) or that contains `\\u` escapes takes the slow path.
"""

from sluice_api.contracts.trace import Label, LabelReason
from sluice_api.ladder import ESCALATION_KEYWORDS, GATE_PASS_PREFIX, judge

__all__ = ["judge", "judge_calm", "may_escalate"]

_WORDS = tuple(word.encode() for word in ESCALATION_KEYWORDS)
_FAILED = (Label.NEGATIVE, LabelReason.FAILED_STEP)
_GATE = (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)
_DELTA = (Label.POSITIVE, LabelReason.SUCCESS_WITH_OBSERVED_DELTA)
_NO_DELTA = (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)


def may_escalate(raw: bytes) -> bool:
    """Whether any step of this JSON document could contain an escalation keyword. False is certain."""
    if not raw.isascii() or b"\\u" in raw:
        return True
    lowered = raw.lower()
    return any(word in lowered for word in _WORDS)


def judge_calm(success: bool | None, data: str | None, observed_outcome: str | None) -> tuple[Label, LabelReason]:
    """`judge` without its first rule, for steps of a document that `may_escalate` has cleared."""
    if not success:
        return _FAILED
    if data and data.startswith(GATE_PASS_PREFIX):
        return _GATE
    return _DELTA if observed_outcome else _NO_DELTA
