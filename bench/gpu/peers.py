"""TRL at further settings, those that an accelerator allows or asks for.

Packed rows are filled up to one length, so that nothing is compiled again for another: what fills them are a few per
cent, and a compilation takes a minute. A whole step of padded pairs or pictures with its activations does not fit into
the memory of one accelerator, so that TRL takes it in two batches, or computes activations again: the faster counts.
"""

from typing import Any

import workload
from contenders import Ready, sft_trl, trl_on_pairs


def _filled(toy: workload.Toy) -> dict[str, Any]:
    return {"packing": True, "per_device_train_batch_size": 1, "pad_to_multiple_of": toy.row}


def in_halves(batch: int) -> dict[str, Any]:
    """TRL's settings for a step in two batches, each padded by itself, with gradients added up."""
    return {"per_device_train_batch_size": max(1, batch // 2), "gradient_accumulation_steps": 2 if batch > 1 else 1}


def recomputed(batch: int) -> dict[str, Any]:
    """TRL's settings for a step in one batch, with activations computed again in the backward pass."""
    return {"per_device_train_batch_size": batch, "activation_checkpointing": True}


def sft_flex(ready: Ready, toy: workload.Toy) -> None:
    """Packed rows through FlexAttention."""
    sft_trl(ready, toy, attention="flex_attention", **_filled(toy))


def sft_compiled(ready: Ready, toy: workload.Toy) -> None:
    """Packed rows through FlexAttention, every layer compiled."""
    sft_trl(ready, toy, attention="flex_attention", compiled=True, **_filled(toy))


def dpo_in_halves(ready: Ready, toy: workload.Toy) -> None:
    """The step's pairs in two batches."""
    trl_on_pairs(ready, toy, **in_halves(toy.pairs))


def dpo_recomputed(ready: Ready, toy: workload.Toy) -> None:
    """The step's pairs in one batch, with activations computed again."""
    trl_on_pairs(ready, toy, **recomputed(toy.pairs))
