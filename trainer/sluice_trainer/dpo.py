"""Direct preference optimization with the prompt of a pair computed once.

Loss of a pair: `−log σ(β · ((log π(c) − log ρ(c)) − (log π(r) − log ρ(r))))`, with π the policy, ρ the reference, c the
chosen and r the rejected answer, log-probabilities summed over an answer's tokens (Rafailov et al., "Direct preference
optimization", 2023, equation 7).

A pair is one document: prompt, chosen, rejected. The rejected answer sees the prompt and itself, at the positions that
it would have after the prompt, so that the prompt's part of the work is done once and nothing is padded (prefix
sharing: "Accelerating direct preference optimization with prefix sharing", arXiv 2410.20305, 2024).

The reference is the model as training finds it: the base, or the base with the parent's adapter. Its log-probabilities
are computed once, before the first step of a run, and kept for its other attempts (`reference`).
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid

from sluice_api.contracts.dataset import PreferenceRow, Turn
from sluice_api.contracts.jobs import FailureClass
from sluice_trainer.attention import RowLayout
from sluice_trainer.flops import Load
from sluice_trainer.group import Group, shares
from sluice_trainer.head import check_tokens, scored_losses
from sluice_trainer.plan import DocumentSize
from sluice_trainer.recipes import row_inputs
from sluice_trainer.tokenise import (
    ConversationError,
    Picture,
    document_of,
    encoding,
    numbered,
    patches,
    render_segments,
    stop_tokens,
)
from sluice_trainer.vision import Eyes, SeeingTokeniser, Sight


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One tokenised preference pair; int64 arrays, each answer up to its end-of-turn token."""

    prompt: NDArray[np.int64]
    chosen: NDArray[np.int64]
    rejected: NDArray[np.int64]
    pictures: tuple[Picture, ...] = ()
    """What the prompt's image tokens stand for."""

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Tokens of prompt, chosen and rejected answer."""
        return self.prompt.size, self.chosen.size, self.rejected.size

    @property
    def positions(self) -> int:
        """Positions that it takes at least: both answers go on where the prompt ends."""
        return int(self.prompt.size + max(self.chosen.size, self.rejected.size)) - patches(self.pictures)

    def fingerprint(self) -> bytes:
        """SHA-256 over the three parts and the pictures: what the pair is to the plan's digest."""
        seen = repr(self.pictures).encode() if self.pictures else b""
        parts = (self.prompt.tobytes(), self.chosen.tobytes(), self.rejected.tobytes() + seen)
        return hashlib.sha256(b"|".join(parts)).digest()


def tokenize_pairs(rows: Iterable[PreferenceRow], tokenizer: Any, eyes: Eyes | None = None) -> list[Pair]:
    """Pairs of preference rows, in the rows' order.

    Args:
        rows: rows that `preference_objection` has nothing against.
        tokenizer: a transformers tokenizer with a chat template.
        eyes: the base model's, which has nothing against the rows either; None where it reads text only.

    Raises:
        WorkerError: `UserError` when the tokenizer has no chat template, or cannot encode what it writes.
        ConversationError: `UserError` when the template cannot render a row or rewrites earlier turns, `Data` when it
            leaves nothing of a prompt or an answer.
    """
    stops = stop_tokens(tokenizer)
    seeing = SeeingTokeniser(tokenizer, eyes) if eyes is not None else None

    def answer(
        row: PreferenceRow, name: str, text: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[Picture, ...]]:
        turns = [*row.prompt, Turn.model_validate({"from": "gpt", "value": text})]
        pictures: tuple[Picture, ...] = ()
        if seeing is not None:
            segments, pictures = seeing.segments(turns, row.image)
        else:
            segments = render_segments(turns, tokenizer)
        with encoding():
            pieces = [
                (tokenizer(piece, add_special_tokens=False)["input_ids"], scored)
                for piece, scored in _last_answer(segments)
            ]
        for field, (tokens, _) in zip(("prompt", name), pieces, strict=True):
            if not tokens:
                message = f"{field}: the base model's chat template leaves nothing of it: say something in it"
                raise ConversationError(FailureClass.DATA, message)
        document = document_of(pieces, stops)
        first = len(pieces[0][0])
        last = int(np.flatnonzero(document.scored)[-1]) + 1
        return document.ids[:first], document.ids[first:last], pictures

    pairs = []
    for number, row in enumerate(rows):
        with numbered(number):
            prompt, chosen, pictures = answer(row, "chosen", row.chosen)
            _, rejected, _ = answer(row, "rejected", row.rejected)
        pairs.append(Pair(prompt=prompt, chosen=chosen, rejected=rejected, pictures=pictures))
    return pairs


