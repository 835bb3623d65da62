"""The pack plan: which documents make up which row of which optimizer step.

The plan is a pure function of the seed, the documents and the settings below. The number of workers is no argument: a
step's rows are dealt out to whoever is there, and the loss is divided by the plan's own count of scored tokens, so that
one worker and many take the same steps over the same tokens.

Order: every epoch is a permutation drawn from Philox with the key `(seed, epoch)`, a counter-based generator (Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", 2011): any epoch can be drawn without drawing those before it. Steps
take documents from that stream until the next one would exceed `tokens_per_step`. Within a step, documents are packed
into rows of at most `max_length` tokens, best fit decreasing (Johnson, 1974).
"""

import hashlib
import json
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PLAN_VERSION = 1
"""Changes whenever the same input would give another plan."""

TOLD_STEPS = 64
"""Steps after which a plan in the making is heard of."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What shapes a plan besides the documents."""

    seed: int = 0
    """Seed of the order."""
    max_length: int = 4096
    """Longest row, in tokens; longer documents are left out."""
    tokens_per_step: int = 65536
    """Tokens of one optimizer step, at most."""
    epochs: float = 1.0
    """Passes over the documents; ignored where `max_steps` is given."""
    max_steps: int | None = None
    """Optimizer steps; None derives them from `epochs`."""
    packing: bool = True
    """Several documents in a row; otherwise one a row."""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length}: a row needs at least 2 tokens")
        if self.tokens_per_step < 2:
            raise ValueError(f"tokens_per_step is {self.tokens_per_step}: a step needs at least 2 tokens")
        if self.max_steps is None and not 0 < self.epochs < math.inf:
            message = f"epochs is {self.epochs}: it must be greater than 0, and finite, where max_steps is not given"
            raise ValueError(message)
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}: it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DocumentSize:
    """What the plan has to know of a document."""

    length: int
    """Tokens."""
    scored: int
    """Units that the loss is averaged over: scored tokens (SFT) or 1 (a preference pair)."""
    fingerprint: bytes
    """Hash of the content."""
    positions: int | None = None
    """Positions that it takes at least; None: as many as tokens. Fewer where answers go on from the same place."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step."""

    rows: tuple[tuple[int, ...], ...]
    """Document numbers, row by row."""
    tokens: int
    """Tokens of all rows; there is no padding."""
    scored: int
    """Units that the loss is averaged over."""
    epoch: float
    """Passes over the data once the step is done."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole run, step by step."""

    steps: tuple[Step, ...]
    """The steps, in order."""
    digest: str
    """`sha256:…` over settings, documents and rows."""
    left_out: int
    """Documents longer than a row, or with nothing to learn."""
    seed: int
    """Seed of the order, and of whatever else the steps draw."""
    row_tokens: int
    """Tokens of the longest row."""
    positions: int
    """Most positions that a document takes at least."""

    def draw_seed(self, step: int, row: int) -> int:
        """Seed of the random draws (dropout) of one row: the same for any number of workers and after any resume."""
        text = f"{self.seed}/{step}/{row}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def build_plan(
    documents: Sequence[DocumentSize], config: PlanConfig, told: Callable[[int, int], None] | None = None
) -> Plan:
    """The plan of a run.

    Args:
        documents: what there is to train on.
        config: what shapes the plan.
        told: hears, every `TOLD_STEPS` steps, how much of how much is planned: steps where their number is given,
            documents where it is not. It may raise, to have the work end.

    Raises:
        ValueError: no document fits into a row, none has anything to learn, or the epochs are less than one document.
    """
    limit = min(config.max_length, config.tokens_per_step)
    usable = [number for number, size in enumerate(documents) if size.length <= limit and size.scored > 0]
    if not usable:
        raise ValueError(_nothing_usable(documents, limit))
    wanted = _documents_wanted(config.epochs, len(usable)) if config.max_steps is None else 0
    if config.max_steps is None and not wanted:
        raise ValueError(
            f"optimizer.epochs is {config.epochs}: of {len(usable)} rows that is not one: raise it, or set "
            "optimizer.maxSteps"
        )
    steps = []
    taken = 0
    for group in _groups(documents, usable, config):
        taken += len(group)
        rows = _pack(documents, group, limit) if config.packing else tuple((number,) for number in group)
        steps.append(
            Step(
                rows=rows,
                tokens=sum(documents[number].length for number in group),
                scored=sum(documents[number].scored for number in group),
                epoch=taken / len(usable),
            )
        )
        if told is not None and len(steps) % TOLD_STEPS == 0:
            told(*((len(steps), config.max_steps) if config.max_steps is not None else (taken, wanted)))
    return Plan(
        steps=tuple(steps),
        digest=_digest(documents, config, steps),
        left_out=len(documents) - len(usable),
        seed=config.seed,
        row_tokens=max(sum(documents[number].length for number in row) for step in steps for row in step.rows),
        positions=max(_positions(documents[number]) for step in steps for row in step.rows for number in row),
    )


