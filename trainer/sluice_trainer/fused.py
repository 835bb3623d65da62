"""The three layers that LoRA training spends its time in besides matrix products, each with its gradient written out.

peft and transformers compute these as chains of elementwise operations, each of which reads and writes every activation
and keeps its input for the backward pass. Written as one function with a known gradient, they read less and keep less:

- a linear layer with an update of low rank: `y = x Wᵀ + (s x Aᵀ) Bᵀ`; the factor s is applied to the narrow product,
  and the update is added in place (the idea of LoRAFusion, arXiv 2510.00206, by matrix products alone);
- root mean square normalisation: keeps its input and one number a token;
- the gated unit `silu(g) * u`: keeps g and u.

Names, parameters and results stay those of the model. What is not exactly one of these layers is left as it is.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn.functional import silu

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, for which a layer counts as the one that it looks like."""


class _LowRankLinear(torch.autograd.Function):
    """`x Wᵀ + b + (s x Aᵀ) Bᵀ` with a frozen W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Result of shape `[..., out]`; keeps x and the narrow product."""
        rows = x.reshape(-1, x.shape[-1])
        narrow = (rows @ down.to(x.dtype).t()).mul_(scale)
        output = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        output.addmm_(narrow, up.to(x.dtype).t())
        ctx.save_for_backward(rows, narrow, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B, those that are asked for."""
        rows, narrow, weight, down, up = ctx.saved_tensors
        gradient = grads[0].reshape(-1, grads[0].shape[-1])
        of_x, of_down, of_up = (ctx.needs_input_grad[place] for place in (0, 3, 4))
        through = (gradient @ up.to(gradient.dtype)).mul_(ctx.scale)
        gradient_up = (gradient.t() @ narrow).to(up.dtype) if of_up else None
        gradient_down = (through.t() @ rows).to(down.dtype) if of_down else None
        gradient_x = None
        if of_x:
            gradient_x = (gradient @ weight).addmm_(through, down.to(gradient.dtype)).view(ctx.shape)
        return gradient_x, None, None, gradient_down, gradient_up, None


class _RootMeanSquareNorm(torch.autograd.Function):
    """`w x / sqrt(mean(x²) + ε)`, the mean and the division in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Result of x's shape; keeps x and one factor a row."""
        wide = _wide(x)
        factor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        factor = factor.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, factor, weight)
        result: torch.Tensor = (wide * factor).to(x.dtype) * weight
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and w."""
        x, factor, weight = ctx.saved_tensors
        wide, gradient = _wide(x), _wide(grads[0])
        gradient_weight = None
        if ctx.needs_input_grad[1]:
            gradient_weight = (gradient * wide * factor).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        result = gradient * _wide(weight)
        projection = (result * wide).sum(-1, keepdim=True).mul_(factor**3 / x.shape[-1])
        result.mul_(factor).addcmul_(wide, projection, value=-1)
        return result.to(x.dtype), gradient_weight, None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """At least fp32."""
    return x if x.dtype.itemsize >= 4 else x.float()


class _GatedUnit(torch.autograd.Function):
    """`silu(g) * u`."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Result of the inputs' shape; keeps the inputs."""
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`g u σ (1 + x (1 - σ))` and `g silu(x)`."""
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), silu(gate).mul_(grads[0])


def fuse(model: Any) -> Any:
    """Let a model with an adapter compute these layers by the functions above; returns the model.

    A layer is left as it is where it does more than they do: dropout, another variant of the update, a layer that is no
    plain linear one, a norm or a gate of another form.
    """
    norms: dict[type, bool] = {}
    for module in model.modules():
        if type(module) is LoraLinear:
            if _is_plain(module):
                module.forward = MethodType(_low_rank_forward, module)
        elif type(module).__name__.endswith("RMSNorm"):
            if type(module) not in norms:
                norms[type(module)] = _is_usual_norm(module)
            if norms[type(module)]:
                module.forward = MethodType(_norm_forward, module)
        elif type(module).__name__.endswith("MLP") and _is_usual_gate(module):
            module.forward = MethodType(_gated_forward, module)
    return model


def _is_plain(module: Any) -> bool:
    base = module.get_base_layer()
    names = list(module.lora_A)
    return (
        type(base) is torch.nn.Linear
        and len(names) == 1
        and not module.lora_variant
        and not module.fan_in_fan_out
        and isinstance(module.lora_dropout[names[0]], torch.nn.Identity)
        and module.lora_B[names[0]].bias is None
    )


def _low_rank_forward(module: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    (name,) = module.lora_A
    if module.disable_adapters or module.merged or name not in module.active_adapters:
        plain: torch.Tensor = type(module).forward(module, x, *args, **kwargs)
        return plain
    base = module.get_base_layer()
    result: torch.Tensor = _LowRankLinear.apply(
        x, base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
    )
    return result


def _norm_forward(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _RootMeanSquareNorm.apply(hidden_states, module.weight, module.variance_epsilon)
    return result


def _is_usual_norm(module: Any) -> bool:
    """Whether the class computes what `_RootMeanSquareNorm` does; tried out, since names promise nothing."""
    if not hasattr(module, "variance_epsilon") or getattr(module, "weight", None) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(3, module.weight.shape[0], generator=generator).to(module.weight)
    with torch.no_grad():
        return _agree(module(sample), _RootMeanSquareNorm.apply(sample, module.weight, module.variance_epsilon))


def _gated_forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = module.down_proj(_GatedUnit.apply(module.gate_proj(x), module.up_proj(x)))
    return result


def _is_usual_gate(module: Any) -> bool:
    """Whether the module computes `down(silu(gate(x)) * up(x))`; tried out."""
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    weight = module.gate_proj.weight
    sample = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        return _agree(module(sample), _gated_forward(module, sample))


def _agree(left: torch.Tensor, right: torch.Tensor) -> bool:
    bound = TOLERANCE if left.dtype == torch.float32 else 100 * TOLERANCE
    return bool((left - right).abs().max() <= bound * (1 + left.abs().max()))
