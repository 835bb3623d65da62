"""Per-document attention over packed rows.

A row is several documents one after the other, without padding. Each document attends to itself alone: attention is
computed document by document with scaled dot-product attention, so nothing is spent on pairs of tokens that must not
see each other, and no mask of row length squared is ever built. Positions restart at 0 with every document.

The function is registered under `IMPLEMENTATION` in transformers' attention interface; models receive the layout of
the row as the keyword argument `row_layout` of `forward`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError

IMPLEMENTATION = "sluice_documents"
"""Name of the attention in a model's configuration."""


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Where the documents of a packed row lie."""

    bounds: tuple[int, ...]
    """First token of each document, and the end of the row: one more than there are documents."""

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "RowLayout":
        """Layout of documents of these lengths, in tokens."""
        return cls(bounds=tuple(accumulate(lengths, initial=0)))

    def positions(self, device: torch.device) -> torch.Tensor:
        """Position of every token in its own document, int64, shape `[1, tokens]`."""
        parts = [torch.arange(end - start, device=device) for start, end in pairwise(self.bounds)]
        return torch.cat(parts).unsqueeze(0)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_layout: RowLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document; the signature is transformers'.

    Args:
        module: the attention module (unused).
        query: shape `[1, heads, tokens, size]`.
        key: shape `[1, key heads, tokens, size]`; key heads divide heads.
        value: like `key`.
        attention_mask: None; masks have no place here.
        row_layout: the documents; None means that every sequence of the batch is one document.
        scaling: factor of the scores; None means `size ** -0.5`.
        dropout: probability of dropping a weight.
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it; None means all before it.
        softcap: refused where a model asks for it.
        s_aux: refused where a model asks for it.

    Returns:
        The output, shape `[1, tokens, heads, size]`, and None for the weights.

    Raises:
        WorkerError: `UserError` for a model whose attention needs what scaled dot-product attention cannot do.
    """
    if softcap is not None or s_aux is not None:
        message = (
            "the base model's attention caps its scores or has sinks, which this trainer cannot do: use another base"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)
    layout = row_layout or RowLayout.of_lengths([query.shape[2]])
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    outputs = []
    for start, end in pairwise(layout.bounds):
        length = end - start
        mask = _band(length, sliding_window, query.device) if sliding_window and length > sliding_window else None
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None and length > 1,
                scale=scaling,
            )
        )
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which token (row) sees which (column), bool, shape `[length, length]`."""
    index = torch.arange(length, device=device)
    distance = index[:, None] - index[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(IMPLEMENTATION, document_attention)