def _positions(size: DocumentSize) -> int:
    return size.length if size.positions is None else size.positions


def _nothing_usable(documents: Sequence[DocumentSize], limit: int) -> str:
    """Why no document can be trained on, and what to do."""
    learnable = [size.length for size in documents if size.scored > 0]
    found = f"none of {len(documents)} rows can be trained on"
    if not learnable:
        return (
            f"{found}: in none is a token scored, so that there is nothing to learn: the answers are empty once the "
            "base model's chat template has written them"
        )
    masked = len(documents) - len(learnable)
    besides = f", and {masked} more have no scored token" if masked else ""
    return (
        f"{found}: the shortest with anything to learn has {min(learnable)} tokens, the longest {max(learnable)}, a "
        f"row may have {limit}{besides}: raise sequence.maxLength (and optimizer.tokensPerStep)"
    )


def _documents_wanted(epochs: float, usable: int) -> int:
    """Documents that so many epochs see."""
    return math.ceil(round(epochs * usable, 9))


def _stream(usable: Sequence[int], config: PlanConfig) -> Iterator[int]:
    """Document numbers in the order in which they are seen, epoch after epoch."""
    wanted = None if config.max_steps is not None else _documents_wanted(config.epochs, len(usable))
    epoch = 0
    given = 0
    while wanted is None or given < wanted:
        key = np.array([config.seed % 2**64, epoch], dtype=np.uint64)
        for position in np.random.Generator(np.random.Philox(key=key)).permutation(len(usable)):
            if wanted is not None and given >= wanted:
                return
            given += 1
            yield usable[int(position)]
        epoch += 1


def _groups(documents: Sequence[DocumentSize], usable: Sequence[int], config: PlanConfig) -> Iterator[list[int]]:
    """Documents of each step: as many from the stream as fit into `tokens_per_step`."""
    group: list[int] = []
    tokens = 0
    steps = 0
    for number in _stream(usable, config):
        length = documents[number].length
        if group and tokens + length > config.tokens_per_step:
            yield group
            steps += 1
            if steps == config.max_steps:
                return
            group, tokens = [], 0
        group.append(number)
        tokens += length
    if group:
        yield group


def _pack(documents: Sequence[DocumentSize], group: Sequence[int], limit: int) -> tuple[tuple[int, ...], ...]:
    """Rows of at most `limit` tokens: each document, longest first, goes where the least room remains."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, row), sorted
    order = sorted(range(len(group)), key=lambda index: (-documents[group[index]].length, index))
    for index in order:
        length = documents[group[index]].length
        place = bisect_left(rooms, (length, -1))
        if place == len(rooms):
            rows.append([index])
            insort(rooms, (limit - length, len(rows) - 1))
        else:
            room, row = rooms.pop(place)
            rows[row].append(index)
            insort(rooms, (room - length, row))
    return tuple(tuple(group[index] for index in sorted(row)) for row in rows)


def _digest(documents: Sequence[DocumentSize], config: PlanConfig, steps: Sequence[Step]) -> str:
    """SHA-256 over everything that decides what is seen when."""
    digest = hashlib.sha256()
    settings = {"version": PLAN_VERSION, "seed": config.seed, "max_length": config.max_length}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for size in documents:
        digest.update(size.fingerprint)
    for step in steps:
        digest.update(json.dumps(step.rows, separators=(",", ":")).encode())
    return f"sha256:{digest.hexdigest()}"
