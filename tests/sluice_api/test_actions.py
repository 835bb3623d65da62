"""The action grammar: what is written can be read back, and nothing else is an action."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_api.actions import Action, ActionType, format_action, parse_action

GOLDEN = [
    ("click", {"x": 640, "y": 360}, "click(640, 360)"),
    ("click", {"x": 12.4, "y": 7.6}, "click(12, 8)"),
    ("double_click", {"x": 1, "y": 2}, "double_click(1, 2)"),
    ("type_text", {"text": 'He said "hi"\n\\o/'}, 'type_text("He said \\"hi\\"\\n\\\\o/")'),
    ("type", {"text": "naïve"}, 'type_text("naïve")'),
    ("key_press", {"keys": "Escape"}, 'key_press("Escape")'),
    ("key_press", {"key": "Enter"}, 'key_press("Enter")'),
    ("key_press", {"keys": ["ctrl", "c"]}, 'key_press("ctrl+c")'),
    ("scroll", {}, 'scroll("down", 3)'),
    ("scroll", {"direction": "Up", "amount": 5}, 'scroll("up", 5)'),
    ("wait", {}, "wait(1)"),
    ("wait", {"seconds": 0.5}, "wait(0.5)"),
    ("done", {"summary": "The price is $3"}, 'done("The price is $3")'),
    ("done", {"text": "ok"}, 'done("ok")'),
    ("done", {}, 'done("")'),
]


@pytest.mark.parametrize(("action_type", "params", "text"), GOLDEN)
def test_each_action_has_one_spelling(action_type, params, text):
    assert format_action(action_type, params) == text
    parsed = parse_action(text)
    assert parsed is not None
    assert str(parsed) == text


@pytest.mark.parametrize(
    ("action_type", "params"),
    [
        ("hover", {"x": 1, "y": 1}),
        ("", {}),
        ("click", {}),
        ("click", {"x": 1}),
        ("click", {"x": "1", "y": 2}),
        ("click", {"x": True, "y": 2}),
        ("click", {"x": float("nan"), "y": 2}),
        ("click", {"x": -4, "y": 2}),
        ("type_text", {"text": ""}),
        ("type_text", {"text": None}),
        ("type", {}),
        ("key_press", {"keys": ""}),
        ("key_press", {"keys": []}),
        ("scroll", {"direction": "sideways"}),
        ("scroll", {"amount": 0}),
        ("wait", {"seconds": "soon"}),
    ],
)
def test_what_the_grammar_cannot_say_is_dropped(action_type, params):
    assert format_action(action_type, params) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n ",
        "I will click the button",
        "click(1)",
        "click(1, 2, 3)",
        "click(-1, 2)",
        "click(1.5, 2)",
        "click(true, 2)",
        "click(1, 2) and wait",
        "see click(1, 2)",
        "click(1, 2)\nand then wait.",
        "click(1, 2); click(3, 4)",
        "click(1, 2) click(3, 4)",
        "Click(1, 2)",
        'type_text("")',
        "type_text(hello)",
        "type_text('hello')",
        'type_text("open)',
        'type_text("a" "b")',
        'key_press("a", "b")',
        'scroll("sideways", 2)',
        'scroll("down", 0)',
        'scroll("down", 1, 2)',
        "wait(NaN)",
        "wait(-1)",
        "done(3)",
        "hover(1, 2)",
    ],
)
def test_everything_else_is_no_action(text):
    assert parse_action(text) is None


def test_the_action_is_the_last_line_of_an_answer():
    assert parse_action("The form opens. A field appears.\n  click(10, 20)  \n\n") == Action(
        "click", {"x": 10, "y": 20}
    )


def test_a_parenthesis_inside_text_belongs_to_the_text():
    assert parse_action('type_text("f(x) \\") click(1, 2)")') == Action("type_text", {"text": 'f(x) ") click(1, 2)'})


def test_defaults_of_actions_without_arguments():
    assert parse_action("scroll()") == Action("scroll", {"direction": "down", "amount": 3})
    assert parse_action("wait()") == Action("wait", {"seconds": 1})
    assert parse_action("done()") == Action("done", {"summary": ""})


@given(st.sampled_from([ActionType.TYPE_TEXT, ActionType.KEY_PRESS, ActionType.DONE]), st.text(min_size=1))
def test_any_text_survives_the_round_trip(action_type, text):
    name = {"type_text": "text", "key_press": "keys", "done": "summary"}[action_type]
    line = format_action(action_type, {name: text})
    assert line is not None
    assert "\n" not in line
    assert json.loads(line[line.index("(") + 1 : -1]) == text
    assert parse_action(line) == Action(action_type, {name: text})


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=0, max_value=10_000))
def test_any_point_survives_the_round_trip(x, y):
    assert parse_action(format_action("click", {"x": x, "y": y}) or "") == Action("click", {"x": x, "y": y})


@given(st.text())
def test_no_text_makes_the_parser_fail(text):
    parsed = parse_action(text)
    assert parsed is None or parse_action(str(parsed)) == parsed
