"""The one prompt: what the agent asks, what the converter writes into rows, and what the trainer renders.

The agent that produced a trace and the model trained on it must see the same text to the letter, so every part of the
chain calls these functions and none formats a prompt of its own. Rows on disk speak of `system`, `human` and `gpt`;
chat templates of `system`, `user` and `assistant`.
"""

import re
from collections.abc import Iterable
from datetime import date
from functools import lru_cache

from sluice_api.contracts.dataset import Turn

SYSTEM_PROMPT = "You operate a screen. Say what you expect, then answer with one action."
"""System turn of every prompt and of every row."""
IMAGE_PLACEHOLDER = "<image>"
"""First line of the human turn when a screenshot goes with it."""
INTENT_LIMIT = 500
"""Characters of the intent that reach the prompt."""
OUTCOME_SENTENCES = 2
"""Sentences of the predicted outcome that an answer keeps."""
OUTCOME_LIMIT = 200
"""Characters of the predicted outcome that an answer keeps."""

TEMPLATE_DATE = date(2024, 7, 26)
"""Today, for a chat template that asks (`strftime_now`).

Always the same day, so that neither the attempts of a run nor training and serving differ by when they happen. It is
the day that Llama 3.1's own template falls back to.
"""
_DIRECTIVES = [*(f"%-{each}" for each in "dmyHIMSj"), *(f"%{each}" for each in "aAwdebBmyYHIpMSfzZjUWcxXGuVDFTR")]
_PERCENT = "\x1a"

_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def render_user(intent: str, width: int, height: int, image: bool) -> str:
    """The human turn: the intent (cut to `INTENT_LIMIT` characters) and the size of the screen in pixels."""
    lines = [f"Task: {intent[:INTENT_LIMIT]}", f"Screen size: {width}x{height} pixels"]
    return "\n".join([IMAGE_PLACEHOLDER, *lines] if image else lines)


def render_outcome(predicted_outcome: str | None) -> str:
    """The first two sentences of a predicted outcome, on one line, at most `OUTCOME_LIMIT` characters."""
    text = " ".join((predicted_outcome or "").split())
    return " ".join(_SENTENCE_END.split(text)[:OUTCOME_SENTENCES])[:OUTCOME_LIMIT].rstrip()


def render_assistant(predicted_outcome: str | None, action: str) -> str:
    """The assistant turn: the predicted outcome, if any, and the action on a line of its own.

    Args:
        predicted_outcome: what the model expected to happen; may be None or empty.
        action: one action, as `sluice_api.actions.format_action` writes it.
    """
    outcome = render_outcome(predicted_outcome)
    return f"{outcome}\n{action}" if outcome else action


def split_answer(text: str) -> tuple[str, str]:
    """The predicted outcome and the action line of an answer: the inverse of `render_assistant`."""
    outcome, _, action = text.strip().rpartition("\n")
    return " ".join(outcome.split()), action.strip()


def prompt_turns(intent: str, width: int, height: int, *, image: bool = False) -> list[Turn]:
    """System and human turn of a prompt: what the agent sends and what every row starts with."""
    return [
        Turn.model_validate({"from": "system", "value": SYSTEM_PROMPT}),
        Turn.model_validate({"from": "human", "value": render_user(intent, width, height, image)}),
    ]


def to_messages(turns: Iterable[Turn]) -> list[dict[str, str]]:
    """Turns as chat messages for `tokenizer.apply_chat_template` and for OpenAI-compatible servers."""
    return [{"role": _ROLES[turn.role], "content": turn.value} for turn in turns]


def end_tokens(configured: int | Iterable[int] | None, tokenizer: int | None) -> list[int]:
    """Tokens that end an answer, for probes as for serving: sorted, empty where nobody names one.

    Args:
        configured: `eos_token_id` of the model's generation configuration.
        tokenizer: the tokenizer's.
    """
    several = [configured] if isinstance(configured, int) else [*(configured or ())]
    return sorted({*several, *([] if tokenizer is None else [tokenizer])})


def strftime_now(form: str) -> str:
    """`TEMPLATE_DATE` in a form of `strftime`: what chat templates call under this name."""
    return TEMPLATE_DATE.strftime(form)


@lru_cache(maxsize=16)
def pinned_template(template: str) -> str:
    """A chat template that takes `TEMPLATE_DATE` for today, on any renderer; one that never asks is returned as it is.

    Renderers bring their own `strftime_now`. Here a macro of that name comes before the template, on a line of its own
    that leaves nothing behind where blocks are trimmed, as they are for chat templates.

    Args:
        template: a chat template in Jinja.
    """
    if "strftime_now" not in template:
        return template
    said = [("%%", _PERCENT), *((each, strftime_now(each)) for each in _DIRECTIVES), (_PERCENT, "%")]
    filters = "".join(f" | replace({old!r}, {new!r})" for old, new in said)
    pinned = f"{{% macro strftime_now(form) %}}{{{{ form{filters} }}}}{{% endmacro %}}\n"
    return template if template.startswith(pinned) else pinned + template
