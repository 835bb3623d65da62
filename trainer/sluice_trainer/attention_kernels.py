"""How per-document attention is computed: kernels, and the rule that chooses between them.

| rows | device | kernel |
|---|---|---|
| any | CPU | scaled dot-product attention, document by document |
| bf16 or fp16, heads up to 256 | accelerator whose torch has it | one variable-length call a row, also for pairs |
| fp32; other heads | accelerator | FlexAttention with the row's blocks |

The variable-length call has bounds of its own for queries and for keys, and aligns a shorter run of queries with the
end of its keys. So an answer that shares a prompt is given the prompt's keys and values before its own, gathered by
index: nothing but these copies is spent on sharing, and no mask is built.

`SLUICE_ATTENTION` (`documents`, `varlen`, `flex`) overrides it, for instance where a kernel misbehaves on a device.
What a kernel needs to know of a row (offsets, blocks) is worked out once a row, not once a layer.
"""

import inspect
import os
from collections.abc import Callable, Sequence
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
    """One FlashAttention call for all segments of a row."""
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


@cache
def _names_groups(kernel: Callable[..., torch.Tensor]) -> bool:
    """Whether a kernel must be told of fewer key heads than heads: torch 2.11 takes them as they are."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def choose_kernel(device: torch.device, dtype: torch.dtype, *, head: int, asked: str | None = None) -> Kernel:
    """The kernel for a row, by the table above.

    Args:
        device: where it is computed.
        dtype: of queries.
        head: size of a head.
        asked: overrides the table; None reads `SLUICE_ATTENTION`.

    Raises:
        WorkerError: `UserError` for a kernel that there is not, or that cannot compute the row.
    """
    wish = os.environ.get(VARIABLE, "") if asked is None else asked
    narrow = dtype in (torch.bfloat16, torch.float16)
    fits = narrow and head <= LARGEST_VARLEN_HEAD
    can_varlen = device.type != "cpu" and fits and varlen_kernel() is not None
    if wish:
        if wish not in list(Kernel):
            message = f"{VARIABLE} is {wish!r}: it must be one of {', '.join(Kernel)}"
            raise WorkerError(FailureClass.USER_ERROR, message)
        if wish == Kernel.VARLEN and not can_varlen:
            # The table's answer, not an error: a model may compute some of its layers in fp32.
            return Kernel.FLEX if device.type != "cpu" else Kernel.DOCUMENTS
        return Kernel(wish)
    if device.type == "cpu":
        return Kernel.DOCUMENTS
    return Kernel.VARLEN if can_varlen else Kernel.FLEX


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """Where a row's segments and what they see begin, for the variable-length kernel."""

    bounds: torch.Tensor
    """First token of every segment and one past the last, int32."""
    longest: int
    """Tokens of the longest segment."""
    key_bounds: torch.Tensor
    """The same of what segments see, prefix and themselves; the very tensor `bounds` where no segment has a prefix."""
    longest_key: int
    """Tokens of the longest of these."""
    gathered: torch.Tensor | None
    """Places in the row of what each segment sees, one segment after the other, int64; None where nothing is shared."""


def offsets(lengths: Sequence[int], prefixes: Sequence[tuple[int, int]], device: torch.device) -> Offsets:
    """Offsets of segments of these lengths with these prefixes (first token, and one past the last)."""
    bounds = _bounds(lengths)
    placed = bounds.to(device)
    if all(start == end for start, end in prefixes):
        # One tensor for both: kernels that align queries with the beginning of their keys are then as good.
        longest = max(lengths)
        return Offsets(bounds=placed, longest=longest, key_bounds=placed, longest_key=longest, gathered=None)
    seen = [length + end - start for length, (start, end) in zip(lengths, prefixes, strict=True)]
    parts = [
        torch.arange(first, last)
        for (start, end), own, after in zip(prefixes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        for first, last in ((start, end), (own, after))
    ]
    return Offsets(
        bounds=placed,
        longest=max(lengths),
        key_bounds=_bounds(seen).to(device),
        longest_key=max(seen),
        gathered=torch.cat(parts).to(device),
    )


def _bounds(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


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
    """Causal attention of all segments of a row at once; shapes `[1, heads, tokens, size]`, result `[1, tokens, …]`.

    `kernel` has the signature of `torch.nn.attention.varlen.varlen_attn`, with or without `enable_gqa`.
    """
    queries, keys, values = (each[0].transpose(0, 1) for each in (query, key, value))
    if where.gathered is not None:
        keys, values = keys.index_select(0, where.gathered), values.index_select(0, where.gathered)
    groups = {"enable_gqa": query.shape[1] != key.shape[1]} if _names_groups(kernel) else {}
    result = kernel(
        queries,
        keys,
        values,
        where.bounds,
        where.key_bounds,
        where.longest,
        where.longest_key,
        scale=scale,
        # The kernel counts tokens before; the model, the token itself as well.
        window_size=(window - 1 if window else -1, 0),
        **groups,
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
