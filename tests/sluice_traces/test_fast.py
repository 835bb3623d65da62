"""The fast paths say what the one prompt and the one grammar say."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_api.actions import format_action
from sluice_api.chat import render_outcome, render_user
from sluice_traces.fast import action_line, human_text, outcome_text, size_line

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
    assert action_line(action_type, params) == format_action(action_type, params)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.just(""), st.text(max_size=20), st.text("ab\n", min_size=490, max_size=510)), st.integers(1, 4000))
def test_prompts(intent, width):
    assert human_text(intent, size_line(width, 720)) == render_user(intent, width, 720, False)
