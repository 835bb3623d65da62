"""Conversations to token documents: rendering, tokenising, masking.

A document is rendered by the base model's own chat template. Its prompt part is tokenised exactly as the model server
tokenises a prompt (`apply_chat_template(..., add_generation_prompt=True)`), and only what the assistant has to produce
after it, its end-of-turn token included, is scored. Boundaries between prompt and answer are therefore token
boundaries, in training as in serving.
"""

import hashlib
import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sluice_api.chat import pinned_template, strftime_now, to_messages
from sluice_api.contracts.dataset import Turn
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.chat_plan import ChatPlan, fill
from sluice_trainer.words import WordEncoder


class Picture(NamedTuple):
    """A screenshot that a document shows."""

    name: str
    """`<sha256>.png`."""
    grid: tuple[int, int, int]
    """Patches in time, height and width, before the vision tower merges them."""


def patches(pictures: Iterable[Picture]) -> int:
    """Patches of pictures: no fewer than the tokens that stand for them."""
    return sum(math.prod(picture.grid) for picture in pictures)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One tokenised conversation.

    `ids` holds the tokens (int64, shape `[n]`); `scored` says which of them the loss asks for (bool, shape `[n]`); the
    first token is never scored, because nothing precedes it. `pictures` are what its image tokens stand for, in order.
    """

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    pictures: tuple[Picture, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the document."""
        return int(self.ids.size)

    @property
    def positions(self) -> int:
        """Positions that it takes at least: a picture's tokens take fewer than they are."""
        return self.length - patches(self.pictures)

    @property
    def scored_count(self) -> int:
        """Tokens that the loss asks for."""
        return int(self.scored.sum())

    def fingerprint(self) -> bytes:
        """SHA-256 over tokens, mask and pictures: what the document is to the plan's digest."""
        seen = repr(self.pictures).encode() if self.pictures else b""
        return hashlib.sha256(self.ids.tobytes() + b"|" + self.scored.tobytes() + seen).digest()


class ConversationError(WorkerError):
    """A conversation that cannot be made into tokens as it has to be."""

    number: int = 0
    """Which of the conversations given, from 0."""


BATCH_ROWS = 512
"""Conversations that are tokenised together."""


