"""Documents of rows without a dataset around them."""

from collections.abc import Sequence
from typing import Any

import torch

from sluice_api.contracts.dataset import SftRow
from sluice_trainer.head import scored_losses
from sluice_trainer.recipes import pack_row
from sluice_trainer.tokenise import Document, Documents, Tokeniser, join_batches
from sluice_trainer.vision import Sight


def tokenize_rows(rows: Sequence[SftRow], tokenizer: Any) -> list[Document]:
    """Documents of supervised rows, in the rows' order, as a run makes them."""
    return list(Documents(join_batches(Tokeniser(tokenizer).encode(row.conversations for row in rows))))


def row_loss(
    model: Any, documents: Sequence[Document], device: torch.device, sight: Sight | None = None
) -> torch.Tensor:
    """Sum of the cross-entropies of the scored tokens of documents packed into one row, in nats, a scalar."""
    return scored_losses(model, *pack_row(documents, device, sight)).sum()
