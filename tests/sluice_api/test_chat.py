"""The one prompt: its exact text, and the halves of an answer."""

from sluice_api.chat import (
    INTENT_LIMIT,
    OUTCOME_LIMIT,
    SYSTEM_PROMPT,
    prompt_turns,
    render_assistant,
    render_outcome,
    render_user,
    split_answer,
    to_messages,
)
from sluice_api.contracts.dataset import Turn


def test_the_human_turn_to_the_letter():
    assert render_user("open the shop", 1280, 720, False) == "Task: open the shop\nScreen size: 1280x720 pixels"
    assert render_user("x", 8, 6, True) == "<image>\nTask: x\nScreen size: 8x6 pixels"


def test_a_long_intent_is_cut():
    text = render_user("a" * 499 + "bcd", 1, 1, False)
    assert text.splitlines()[0] == "Task: " + "a" * 499 + "b"
    assert INTENT_LIMIT == 500


def test_the_outcome_keeps_two_sentences_on_one_line():
    assert render_outcome("One.  Two!\nThree?") == "One. Two!"
    assert render_outcome("No end") == "No end"
    assert render_outcome(None) == ""
    assert render_outcome("Costs 3.50 now. Ok. No.") == "Costs 3.50 now. Ok."
    assert len(render_outcome("a" * 500)) == OUTCOME_LIMIT


def test_an_answer_and_its_halves():
    answer = render_assistant("The page opens. Photos show. More.", "click(1, 2)")
    assert answer == "The page opens. Photos show.\nclick(1, 2)"
    assert split_answer(answer) == ("The page opens. Photos show.", "click(1, 2)")
    assert render_assistant("", "wait(1)") == "wait(1)"
    assert split_answer("wait(1)") == ("", "wait(1)")


def test_turns_become_messages():
    turns = [*prompt_turns("x", 2, 1), Turn.model_validate({"from": "gpt", "value": "wait(1)"})]
    assert to_messages(turns) == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "Task: x\nScreen size: 2x1 pixels"},
        {"role": "assistant", "content": "wait(1)"},
    ]
