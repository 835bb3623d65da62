"""What a run will need, before it is started: weights, adapter, optimizer, activations of a row.

An estimate decides three things early: whether a row's activations are kept or computed again in the backward pass
(activation checkpointing, about a fifth slower), whether every worker holds the whole base or a part of it (`ddp`,
`fsdp`), and whether the run can fit at all. Activations are counted from what
autograd keeps for a layer of the usual shape, with the fused layers of `fused`; a test holds the count against what is
really kept. Peak use is higher than the sum by what is in flight, for which a share of the memory is set aside.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.head import CHUNK_LOGITS
from sluice_trainer.sharding import layers_of

SET_ASIDE = 0.1
"""Share of the memory for what is in flight and for fragmentation."""
PROCESS_BYTES = 2**30
"""Bytes of the process itself, libraries and data, where the model lies in the worker's own memory."""
OPTIMIZER_BYTES = 16
"""Bytes of a trained parameter in fp32: itself, its gradient and AdamW's two moments."""
GIB = 2**30
_BUILD = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size")
"""Fields of a configuration that the count of activations needs."""


class Checkpointing(StrEnum):
    """Whether activations are computed again in the backward pass."""

    AUTO = "auto"
    """Only where they would not fit."""
    ON = "on"
    """Always."""
    OFF = "off"
    """Never."""


