"""What a training method does with one packed row: its loss and gradients. The loop knows nothing else of it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from sluice_trainer.attention import RowLayout
from sluice_trainer.flops import Load
from sluice_trainer.head import check_tokens, scored_losses
from sluice_trainer.plan import DocumentSize
from sluice_trainer.tokenise import Document, patches
from sluice_trainer.vision import Sight


class Recipe(Protocol):
    """A training method over documents that a plan numbers."""

    metrics: tuple[str, ...]
    """Names of the sums that `backward` returns; the first is the loss."""
    parameters: Mapping[str, torch.nn.Parameter]
    """What is trained, by name."""
    data_seconds: float
    """Seconds for which training has waited for rows to be put together and moved to the device."""

    def backward(self, row: Sequence[int], scored: float) -> torch.Tensor:
        """Add a row's gradients.

        Args:
            row: document numbers.
            scored: units of the whole optimizer step: the row's loss is its sum divided by this. Infinity makes a pass
                that changes nothing.

        Returns:
            The row's sums, float64 on the device, one a metric, not divided.
        """
        ...

    def load(self, row: Sequence[int]) -> Load:
        """What a row costs."""
        ...


class SftRecipe:
    """Supervised fine-tuning: cross-entropy of the scored tokens."""

    metrics: tuple[str, ...] = ("loss",)

    def __init__(
        self,
        model: Any,
        documents: Sequence[Document],
        parameters: Mapping[str, torch.nn.Parameter],
        device: torch.device,
        *,
        sight: Sight | None = None,
    ) -> None:
        """Keep the model and the documents that rows refer to; `sight` where some of them show pictures.

        Raises:
            WorkerError: `UserError` for tokens that the model does not know.
        """
        check_tokens(model, (document.ids for document in documents))
        self._sight = sight
        self.parameters = parameters
        self._model = model
        self.data_seconds = 0.0
        self._documents = documents
        self._device = device

    def backward(self, row: Sequence[int], scored: float) -> torch.Tensor:
        """Gradients of the row's share of the mean loss per scored token; the sum of its losses in nats."""
        started = time.perf_counter()
        packed = pack_row([self._documents[number] for number in row], self._device, self._sight)
        self.data_seconds += time.perf_counter() - started
        total = scored_losses(self._model, *packed).sum()
        torch.autograd.backward(total / scored)
        return total.detach().double().reshape(1)

    def load(self, row: Sequence[int]) -> Load:
        """Tokens, scored tokens and squared lengths of the row's documents."""
        documents = [self._documents[number] for number in row]
        return Load(
            tokens=sum(document.length for document in documents),
            scored=sum(document.scored_count for document in documents),
            squares=sum(document.length**2 for document in documents),
            patches=sum(patches(document.pictures) for document in documents),
        )


def pack_row(
    documents: Sequence[Document], device: torch.device, sight: Sight | None = None
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Documents as one row: what `forward` takes, the places that predict scored tokens, and those tokens."""
    ids = torch.from_numpy(np.concatenate([document.ids for document in documents])).to(device)
    scored = np.flatnonzero(np.concatenate([document.scored for document in documents]))
    layout = RowLayout.of_lengths([document.length for document in documents])
    inputs = row_inputs(ids, layout)
    if sight is not None:
        positions = (sight.positions(document.ids, document.pictures) for document in documents)
        pictures = [picture for document in documents for picture in document.pictures]
        inputs = sight.added(inputs, positions, pictures, device)
    predictors = torch.from_numpy(scored - 1).to(device)
    return inputs, predictors, ids[predictors + 1]


def row_inputs(ids: torch.Tensor, layout: RowLayout) -> dict[str, Any]:
    """What a model's `forward` takes for one packed row.

    Args:
        ids: the row's tokens, int64, shape `[tokens]`.
        layout: where its documents lie.
    """
    return {
        "input_ids": ids.unsqueeze(0),
        "position_ids": layout.positions(ids.device),
        "use_cache": False,
        "row_layout": layout,
    }


def sft_sizes(documents: Sequence[Document]) -> list[DocumentSize]:
    """What the plan has to know of supervised documents."""
    return [
        DocumentSize(
            length=each.length, scored=each.scored_count, fingerprint=each.fingerprint(), positions=each.positions
        )
        for each in documents
    ]
