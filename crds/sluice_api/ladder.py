"""The label ladder: what one step of a trace was worth. Pure; the first rule that matches decides.

1. negative, `escalation`: the environment's answer contains an escalation keyword, in any case.
2. negative, `failed_step`: the step failed, or does not say that it succeeded.
3. positive, `gate_verify_pass`: the environment's answer starts with `gate:PASS`, case-sensitive.
4. positive, `success_with_observed_delta`: something was seen to change.
5. neutral, `success_no_delta`: everything else.

An escalation outranks `success`: a run that another model had to finish is not the model's success.
"""

import re

from sluice_api.contracts.trace import Label, LabelReason

ESCALATION_KEYWORDS = (
    "cloudflare",
    "page_blocked",
    "rejected_incomplete",
    "antibot",
    "page_exhausted",
    "scan_error",
)
"""Words in a step's `data` that mean that the model did not get through by itself."""

GATE_PASS_PREFIX = "gate:PASS"
"""Prefix of a step's `data` when a verification gate passed; case-sensitive."""

_find_escalation = re.compile("|".join(map(re.escape, ESCALATION_KEYWORDS))).search

_ESCALATION = (Label.NEGATIVE, LabelReason.ESCALATION)
_FAILED = (Label.NEGATIVE, LabelReason.FAILED_STEP)
_GATE = (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)
_DELTA = (Label.POSITIVE, LabelReason.SUCCESS_WITH_OBSERVED_DELTA)
_NO_DELTA = (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)


def is_escalation(data: str | None) -> bool:
    """Tell whether a step's `data` contains an escalation keyword, in any case."""
    return data is not None and _find_escalation(data.lower()) is not None


def judge(success: bool | None, data: str | None, observed_outcome: str | None) -> tuple[Label, LabelReason]:
    """Judge one step.

    Args:
        success: what the step says of itself; None (missing) counts as failed.
        data: what the environment answered; None is the empty string.
        observed_outcome: what was seen to change; None is the empty string.

    Returns:
        The label and the rule of the ladder that fired.
    """
    if data and _find_escalation(data.lower()) is not None:
        return _ESCALATION
    if not success:
        return _FAILED
    if data and data.startswith(GATE_PASS_PREFIX):
        return _GATE
    if observed_outcome:
        return _DELTA
    return _NO_DELTA
