"""Per-document attention over packed rows.

A row is several documents one after the other, without padding. Each document attends to itself alone, so nothing is
spent on pairs of tokens that must not see each other, and no mask of row length squared is ever built. Positions
restart at 0 with every document. `attention_kernels` says which kernel computes a row; on a CPU it is scaled
dot-product attention, document by document.

The function is registered under `IMPLEMENTATION` in transformers' attention interface; models receive the layout of
the row as the keyword argument `row_layout` of `forward`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.attention_kernels import (
    Kernel,
    Offsets,
    Places,
    block_mask,
    choose_kernel,
    flex_row_attention,
    offsets,
    varlen_attention,
    varlen_kernel,
)

IMPLEMENTATION = "sluice_documents"
"""Name of the attention in a model's configuration."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive tokens of a row that see themselves causally, and before that all of a prefix."""

    start: int
    """First token."""
    end: int
    """One past the last token."""
    prefix: tuple[int, int] = (0, 0)
    """First token, and one past the last, of what they see besides; empty for most."""

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix; the position of the segment's first token."""
        return self.prefix[1] - self.prefix[0]


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Where the documents of a packed row lie."""

    segments: tuple[Segment, ...]
    """One after the other, from the first token of the row to the last."""
    prepared: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What kernels have worked out of the layout, once for all layers."""

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once under a key."""
        if key not in self.prepared:
            self.prepared[key] = make()
        return self.prepared[key]

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "RowLayout":
        """Layout of documents of these lengths, in tokens."""
        bounds = accumulate(lengths, initial=0)
        return cls(segments=tuple(Segment(start=start, end=end) for start, end in pairwise(bounds)))

    @classmethod
    def of_pairs(cls, lengths: Sequence[tuple[int, int, int]]) -> "RowLayout":
        """Layout of preference pairs, each a prompt and two answers of these lengths, the prompt held once.

        The first answer follows the prompt; the second sees the prompt and itself, and has the same positions.
        """
        segments = []
        place = 0
        for prompt, first, second in lengths:
            fork, end = place + prompt + first, place + prompt + first + second
            segments += [Segment(start=place, end=fork), Segment(start=fork, end=end, prefix=(place, place + prompt))]
            place = end
        return cls(segments=tuple(segments))

    def positions(self, device: torch.device) -> torch.Tensor:
        """Position of every token in its own document, int64, shape `[1, tokens]`."""
        parts = [
            torch.arange(each.prefix_length, each.prefix_length + each.end - each.start, device=device)
            for each in self.segments
        ]
        return torch.cat(parts).unsqueeze(0)

    def offsets(self, device: torch.device) -> Offsets:
        """Bounds of the segments and of what they see, for the variable-length kernel."""
        lengths = [segment.end - segment.start for segment in self.segments]
        prefixes = [segment.prefix for segment in self.segments]
        found: Offsets = self.once(("offsets", device), lambda: offsets(lengths, prefixes, device))
        return found

    def block_mask(self, device: torch.device, window: int | None) -> Any:
        """FlexAttention's mask of the row."""

        def make() -> Any:
            counts = torch.tensor([segment.end - segment.start for segment in self.segments])

            def spread(values: Sequence[int]) -> torch.Tensor:
                return torch.tensor(values).repeat_interleave(counts).to(device)

            places = Places(
                segment=spread(range(len(self.segments))),
                position=self.positions(device)[0],
                prefix_start=spread([segment.prefix[0] for segment in self.segments]),
                prefix_end=spread([segment.prefix[1] for segment in self.segments]),
            )
            return block_mask(places, window)

        return self.once(("blocks", device, window), make)


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
    is_causal: bool | None = None,
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
        is_causal: False where every token sees every other, as in a vision tower; there are no documents then.

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
    if is_causal is False:
        # A vision tower's layer: what it is given sees all of itself.
        found = scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return found.transpose(1, 2).contiguous(), None
    layout = row_layout or RowLayout.of_lengths([query.shape[2]])
    kernel = choose_kernel(query.device, query.dtype, head=query.shape[3])
    if kernel is Kernel.VARLEN and not dropout and (varlen := varlen_kernel()) is not None:
        where = layout.offsets(query.device)
        return varlen_attention(query, key, value, where, scale=scaling, window=sliding_window, kernel=varlen), None
    if kernel is Kernel.FLEX and not dropout:
        blocks = layout.block_mask(query.device, sliding_window)
        return flex_row_attention(query, key, value, blocks, scale=scaling), None
    return _by_document(query, key, value, layout, scaling=scaling, dropout=dropout, window=sliding_window), None


def _by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: RowLayout,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Scaled dot-product attention, document by document; arguments and result as of `document_attention`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # Split, not sliced: a slice's gradient would be a whole row of zeros for every document.
    lengths = [segment.end - segment.start for segment in layout.segments]
    parts = zip(layout.segments, *(torch.split(each, lengths, dim=2) for each in (query, key, value)), strict=True)
    outputs: list[torch.Tensor] = []
    last: tuple[Segment, torch.Tensor, torch.Tensor] | None = None
    for segment, queries, keys, values in parts:
        if segment.prefix_length:
            assert last is not None, "a prefix lies in a segment before"
            before = slice(segment.prefix[0] - last[0].start, segment.prefix[1] - last[0].start)
            keys = torch.cat([last[1][:, :, before], keys], dim=2)
            values = torch.cat([last[2][:, :, before], values], dim=2)
        else:
            last = (segment, keys, values)
        mask = layout.once((segment, window, query.device), partial(_mask, segment, window, query.device))
        outputs.append(
            scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None and segment.end - segment.start > 1,
                scale=scaling,
            )
        )
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous()


def _mask(segment: Segment, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which token (row) sees which of prefix and segment (column), bool; None where plain causality says it."""
    total = segment.prefix_length + segment.end - segment.start
    if not segment.prefix_length and (not window or total <= window):
        return None
    index = torch.arange(total, device=device)
    distance = index[segment.prefix_length :, None] - index[None, :]
    return (distance >= 0) & (distance < (window or total))


AttentionInterface.register(IMPLEMENTATION, document_attention)
