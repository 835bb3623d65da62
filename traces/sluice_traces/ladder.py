"""A fast path over the label ladder of `sluice_api.ladder`, whose `judge` stays the one definition.

Rule 1 searches every step's `data` for six words in any case. Environments answer with few different strings, so the
search is remembered by string; long ones, which repeat rarely, are searched each time.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from sluice_api.contracts.trace import Label, LabelReason
from sluice_api.ladder import GATE_PASS_PREFIX, is_escalation, judge

__all__ = ["LABEL_OF", "judge", "judge_fast", "judge_steps"]

LABEL_OF = {
    LabelReason.ESCALATION: Label.NEGATIVE,
    LabelReason.FAILED_STEP: Label.NEGATIVE,
    LabelReason.GATE_VERIFY_PASS: Label.POSITIVE,
    LabelReason.SUCCESS_WITH_OBSERVED_DELTA: Label.POSITIVE,
    LabelReason.SUCCESS_NO_DELTA: Label.NEUTRAL,
}
"""The label that each rule of the ladder gives."""
REMEMBERED = 8192
"""Strings whose search is remembered."""
REMEMBERED_LENGTH = 200
"""Characters of the longest of them."""

Verdict = tuple[Label, LabelReason]
"""Label and the rule behind it."""

_ESCALATION = (Label.NEGATIVE, LabelReason.ESCALATION)
_FAILED = (Label.NEGATIVE, LabelReason.FAILED_STEP)
_GATE = (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)
_DELTA = (Label.POSITIVE, LabelReason.SUCCESS_WITH_OBSERVED_DELTA)
_NO_DELTA = (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)


class Answer(Enum):
    """What the environment's answer alone says of a step."""

    ESCALATION = auto()
    """The model did not get through by itself."""
    GATE_PASS = auto()
    """A gate passed, if the step succeeded."""
    OPEN = auto()
    """Nothing; success and delta decide."""


REMEMBERED_ANSWERS: dict[str, Answer] = {"": Answer.OPEN}
"""Answers read before; at most `REMEMBERED` of them."""


class _Judged(Protocol):
    success: bool | None
    data: str | None
    observed_outcome: str | None


def read_answer(data: str) -> Answer:
    """What an answer of the environment says; short ones are remembered."""
    answer = Answer.OPEN
    if is_escalation(data):
        answer = Answer.ESCALATION
    elif data.startswith(GATE_PASS_PREFIX):
        answer = Answer.GATE_PASS
    if len(data) <= REMEMBERED_LENGTH:
        if len(REMEMBERED_ANSWERS) >= REMEMBERED:
            REMEMBERED_ANSWERS.clear()
        REMEMBERED_ANSWERS[data] = answer
    return answer


_ESCALATES, _GATE_PASSES = Answer.ESCALATION, Answer.GATE_PASS


def judge_fast(success: bool | None, data: str | None, observed_outcome: str | None) -> Verdict:
    """`judge`, remembering the searches of its first rule."""
    answer = REMEMBERED_ANSWERS.get(data or "") or read_answer(data or "")
    if answer is _ESCALATES:
        return _ESCALATION
    if not success:
        return _FAILED
    if answer is _GATE_PASSES:
        return _GATE
    return _DELTA if observed_outcome else _NO_DELTA


def judge_steps(steps: Iterable[_Judged]) -> list[Verdict]:
    """Judge every step of a run."""
    return [judge_fast(step.success, step.data, step.observed_outcome) for step in steps]
