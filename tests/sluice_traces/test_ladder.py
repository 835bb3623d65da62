"""The ladder against a second implementation, written from its description alone."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.convert import LABEL_OF, judge_steps
from sluice_traces.label import label_document
from sluice_traces.ladder import REMEMBERED_LENGTH, judge, judge_fast
from sluice_traces.records import TraceRecord

DECODER = msgspec.json.Decoder(TraceRecord)


def second_ladder(step: dict) -> tuple[str, str]:
    """First match wins: escalation words in lower-cased data; no success; gate prefix; a delta; anything else."""
    data = step.get("data") or ""
    lowered = data.lower()
    for word in ["cloudflare", "page_blocked", "rejected_incomplete", "antibot", "page_exhausted", "scan_error"]:
        if word in lowered:
            return "negative", "escalation"
    if step.get("success") is not True:
        return "negative", "failed_step"
    if data[:9] == "gate:PASS":
        return "positive", "gate_verify_pass"
    if step.get("observed_outcome") not in (None, ""):
        return "positive", "success_with_observed_delta"
    return "neutral", "success_no_delta"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param({"success": True, "data": "CloudFlare wall"}, "escalation", id="escalation beats success"),
        pytest.param({"success": False, "data": "x page_blocked y"}, "escalation", id="escalation beats failure"),
        pytest.param({"success": True, "data": "gate:PASS but ANTIBOT"}, "escalation", id="escalation beats the gate"),
        pytest.param({"success": True, "data": "page_exhausted"}, "escalation", id="exhausted page"),
        pytest.param({"success": True, "data": "scan_error"}, "escalation", id="scan error"),
        pytest.param({"success": True, "data": "rejected_incomplete"}, "escalation", id="incomplete answer"),
        pytest.param({"success": True, "data": "page_bloc\u212aed"}, "escalation", id="Kelvin sign lower-cases to k"),
        pytest.param({"success": False, "data": "gate:PASS"}, "failed_step", id="failure beats the gate"),
        pytest.param({"data": "gate:PASS", "observed_outcome": "x"}, "failed_step", id="missing success is failure"),
        pytest.param({"success": None}, "failed_step", id="null success is failure"),
        pytest.param({"success": True, "data": "gate:PASS ok"}, "gate_verify_pass", id="gate"),
        pytest.param({"success": True, "data": "gate:pass"}, "success_no_delta", id="gate is case-sensitive"),
        pytest.param({"success": True, "data": " gate:PASS"}, "success_no_delta", id="gate is a prefix"),
        pytest.param(
            {"success": True, "data": "ok", "observed_outcome": "moved"}, "success_with_observed_delta", id="delta"
        ),
        pytest.param({"success": True, "observed_outcome": ""}, "success_no_delta", id="empty delta is none"),
        pytest.param(
            {"success": True, "observed_outcome": " "}, "success_with_observed_delta", id="a blank is a delta"
        ),
        pytest.param(
            {"success": True, "last_action": None, "data": ""}, "success_no_delta", id="no action is no escalation"
        ),
    ],
)
def test_each_rule_and_its_rank(step, expected):
    label, reason = judge(step.get("success"), step.get("data"), step.get("observed_outcome"))
    assert (label, reason) == (LABEL_OF[LabelReason(expected)], expected)
    assert second_ladder(step) == (label, reason)


MISSING = object()
SUCCESS = [True, False, None, MISSING]
OUTCOMES = [MISSING, None, "", "moved", " "]
DATA = [
    *[MISSING, None, "", "ok{}", "{}gate:PASS", "gate:PASS{}", "gate:pass{}", "gate:FAIL{}"],
    *["{}cloudflare", "x{}CloudFlare{}", "PAGE_BLOCKED{}", "{}page_bloc\u212aed", "antibot", "Scan_Error{}"],
    *["page_exhausted", "{}rejected_incomplete", "gate:PASS {} antibot", "page_{}blocked", "cloud flare"],
]
EXTRA = [{}, {"label": "positive"}, {"label": None, "label_reason": "x"}, {"reasoning": "cloudflare"}]
COMBINATIONS = [(s, o, d, e) for s in SUCCESS for o in OUTCOMES for d in DATA for e in EXTRA]


def made_step(choice, text) -> dict:
    success, outcome, data, extra = choice
    data = data.replace("{}", text) if isinstance(data, str) else data
    fields = {"success": success, "observed_outcome": outcome, "data": data}
    return {"step_index": 0, **{name: value for name, value in fields.items() if value is not MISSING}, **extra}


steps = st.builds(made_step, st.sampled_from(COMBINATIONS), st.text(max_size=5))


@settings(max_examples=1_000, deadline=None)
@given(st.lists(steps, min_size=10, max_size=10), st.booleans())
def test_ten_thousand_traces_agree_with_the_second_ladder(listed, ascii_only):
    for step in listed:
        raw = json.dumps({"schema_version": 3, "run_id": "r", "steps": [step]}, ensure_ascii=ascii_only).encode()
        expected = second_ladder(step)
        assert judge_steps(DECODER.decode(raw).steps) == [expected]

        labelled = json.loads(label_document(raw, "r.json").content)
        (after,) = labelled["steps"]
        assert after == {**step, "label": expected[0], "label_reason": expected[1]}
        assert labelled["label_summary"] == {label.value: int(label == expected[0]) for label in Label}


@pytest.mark.parametrize("length", [1, REMEMBERED_LENGTH - 9, REMEMBERED_LENGTH + 1, 10_000])
@pytest.mark.parametrize("word", ["", "Antibot"])
def test_short_and_long_answers_of_the_environment_are_judged_alike(length, word):
    data = "x" * length + word
    for success in (True, False):
        for _ in range(2):
            assert judge_fast(success, data, "moved") == judge(success, data, "moved")
