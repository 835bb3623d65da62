"""Conversations to token documents: rendering, tokenising, masking.

A document is rendered by the base model's own chat template. Its prompt part is tokenised exactly as the model server
tokenises a prompt (`apply_chat_template(..., add_generation_prompt=True)`), and only what the assistant has to produce
after it, its end-of-turn token included, is scored. Boundaries between prompt and answer are therefore token
boundaries, in training as in serving.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import SftRow, Turn
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError


@dataclass(frozen=True, kw_only=True)
class Document:
    """One tokenised conversation.

    `ids` holds the tokens (int64, shape `[n]`); `scored` says which of them the loss asks for (bool, shape `[n]`); the
    first token is never scored, because nothing precedes it.
    """

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]

    @property
    def length(self) -> int:
        """Tokens of the document."""
        return int(self.ids.size)

    @property
    def scored_count(self) -> int:
        """Tokens that the loss asks for."""
        return int(self.scored.sum())

    def fingerprint(self) -> bytes:
        """SHA-256 over tokens and mask: what the document is to the plan's digest."""
        return hashlib.sha256(self.ids.tobytes() + b"|" + self.scored.tobytes()).digest()


def tokenize_rows(rows: Sequence[SftRow], tokenizer: Any) -> list[Document]:
    """Documents of supervised rows, in the rows' order.

    Args:
        rows: rows that `sft_objection` has nothing against.
        tokenizer: a transformers tokenizer with a chat template.

    Raises:
        WorkerError: `UserError` when the tokenizer has no chat template or the template rewrites earlier turns.
    """
    segments = [render_segments(row.conversations, tokenizer) for row in rows]
    texts = [text for row in segments for text, _ in row]
    encoded = (
        iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]) if texts else ()
    )
    tokens = iter(encoded)
    stops = stop_tokens(tokenizer)
    return [document_of([(next(tokens), scored) for _, scored in row], stops) for row in segments]


def render_segments(turns: Sequence[Turn], tokenizer: Any) -> list[tuple[str, bool]]:
    """A conversation as pieces of text, in order, each with whether the assistant has to produce it.

    Joined, the pieces are what `apply_chat_template` writes for the whole conversation.

    Raises:
        WorkerError: `UserError` when there is no chat template, or when the template does not extend its own output.
    """
    messages = to_messages(turns)
    pieces: list[tuple[str, bool]] = []
    done = ""
    for index, turn in enumerate(turns):
        if turn.role != "gpt":
            continue
        prompt = _render(tokenizer, messages[:index], generation=True)
        answered = _render(tokenizer, messages[: index + 1], generation=False)
        if not prompt.startswith(done) or not answered.startswith(prompt):
            message = (
                "the base model's chat template rewrites earlier turns, so that prompt and answer cannot be told "
                "apart: use a template whose output for more turns extends its output for fewer"
            )
            raise WorkerError(FailureClass.USER_ERROR, message)
        pieces += [(prompt[len(done) :], False), (answered[len(prompt) :], True)]
        done = answered
    return [piece for piece in pieces if piece[0]]


def _render(tokenizer: Any, messages: list[dict[str, str]], *, generation: bool) -> str:
    """The conversation as text, by the tokenizer's own template."""
    if not getattr(tokenizer, "chat_template", None):
        message = (
            "the base model's tokenizer has no chat template: add `chat_template.jinja` (or `chat_template` in "
            "tokenizer_config.json), the one that serving uses"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation))


def stop_tokens(tokenizer: Any) -> NDArray[np.int64]:
    """Tokens that may end a turn: everything that the tokenizer calls special."""
    return np.asarray(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)


def document_of(pieces: list[tuple[list[int], bool]], stops: NDArray[np.int64]) -> Document:
    """Pieces of tokens to one document.

    What a template writes after the end-of-turn token (a line break, usually) is never generated in serving, and so not
    scored.
    """
    ids = [np.asarray(tokens, dtype=np.int64) for tokens, _ in pieces]
    masks = [np.zeros(part.size, dtype=np.bool_) for part in ids]
    for part, mask, (_, scored) in zip(ids, masks, pieces, strict=True):
        if scored:
            ends = np.flatnonzero(np.isin(part, stops))
            mask[: (ends[-1] + 1 if ends.size else part.size)] = True
    everything = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)
    scored_mask = np.concatenate(masks) if masks else np.zeros(0, dtype=np.bool_)
    if scored_mask.size:
        scored_mask[0] = False
    return Document(ids=everything, scored=scored_mask)
