"""Fast paths over `sluice_api.chat` and `sluice_api.actions` for the texts that most steps have.

Those modules stay the one definition of prompt and grammar: whatever is not plainly simple is handed to them, and the
tests compare both on generated texts.
"""

from sluice_api.actions import SCROLL_DIRECTIONS, format_action
from sluice_api.chat import OUTCOME_LIMIT, OUTCOME_SENTENCES, render_outcome, render_user
from sluice_traces.records import ParamsRecord


def outcome_text(predicted_outcome: str | None) -> str:
    """`render_outcome`: the text itself where it is one or two sentences of printable ASCII with single blanks."""
    text = predicted_outcome
    if not text:
        return ""
    if (
        len(text) <= OUTCOME_LIMIT
        and text.isascii()
        and text.isprintable()
        and "  " not in text
        and text[0] != " "
        and text[-1] != " "
        and text.count(". ") + text.count("! ") + text.count("? ") < OUTCOME_SENTENCES
    ):
        return text
    return render_outcome(text)


def size_line(width: int, height: int) -> str:
    """The last line of every human turn."""
    return render_user("", width, height, False).rpartition("\n")[2]


def action_line(action_type: str, params: ParamsRecord) -> str | None:
    """`format_action`: clicks at whole pixels and plain texts need none of the grammar's care."""
    if action_type == "click":
        x, y = params.x, params.y
        if type(x) is int and type(y) is int and x >= 0 and y >= 0:
            return f"click({x}, {y})"
    elif action_type == "type_text":
        text = params.text
        if type(text) is str and text and _needs_no_escape(text):
            return f'type_text("{text}")'
    elif action_type == "done":
        summary = params.summary
        if type(summary) is str and _needs_no_escape(summary):
            return f'done("{summary}")'
    elif action_type == "scroll":
        direction, amount = params.direction, params.amount
        if direction in SCROLL_DIRECTIONS and type(amount) is int and amount > 0:
            return f'scroll("{direction}", {amount})'
    return format_action(action_type, params.given())


def _needs_no_escape(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