def _last_answer(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Everything before the last answer as one prompt, and the answer: earlier answers are context here."""
    answered = bool(pieces) and pieces[-1][1]
    prompt = "".join(text for text, _ in (pieces[:-1] if answered else pieces))
    return [(prompt, False), (pieces[-1][0] if answered else "", True)]


def pair_sizes(pairs: Sequence[Pair]) -> list[DocumentSize]:
    """What the plan has to know of pairs: the loss is averaged over pairs, so each counts as one."""
    return [
        DocumentSize(length=sum(pair.lengths), scored=1, fingerprint=pair.fingerprint(), positions=pair.positions)
        for pair in pairs
    ]


def answer_log_probabilities(
    model: Any, pairs: Sequence[Pair], device: torch.device, sight: Sight | None = None
) -> torch.Tensor:
    """Log-probabilities of chosen and rejected answers of pairs packed into one row, in nats, shape `[pairs, 2]`."""
    return _answered(model, *pack_pairs(pairs, device, sight))


def _answered(
    model: Any, inputs: dict[str, Any], predictors: torch.Tensor, targets: torch.Tensor, owners: torch.Tensor
) -> torch.Tensor:
    losses = scored_losses(model, inputs, predictors, targets)
    answers = len(inputs["row_layout"].segments)
    totals = torch.zeros(answers, dtype=losses.dtype, device=losses.device).index_add(0, owners, losses)
    return -totals.view(-1, 2)


def pack_pairs(
    pairs: Sequence[Pair], device: torch.device, sight: Sight | None = None
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs as one row: what `forward` takes, the places that predict answers' tokens, those tokens, whose they are."""
    ids = torch.from_numpy(
        np.concatenate([part for pair in pairs for part in (pair.prompt, pair.chosen, pair.rejected)])
    )
    predictors, targets, owners = _scored_places(pairs)
    inputs = row_inputs(ids.to(device), RowLayout.of_pairs([pair.lengths for pair in pairs]))
    if sight is not None:
        pictures = [picture for pair in pairs for picture in pair.pictures]
        inputs = sight.added(inputs, (_positions(pair, sight) for pair in pairs), pictures, device)
    return inputs, predictors.to(device), ids[targets].to(device), owners.to(device)


def _positions(pair: Pair, sight: Sight) -> torch.Tensor:
    """Positions of a pair in time, height and width, `[3, tokens]`: both answers go on where the prompt ends."""
    prompt = sight.positions(pair.prompt, pair.pictures)
    after = int(prompt.max()) + 1
    _, chosen, rejected = pair.lengths
    answers = [torch.arange(after, after + length).expand(3, -1) for length in (chosen, rejected)]
    return torch.cat([prompt, *answers], dim=1)


def _scored_places(pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every token of every answer: the place that predicts it, its own, and its answer's number in the row."""
    predictors, targets, owners = [], [], []
    place = 0
    for number, pair in enumerate(pairs):
        prompt, chosen, rejected = pair.lengths
        fork = place + prompt + chosen
        own = np.concatenate([np.arange(place + prompt, fork), np.arange(fork, fork + rejected)])
        before = own - 1
        before[chosen] = place + prompt - 1  # the rejected answer follows the prompt, not the chosen answer
        predictors.append(before)
        targets.append(own)
        owners.append(np.repeat([2 * number, 2 * number + 1], [chosen, rejected]))
        place = fork + rejected
    joined = (torch.from_numpy(np.concatenate(parts)) for parts in (predictors, targets, owners))
    first, second, third = joined
    return first, second, third


def reference_log_probabilities(
    model: Any,
    pairs: Sequence[Pair],
    *,
    row_tokens: int,
    device: torch.device,
    group: Group,
    sight: Sight | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> torch.Tensor:
    """Log-probabilities of all pairs under the model as it is, fp32, on the CPU, shape `[pairs, 2]`.

    Rows of up to `row_tokens` tokens are shared out over the group's processes, and `told` hears how many of how many
    are done. A pair that is longer keeps zeros: the plan leaves it out.

    Raises:
        WorkerError: `UserError` for tokens that the model does not know.
    """
    _check_pairs(model, pairs)
    result = torch.zeros(len(pairs), 2, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        rows = list(_rows(pairs, row_tokens))
        for number, counts in shares(len(rows), group):
            found = answer_log_probabilities(model, [pairs[index] for index in rows[number]], device, sight)
            if counts:
                result[rows[number]] = found.float()
            told(min(number + group.size, len(rows)), len(rows))
    model.train(was_training)
    group.sum(result)
    return result.cpu()


def _rows(pairs: Sequence[Pair], row_tokens: int) -> Iterator[list[int]]:
    """Pairs in order, as many at a time as fit."""
    row: list[int] = []
    tokens = 0
    for index, pair in enumerate(pairs):
        length = sum(pair.lengths)
        if length > row_tokens:
            continue
        if row and tokens + length > row_tokens:
            yield row
            row, tokens = [], 0
        row.append(index)
        tokens += length
    if row:
        yield row


def _check_pairs(model: Any, pairs: Iterable[Pair]) -> None:
    check_tokens(model, (part for pair in pairs for part in (pair.prompt, pair.chosen, pair.rejected)))


class DpoRecipe:
    """Preference training of pairs against a fixed reference.

    Metrics are sums over pairs. A reward is `β · (log π − log ρ)` of an answer; `reward_accuracy` counts the pairs
    whose chosen answer has the higher one; `length_difference` is the chosen answer's length minus the rejected one's,
    in tokens, `length_bias` the length of the answer that the policy prefers minus the other's.
    """

    metrics: tuple[str, ...] = (
        "loss",
        "reward_margin",
        "reward_accuracy",
        "chosen_reward",
        "rejected_reward",
        "length_difference",
        "length_bias",
    )

    def __init__(
        self,
        model: Any,
        pairs: Sequence[Pair],
        parameters: Mapping[str, torch.nn.Parameter],
        *,
        reference: torch.Tensor,
        beta: float,
        device: torch.device,
        sight: Sight | None = None,
    ) -> None:
        """Keep the model, the pairs that rows refer to, and `reference`, of shape `[pairs, 2]`.

        Raises:
            WorkerError: `UserError` for tokens that the model does not know.
        """
        _check_pairs(model, pairs)
        self._sight = sight
        self.parameters = parameters
        self.data_seconds = 0.0
        self._model = model
        self._pairs = pairs
        self._reference = reference
        self._beta = beta
        self._device = device

    def backward(self, row: Sequence[int], scored: float) -> torch.Tensor:
        """Gradients of the row's share of the mean loss per pair; the row's sums."""
        pairs = [self._pairs[number] for number in row]
        started = time.perf_counter()
        packed = pack_pairs(pairs, self._device, self._sight)
        self.data_seconds += time.perf_counter() - started
        policy = _answered(self._model, *packed)
        rewards = self._beta * (policy - self._reference[list(row)].to(self._device))
        margins = rewards[:, 0] - rewards[:, 1]
        losses = -logsigmoid(margins)
        torch.autograd.backward(losses.sum() / scored)
        right = (margins.detach() > 0).double()
        longer = torch.tensor([pair.lengths[1] - pair.lengths[2] for pair in pairs], device=self._device).double()
        columns = [
            losses.detach(),
            margins.detach(),
            right,
            rewards[:, 0].detach(),
            rewards[:, 1].detach(),
            longer,
            longer * (2 * right - 1),
        ]
        return torch.stack([column.double().sum() for column in columns])

    def load(self, row: Sequence[int]) -> Load:
        """Of a pair: every part once; the rejected answer attends to the prompt as well as to itself."""
        lengths = [self._pairs[number].lengths for number in row]
        return Load(
            tokens=sum(sum(each) for each in lengths),
            scored=sum(chosen + rejected for _, chosen, rejected in lengths),
            squares=sum((p + c) ** 2 + (p + r) ** 2 - p**2 for p, c, r in lengths),
            patches=sum(patches(self._pairs[number].pictures) for number in row),
        )