class Strategy(StrEnum):
    """Who holds the base's weights."""

    AUTO = "auto"
    """Every worker, unless they would not fit."""
    DDP = "ddp"
    """Every worker; gradients of what is trained are added up."""
    FSDP = "fsdp"
    """Each worker a part of every layer; see `sharding`."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the estimate has to know of a model."""

    parameters: int
    """Frozen parameters."""
    trained: int
    """Trained parameters."""
    in_layers: int = 0
    """Frozen parameters of all layers together: what can be shared out; 0 where the layers are not known."""
    layers: int
    """Layers."""
    hidden: int
    """Width."""
    query: int
    """Query heads × their size."""
    key: int
    """Key heads × their size."""
    middle: int
    """Width of the gated unit; of all experts that see a token, in a mixture."""
    vocabulary: int
    """Tokens."""
    width: int
    """Bytes of an activation and of a frozen weight."""
    dropped: int = 0
    """Bytes of a token and layer that dropout before the updates keeps: its result, in fp32, and what it left out."""

    @classmethod
    def of(cls, model: Any, width: int, *, on_cpu: bool = False) -> "Shape":
        """Shape of a transformers model with an adapter; `width` in bytes.

        On a CPU dropout keeps the factors it multiplied by, on an accelerator a byte a number.

        Raises:
            WorkerError: `UserError` for a base of another build than the decoders that training is made for.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = base.config.get_text_config()
        _check_build(config)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        experts = getattr(config, "num_experts_per_tok", None)
        middle = (experts or 1) * (getattr(config, "moe_intermediate_size", None) or config.intermediate_size)
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        own = {
            parameter for layer in layers_of(model) for parameter in layer.parameters() if not parameter.requires_grad
        }
        return cls(
            parameters=sum(count for count, trained in counts if not trained),
            trained=sum(count for count, trained in counts if trained),
            in_layers=sum(parameter.numel() for parameter in own),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            query=heads * size,
            key=keys * size,
            middle=middle,
            vocabulary=config.vocab_size,
            width=width,
            dropped=_dropped_inputs(model) * (4 + (4 if on_cpu else 1)) // config.num_hidden_layers,
        )


def _check_build(config: Any) -> None:
    """Refuse what does not describe itself as decoders with rotary positions and a gated unit do, GPT-2 for one."""
    of_experts = {"intermediate_size"} if getattr(config, "moe_intermediate_size", None) else set()
    lacking = [name for name in _BUILD if name not in of_experts and not getattr(config, name, None)]
    if lacking:
        message = (
            f"spec.baseModel: model type {config.model_type} cannot be trained here, its config.json has no "
            f"{', '.join(lacking)}: name a base of the build of Llama, Mistral or Qwen"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)


def _dropped_inputs(model: Any) -> int:
    """Widths of the inputs, all layers together, that have dropout before a low-rank update."""
    return sum(
        module.in_features
        for module in model.modules()
        if isinstance(module, LoraLinear)
        and any(isinstance(each, torch.nn.Dropout) for each in module.lora_dropout.values())
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes that a run needs at its peak."""

    weights: int
    """Frozen weights."""
    optimizer: int
    """Trained parameters, gradients, moments."""
    activations: int
    """What is kept of a row's forward pass."""
    head: int
    """One chunk of logits and its gradient, and the gradient of the hidden states."""
    checkpointing: bool
    """Whether activations are computed again."""
    sharded: bool = False
    """Whether the layers' weights are shared out over the workers."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.activations + self.head

    def __str__(self) -> str:
        """The sum and its parts, in GiB."""
        parts = ("weights", "optimizer", "activations", "head")
        return f"{self.total / GIB:.2f} GiB (" + ", ".join(f"{p} {getattr(self, p) / GIB:.2f}" for p in parts) + ")"


def layer_activations(shape: Shape) -> int:
    """Bytes that autograd keeps of one token in one layer.

    Inputs of both norms and their results (4 hidden); queries and keys before and after their norm or rotation, values,
    and the attention's output (4 query, 5 key); the gated unit's two inputs and its result (3 middle). With dropout the
    fused update (`fused`) is not used, and each adapted layer keeps an input of its own.
    """
    return shape.width * (4 * shape.hidden + 4 * shape.query + 5 * shape.key + 3 * shape.middle) + shape.dropped


def estimate(shape: Shape, row_tokens: int, *, checkpointing: bool, shards: int = 1) -> Estimate:
    """Bytes of a worker of a run whose longest row has `row_tokens` tokens.

    With the layers' weights in several `shards`, two layers are whole at a time: the one that computes, and the next.
    """
    kept = layer_activations(shape)
    everything = row_tokens * shape.layers * kept
    # Only the inputs of the layers are kept; one layer at a time is computed again.
    inputs = row_tokens * (shape.layers * shape.width * shape.hidden + kept)
    whole = shape.parameters
    if shards > 1:
        whole += min(0, shape.in_layers // shards + 2 * shape.in_layers // shape.layers - shape.in_layers)
    return Estimate(
        weights=whole * shape.width,
        optimizer=shape.trained * OPTIMIZER_BYTES,
        activations=inputs if checkpointing else everything,
        head=2 * 4 * min(CHUNK_LOGITS, row_tokens * shape.vocabulary) + 2 * shape.width * row_tokens * shape.hidden,
        checkpointing=checkpointing,
        sharded=shards > 1,
    )


def plan_memory(
    shape: Shape,
    row_tokens: int,
    wish: Checkpointing,
    memory: int | None,
    *,
    shared: bool = False,
    strategies: Sequence[Strategy] = (Strategy.DDP,),
    workers: int = 1,
) -> Estimate:
    """Choose strategy and activation checkpointing, and refuse what cannot fit.

    The first that fits is taken, of the strategies in order, each without checkpointing before it is tried with.

    Args:
        shape: the model.
        row_tokens: tokens of the longest row.
        wish: what the run asks for.
        memory: bytes that a worker has; None where nobody knows, and nothing is refused.
        shared: whether the process itself lies there too, as on a CPU.
        strategies: `ddp` and `fsdp` in order of preference; see `strategies_for`.
        workers: how many share the weights out where they are.

    Raises:
        WorkerError: `OutOfMemory`, with the sums and what to change.
    """
    usable = None if memory is None else int((memory - PROCESS_BYTES * shared) * (1 - SET_ASIDE))
    again = {Checkpointing.ON: (True,), Checkpointing.OFF: (False,), Checkpointing.AUTO: (False, True)}[wish]
    found = estimate(shape, row_tokens, checkpointing=again[-1])
    for strategy, checkpointing in itertools.product(strategies, again):
        shards = workers if strategy is Strategy.FSDP else 1
        found = estimate(shape, row_tokens, checkpointing=checkpointing, shards=shards)
        if usable is None or found.total <= usable:
            return found
    remedy = "" if found.checkpointing else "set sequence.activationCheckpointing to auto or, in quotes, to 'on', "
    if not found.sharded and shape.in_layers:
        remedy += "share the weights out over several workers (strategy fsdp, workers), "
    message = (
        f"the run needs about {found}, a worker of the profile has {max(usable or 0, 0) / GIB:.2f} GiB to use: {remedy}"
        f"lower sequence.maxLength (a row has {row_tokens} tokens) or lora.rank, or choose a profile with more memory"
    )
    raise WorkerError(FailureClass.OUT_OF_MEMORY, message)


def strategies_for(wish: Strategy, *, workers: int, probing: bool) -> tuple[Strategy, ...]:
    """What a run may use, in order of preference.

    One worker has nobody to share with, so that `fsdp` leaves it nothing; and a probe is answered by the first worker
    alone, which then needs all weights.
    """
    if wish is Strategy.AUTO:
        return (Strategy.DDP, Strategy.FSDP) if workers > 1 and not probing else (Strategy.DDP,)
    return () if wish is Strategy.FSDP and workers < 2 else (wish,)
