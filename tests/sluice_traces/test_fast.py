"""The fast paths say what the one prompt and the one grammar say."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_api.actions import format_action
from sluice_api.chat import render_outcome, render_user
from sluice_api.contracts.trace import Label
from sluice_traces.convert import NO_SCREENS, ConvertConfig, Converter, Tally
from sluice_traces.fast import action_line, outcome_text, size_line
from sluice_traces.ladder import judge_steps
from sluice_traces.records import ParamsRecord, TraceRecord
from sluice_traces.rows import encode_rows

DECODER = msgspec.json.Decoder(TraceRecord)
sentences = st.lists(st.text("ab .!?\t\n\x1c é\u00a0", max_size=30), max_size=6).map(" ".join)
numbers = st.one_of(
    st.integers(-3, 2000),
    st.floats(allow_nan=True),
    st.booleans(),
    st.none(),
    st.text(max_size=2),
    st.sampled_from(["up", "a b", '"', "\\", "é", "\n"]),
)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.none(), sentences, st.text(max_size=400), st.text("a. ", min_size=150, max_size=260)))
def test_outcomes(text):
    assert outcome_text(text) == render_outcome(text)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["click", "double_click", "type", "type_text", "scroll", "wait", "done", "fly", ""]),
    st.one_of(
        st.none(),
        st.dictionaries(
            st.sampled_from(["x", "y", "text", "keys", "amount", "seconds", "direction", "summary"]),
            numbers,
            max_size=4,
        ),
        st.fixed_dictionaries({"x": numbers, "y": numbers}),
    ),
)
def test_actions(action_type, params):
    assert action_line(action_type, ParamsRecord(**(params or {}))) == format_action(action_type, params)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.just(""), st.text(max_size=20), st.text("ab\n", min_size=490, max_size=510)), st.integers(1, 4000))
def test_prompts(intent, width):
    assert render_user(intent, width, 720, False).endswith(f"\n{size_line(width, 720)}")


outcomes = st.one_of(
    st.none(),
    sentences,
    st.sampled_from(
        ["It opens. It shows.", "It opens", "A. B. C.", "a.b. c", 'say "x".', "tab\there.", "Go! Now.", "Ok? "]
    ),
    st.text(max_size=40),
    st.text("ab.", min_size=190, max_size=210),
)
arguments = st.dictionaries(
    st.sampled_from(["x", "y", "text", "keys", "key", "amount", "seconds", "direction", "summary", "frame"]),
    numbers,
    max_size=4,
)
actions = st.one_of(
    st.none(),
    st.just({"action_type": "click", "params": {"x": 3, "y": 4}}),
    st.fixed_dictionaries(
        {
            "action_type": st.sampled_from(
                [
                    *["click", "type_text", "type", "key_press", "scroll", "done", "wait", "double_click"],
                    "fly",
                    "",
                    None,
                ]
            ),
            "params": st.one_of(st.none(), arguments, st.fixed_dictionaries({"text": numbers, "summary": numbers})),
        }
    ),
)
steps = st.fixed_dictionaries(
    {
        "step_index": st.one_of(st.integers(0, 100), st.integers(-5, 5000)),
        "intent": st.one_of(st.none(), st.text(max_size=20), st.text("ab\n", min_size=490, max_size=510)),
        "success": st.sampled_from([True, True, True, False, None]),
        "data": st.sampled_from(["gate:PASS", "ok", "", None, "Cloudflare"]),
        "last_action": actions,
        "predicted_outcome": outcomes,
        "observed_outcome": st.sampled_from(["", "moved", None]),
    }
)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(steps, max_size=6),
    st.text(max_size=5),
    st.sampled_from([{Label.POSITIVE}, {Label.NEUTRAL}, {Label.POSITIVE, Label.NEUTRAL, Label.NEGATIVE}]),
)
def test_written_rows_are_the_rows_of_the_definition_byte_by_byte(listed, run_id, keep):
    document = {"schema_version": 3, "run_id": run_id, "steps": listed}
    # Infinity and NaN become null, as the exporter writes them.
    trace = DECODER.decode(msgspec.json.encode(document))
    config = ConvertConfig(keep=frozenset(keep), require_screenshot=False)
    # A scrubber that changes nothing keeps the plain way, struct by struct.
    plain, fast = Tally(), Tally()
    expected = Converter(config, scrub=str).rows(run_id, "t", trace.steps, judge_steps(trace.steps), NO_SCREENS, plain)
    found = Converter(config).judged_rows(run_id, "t", trace.steps, NO_SCREENS, fast)
    assert encode_rows(found) == encode_rows(expected)
    assert list(found) == list(expected)
    assert len(found) == len(expected)
    assert fast == plain
