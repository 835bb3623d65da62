"""The ladder, rule by rule, and that its order decides."""

import pytest

from sluice_api.contracts.trace import Label, LabelReason
from sluice_api.ladder import ESCALATION_KEYWORDS, is_escalation, judge


@pytest.mark.parametrize("keyword", ESCALATION_KEYWORDS)
@pytest.mark.parametrize("success", [True, False, None])
def test_every_keyword_is_an_escalation_whatever_the_step_says(keyword: str, success: bool | None) -> None:
    expected = (Label.NEGATIVE, LabelReason.ESCALATION)
    assert judge(success, f"gate:PASS but {keyword.upper()}:42", "the page changed") == expected
    assert is_escalation(keyword.title())


@pytest.mark.parametrize("success", [False, None])
def test_a_step_that_does_not_say_that_it_succeeded_failed(success: bool | None) -> None:
    assert judge(success, "gate:PASS", "the page changed") == (Label.NEGATIVE, LabelReason.FAILED_STEP)


def test_a_passed_gate_is_matched_at_the_start_and_in_its_case() -> None:
    assert judge(True, "gate:PASS cart", "") == (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)
    assert judge(True, "gate:pass cart", "") == (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)
    assert judge(True, " gate:PASS", "") == (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)
    assert judge(True, "gate:PASS", "delta") == (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS)


def test_an_observed_change_is_positive_and_none_is_neutral() -> None:
    assert judge(True, None, "the cart has 1 item") == (
        Label.POSITIVE,
        LabelReason.SUCCESS_WITH_OBSERVED_DELTA,
    )
    assert judge(True, "ok", None) == (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)
    assert judge(True, None, "") == (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)
    assert not is_escalation(None)
    assert not is_escalation("")
