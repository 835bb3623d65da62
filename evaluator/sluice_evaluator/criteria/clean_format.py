"""`clean_format`: the answer ended by itself and is an answer: no template tokens, no second speaker, no loop."""

import re

from sluice_api.contracts.evaluation import Outcome
from sluice_evaluator.criteria.registry import Failed, criterion

_TEMPLATE = re.compile(r"<\|[\w ]+\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</s>|<s>|<\|?endoftext\|?>")
_SPEAKER = re.compile(r"^\s*(?:user|human|assistant|gpt|system)\s*:", re.IGNORECASE | re.MULTILINE)
_LEAST_LOOP = 4


def repeats(text: str) -> bool:
    """Tell whether a text ends in a loop: its last line, or last eight words, four times in a row."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= _LEAST_LOOP and len(set(lines[-_LEAST_LOOP:])) == 1:
        return True
    words = text.split()
    return any(
        len(words) >= _LEAST_LOOP * size
        and all(words[-size:] == words[-size * (k + 1) : len(words) - size * k] for k in range(1, _LEAST_LOOP))
        for size in range(1, 9)
    )


@criterion("clean_format", needs_value=False)
def clean_format(outcome: Outcome, value: str) -> bool:
    """Hold when the answer is clean."""
    if not outcome.output.strip():
        raise Failed("empty")
    if not outcome.success:
        raise Failed(f"did not stop by itself ({outcome.status})")
    if _TEMPLATE.search(outcome.output):
        raise Failed("template tokens in the answer")
    if _SPEAKER.search(outcome.output):
        raise Failed("the answer goes on for another speaker")
    if repeats(outcome.output):
        raise Failed("the answer repeats itself")
    return True