class Tokeniser:
    """Turns conversations into documents with one tokenizer and its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        """Prepare a transformers tokenizer; one without a template is refused when the first conversation comes."""
        self._tokenizer = tokenizer
        template = getattr(tokenizer, "chat_template", None)
        variables = {**tokenizer.special_tokens_map, "strftime_now": strftime_now}
        self._plan = ChatPlan(template, variables) if isinstance(template, str) else None
        self._words = WordEncoder(tokenizer) if getattr(tokenizer, "is_fast", False) else None
        self._stops = frozenset(tokenizer.all_special_ids)
        self._checked: set[tuple[str, ...]] = set()

    def encode(self, conversations: Iterable[Sequence[Turn]]) -> Iterator["TokenBatch"]:
        """Documents of conversations, in their order, `BATCH_ROWS` at a time.

        Raises:
            WorkerError: `UserError` when there is no chat template, or the tokenizer cannot encode what it writes.
            ConversationError: `UserError` when the template cannot render a conversation, or rewrites earlier turns.
        """
        source, done = iter(conversations), 0
        while batch := list(islice(source, BATCH_ROWS)):
            rendered: list[list[tuple[str, bool]]] = []
            for turns in batch:
                with numbered(done + len(rendered)):
                    rendered.append(self._render(turns))
            done += len(rendered)
            texts = [text for pieces in rendered for text, _ in pieces]
            with encoding():
                tokens = self._words.encode(texts) if self._words is not None else self._ask(texts)
            yield self._collect(rendered, iter(tokens))

    def _ask(self, texts: list[str]) -> list[list[int]]:
        ids = (
            self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []
        )
        return list(ids)

    def _render(self, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
        if self._plan is not None:
            messages = to_messages(turns)
            roles, contents = tuple(m["role"] for m in messages), [m["content"] for m in messages]
            pieces = self._plan.pieces(roles)
            if pieces is not None and all(map(str.strip, contents)):
                filled = [(fill(parts, contents), scored) for parts, scored in pieces]
                # The plan is this module's reading of the template; the tokenizer's own has the last word.
                if roles in self._checked:
                    return filled
                if filled == render_segments(turns, self._tokenizer):
                    self._checked.add(roles)
                    return filled
                self._plan = None
        return render_segments(turns, self._tokenizer)

    def _collect(self, rendered: list[list[tuple[str, bool]]], tokens: Iterator[list[int]]) -> "TokenBatch":
        ids = array("i")
        lengths: list[int] = []
        spans: list[tuple[int, int]] = []
        for pieces in rendered:
            start = len(ids)
            for _, scored in pieces:
                piece, begin = next(tokens), len(ids)
                ids.extend(piece)
                if scored:
                    # The first token of a document is never scored, because nothing precedes it.
                    spans.append((max(begin, start + 1), begin + scored_tokens(piece, self._stops)))
            lengths.append(len(ids) - start)
        mask = np.zeros(len(ids), dtype=np.bool_)
        for begin, end in spans:
            mask[begin:end] = True
        return TokenBatch(np.array(ids, dtype=np.int32), mask, np.array(lengths, dtype=np.int64))


@contextmanager
def numbered(number: int) -> Iterator[None]:
    """Give a `ConversationError` the number of its conversation."""
    try:
        yield
    except ConversationError as error:
        error.number = number
        raise


@contextmanager
def encoding() -> Iterator[None]:
    """Whatever a tokenizer raises on texts as `UserError`."""
    try:
        yield
    except (MemoryError, WorkerError):
        raise
    except Exception as error:  # tokenizers raise bare exceptions
        reason = (
            f"the base model's tokenizer cannot encode what its chat template writes ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}): give the base the tokenizer that its weights were trained with"
        )
        raise WorkerError(FailureClass.USER_ERROR, reason) from error


class TokenBatch(NamedTuple):
    """Documents one behind the other."""

    ids: NDArray[np.int32]
    """Tokens of all documents."""
    scored: NDArray[np.bool_]
    """Which of them the loss asks for."""
    lengths: NDArray[np.int64]
    """Tokens of each document."""


class Documents(Sequence[Document]):
    """Documents that share their arrays, which may lie in a mapped file."""

    def __init__(self, batch: TokenBatch) -> None:
        self._ids, self._scored, lengths = batch
        self._bounds = np.concatenate(([0], np.cumsum(lengths))).tolist()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start, end = self._bounds[place], self._bounds[place + 1]
        return Document(ids=self._ids[start:end].astype(np.int64), scored=np.array(self._scored[start:end]))


def join_batches(batches: Iterable[TokenBatch]) -> TokenBatch:
    """Many batches as one."""
    listed = list(batches)
    if not listed:
        return TokenBatch(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.int64))
    return TokenBatch(*(np.concatenate(parts) for parts in zip(*listed, strict=True)))


def scored_tokens(piece: Sequence[int], stops: Collection[int]) -> int:
    """How many tokens of an answer are scored: up to its last special token.

    What a template writes after the end-of-turn token (a line break, usually) is never generated in serving. An answer
    without one is scored whole.
    """
    for place in range(len(piece), 0, -1):
        if piece[place - 1] in stops:
            return place
    return len(piece)


def render_segments(turns: Sequence[Turn], tokenizer: Any) -> list[tuple[str, bool]]:
    """A conversation as pieces of text, in order, each with whether the assistant has to produce it.

    Joined, the pieces are what `apply_chat_template` writes for the whole conversation.

    Raises:
        WorkerError: `UserError` when there is no chat template.
        ConversationError: `UserError` when the template cannot render it, or does not extend its own output.
    """
    return message_segments(to_messages(turns), tokenizer)


def message_segments(messages: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[tuple[str, bool]]:
    """`render_segments` of chat messages, whose contents may be lists of parts."""
    pieces: list[tuple[str, bool]] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:index], generation=True)
        answered = render(tokenizer, messages[: index + 1], generation=False)
        if not prompt.startswith(done) or not answered.startswith(prompt):
            reason = (
                "the base model's chat template rewrites earlier turns, so that prompt and answer cannot be told "
                "apart: use a template whose output for more turns extends its output for fewer"
            )
            raise ConversationError(FailureClass.USER_ERROR, reason)
        pieces += [(prompt[len(done) :], False), (answered[len(prompt) :], True)]
        done = answered
    return [piece for piece in pieces if piece[0]]


def template_of(tokenizer: Any) -> str:
    """The chat template that conversations are rendered with, its date pinned (`pinned_template`).

    Raises:
        WorkerError: `UserError` when there is none, or several and none of them is the default.
    """
    if getattr(tokenizer, "chat_template", None):
        with suppress(ValueError):
            return pinned_template(str(tokenizer.get_chat_template()))
    message = (
        "the base model's tokenizer has no chat template: add `chat_template.jinja` (or `chat_template` in "
        "tokenizer_config.json), the one that serving uses"
    )
    raise WorkerError(FailureClass.USER_ERROR, message)


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, generation: bool) -> str:
    """Chat messages as text, by the tokenizer's own template: what training, probes and serving have in common.

    Args:
        tokenizer: a transformers tokenizer.
        messages: chat messages.
        generation: whether the text ends where the assistant is to begin.

    Raises:
        WorkerError: `UserError` when there is no chat template.
        ConversationError: `UserError` when the template cannot render these messages.
    """
    template = template_of(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=generation
        )
    except (MemoryError, WorkerError):
        raise
    except Exception as error:  # a template is a program of the base's, and may raise anything
        roles = ", ".join(str(message.get("role")) for message in messages) or "no turns"
        reason = (
            f"the base model's chat template cannot render a conversation of {roles} ({_said(error, template)}): "
            "give the base a `chat_template.jinja` that can, the one that serving uses"
        )
        raise ConversationError(FailureClass.USER_ERROR, reason) from error
    return str(text)


def _said(error: Exception, template: str) -> str:
    """An error of a template in one line, with the template's line where it is known."""
    line = getattr(error, "lineno", None)
    # Where the date is pinned, a line of ours comes first.
    place = f" in its line {line - ('strftime_now' in template)}" if isinstance(line, int) else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())[:300]}"


def stop_tokens(tokenizer: Any) -> NDArray[np.int64]:
    """Tokens that may end a turn: everything that the tokenizer calls special."""
    return np.asarray(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)


def document_of(pieces: list[tuple[list[int], bool]], stops: NDArray[np.int64]) -> Document:
    """Pieces of tokens to one document.

    What a template writes after the end-of-turn token (a line break, usually) is never generated in serving, and so not
    scored.
    """
    known = set(stops.tolist())
    ids = [np.asarray(tokens, dtype=np.int64) for tokens, _ in pieces]
    masks = [np.zeros(part.size, dtype=np.bool_) for part in ids]
    for (tokens, scored), mask in zip(pieces, masks, strict=True):
        if scored:
            mask[: scored_tokens(tokens, known)] = True
    everything = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)
    scored_mask = np.concatenate(masks) if masks else np.zeros(0, dtype=np.bool_)
    if scored_mask.size:
        scored_mask[0] = False
    return Document(ids=everything, scored=scored_mask)
