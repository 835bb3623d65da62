"""How per-document attention is computed: kernels, and the rule that chooses between them.

| rows | device | kernel |
|---|---|---|
| any | CPU | scaled dot-product attention, document by document |
| documents in bf16 or fp16, heads up to 256 | accelerator whose torch has it | one variable-length call a row |
| pairs, whose answers share a prompt; fp32; other heads | accelerator | FlexAttention with the row's blocks |

`SLUICE_ATTENTION` (`documents`, `varlen`, `flex`) overrides it, for instance where a kernel misbehaves on a device.
What a kernel needs to know of a row (offsets, blocks) is worked out once a row, not once a layer.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError

VARIABLE = "SLUICE_ATTENTION"
"""Environment variable that names a kernel for every row."""
LARGEST_VARLEN_HEAD = 256
"""Head sizes beyond which FlashAttention has no kernel (its documentation)."""


class Kernel(StrEnum):
    """How attention is computed."""

    DOCUMENTS = "documents"
    """Scaled dot-product attention, document by document."""
    VARLEN = "varlen"
    """One FlashAttention call for all documents of a row."""
    FLEX = "flex"
    """FlexAttention with a block mask; compiled on an accelerator."""


@cache
def varlen_kernel() -> Callable[..., torch.Tensor] | None:
    """torch's variable-length attention; None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    found: Any = varlen_attn
    return found  # type: ignore[no-any-return]


def choose_kernel(
    device: torch.device, dtype: torch.dtype, *, head: int, prefixes: bool, asked: str | None = None
) -> Kernel:
    """The kernel for a row, by the table above.

    Args:
        device: where it is computed.
        dtype: of queries.
        head: size of a head.
        prefixes: whether segments share prefixes, as preference pairs do.
        asked: overrides the table; None reads `SLUICE_ATTENTION`.

    Raises:
        WorkerError: `UserError` for a kernel that there is not, or that cannot compute the row.
    """
    wish = os.environ.get(VARIABLE, "") if asked is None else asked
    can_varlen = (
        not prefixes
        and dtype in (torch.bfloat16, torch.float16)
        and head <= LARGEST_VARLEN_HEAD
        and varlen_kernel() is not None
    )
    if wish:
        if wish not in list(Kernel):
            message = f"{VARIABLE} is {wish!r}: it must be one of {', '.join(Kernel)}"
            raise WorkerError(FailureClass.USER_ERROR, message)
        if wish == Kernel.VARLEN and not can_varlen:
            # The table's answer, not an error: one run has rows of both kinds where pairs are longer than a document.
            return Kernel.FLEX if device.type != "cpu" else Kernel.DOCUMENTS
        return Kernel(wish)
    if device.type == "cpu":
        return Kernel.DOCUMENTS
    return Kernel.VARLEN if can_varlen else Kernel.FLEX


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """Where a row's documents begin, for the variable-length kernel."""

    bounds: torch.Tensor
    """First token of every document and one past the last, int32."""
    longest: int
    """Tokens of the longest document."""


def offsets(lengths: list[int], device: torch.device) -> Offsets:
    """Offsets of documents of these lengths."""
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Offsets(bounds=bounds.to(device), longest=max(lengths))


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    where: Offsets,
    *,
    scale: float | None,
    window: int | None,
    kernel: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """Causal attention of all documents of a row at once; shapes `[1, heads, tokens, size]`, result `[1, tokens, …]`.

    `kernel` has the signature of `torch.nn.attention.varlen.varlen_attn`.
    """
    flat = (each[0].transpose(0, 1) for each in (query, key, value))
    result = kernel(
        *flat,
        where.bounds,
        where.bounds,
        where.longest,
        where.longest,
        scale=scale,
        # The kernel counts tokens before; the model, the token itself as well.
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result.unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class Places:
    """What every token of a row belongs to and may see besides; int64, shape `[tokens]` each."""

    segment: torch.Tensor
    """Number of its segment."""
    position: torch.Tensor
    """Position in its document."""
    prefix_start: torch.Tensor
    """First token of its segment's prefix."""
    prefix_end: torch.Tensor
    """One past the last token of its segment's prefix."""


def block_mask(places: Places, window: int | None) -> Any:
    """FlexAttention's mask of a row: a token sees its segment and its prefix, as far as they lie before it."""
    tokens = places.segment.shape[0]

    def sees(batch: torch.Tensor, head: torch.Tensor, at: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        own = places.segment[at] == places.segment[other]
        before = (other >= places.prefix_start[at]) & (other < places.prefix_end[at])
        distance = places.position[at] - places.position[other]
        near = distance < window if window else distance < tokens
        return (own | before) & (distance >= 0) & near

    return create_block_mask(sees, None, None, tokens, tokens, device=places.segment.device)


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


def flex_row_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, *, scale: float | None
) -> torch.Tensor:
    """Attention of a row through its block mask; shapes `[1, heads, tokens, size]`, result `[1, tokens, heads, size]`.

    On a CPU it is computed as written, without gradients: slow, and the same numbers.
    """
    function: Any = flex_attention if query.device.type == "cpu" else _compiled()
    result: torch.Tensor = function(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return result.transpose(1, 2).contiguous()
