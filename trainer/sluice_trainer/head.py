"""The loss head: cross-entropy on scored tokens only, without ever holding the logits of a whole row.

Logits are the largest tensor of a training step (scored tokens × vocabulary). The head of a LoRA run is frozen, so its
gradient is not needed; the gradient of the hidden states is known in closed form, `(softmax − one-hot) · W`, and is
computed chunk by chunk together with the loss. Peak memory is one chunk of logits, whatever the row.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.vision import see

CHUNK_LOGITS = 2**25
"""Logits in memory at a time: 128 MiB in fp32."""


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross-entropies through a frozen linear head; see `frozen_head_losses`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        """Losses, and the gradient of `hidden` put by for `backward` where it is asked for."""
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        chunk = max(1, CHUNK_LOGITS // weight.shape[0])
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, min(start + chunk, hidden.shape[0]))
            logits = torch.nn.functional.linear(hidden[rows], weight, bias)
            index = targets[rows].unsqueeze(1)
            # In place where it can be: chunks are large, and every pass over one counts.
            place = logits if logits.dtype == torch.float32 else None
            logs = torch.log_softmax(logits, dim=1, dtype=torch.float32, out=place)
            losses[rows] = -logs.gather(1, index).squeeze(1)
            if gradient is None:
                continue
            logs.exp_().scatter_add_(1, index, torch.full_like(index, -1, dtype=logs.dtype))
            gradient[rows] = logs.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The stored gradient, each row scaled by what its loss is worth."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype).unsqueeze(1), None, None, None


def check_tokens(model: Any, documents: Iterable[NDArray[np.int64]]) -> None:
    """Refuse tokens that the model has no embedding or no output for; on an accelerator they would end the process.

    Args:
        model: a transformers causal model, adapted or not.
        documents: token ids, int64, shape `[n]` each.

    Raises:
        WorkerError: `UserError`, naming the largest token.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    tables = (causal.get_input_embeddings(), causal.get_output_embeddings())
    known = min(int(table.weight.shape[0]) for table in tables if table is not None)
    largest = max((int(ids.max()) for ids in documents if ids.size), default=-1)
    if largest >= known:
        message = (
            f"the base model's tokenizer writes token {largest}, its weights know {known} tokens (0 to {known - 1}): "
            "give the base the tokenizer that was saved with these weights"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)


def frozen_head_losses(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of `head(hidden)` against `targets`, in nats, fp32, shape `[scored]`.

    Args:
        hidden: shape `[scored, size]`.
        head: a frozen linear layer, size → vocabulary.
        targets: token ids, int64, shape `[scored]`.
    """
    result: torch.Tensor = _FrozenHeadLoss.apply(hidden, head.weight, head.bias, targets)
    return result


def scored_losses(model: Any, inputs: dict[str, Any], predictors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropies of the scored tokens of one row, in nats, fp32, shape `[scored]`.

    Args:
        model: a transformers causal model, adapted or not.
        inputs: what its `forward` takes: `input_ids` of shape `[1, tokens]`, positions, layout.
        predictors: places whose output predicts a scored token, int64, shape `[scored]`.
        targets: the scored tokens, int64, shape `[scored]`.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = causal.get_output_embeddings()
    seen = "pixel_values" in inputs
    if seen:
        inputs = see(causal, inputs)
    if is_plain_head(causal, head):
        # The base model of one that sees places the pictures; its decoder alone knows of none.
        body = causal.base_model if seen else causal.get_decoder()
        hidden = body(**inputs).last_hidden_state[0].index_select(0, predictors)
        return frozen_head_losses(hidden, head, targets)
    logits = model(**inputs, logits_to_keep=predictors).logits[0]
    return cross_entropy(logits.float(), targets, reduction="none")


def is_plain_head(causal: Any, head: Any) -> bool:
    """Whether logits are exactly a frozen linear layer of the decoder's output: no scaling, capping or adapter."""
    scaled = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
    return (
        type(head) is torch.nn.Linear
        and not any(parameter.requires_grad for parameter in head.parameters())
        and all(getattr(causal.config, name, None) in (None, 1, 1.0) for name in scaled)
    )
