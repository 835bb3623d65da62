"""Layers with their gradients written out: the numbers of peft and transformers, and left alone where unlike."""

from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd import gradcheck

from sluice_trainer.fused import _GatedUnit, _LowRankLinear, _RootMeanSquareNorm, fuse
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def adapted(architecture: str, **options: Any) -> Any:
    model = tiny_model(tiny_tokenizer(), architecture=architecture)
    torch.manual_seed(1)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    settings |= {"modules_to_save": ["input_layernorm"]}
    made = get_peft_model(model, LoraConfig(**(settings | options))).train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def replaced(model: Any) -> set[str]:
    """Classes of the modules whose forward is one of ours."""
    return {type(m).__name__ for m in model.modules() if isinstance(vars(m).get("forward"), MethodType)}


def run(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.randint(5, 200, (2, 17), generator=torch.Generator().manual_seed(3))
    logits = model(input_ids=ids, use_cache=False).logits
    model.zero_grad()
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
def test_outputs_and_gradients_are_those_of_the_layers_that_are_replaced(architecture: str) -> None:
    expected, wanted = run(adapted(architecture))
    model = fuse(adapted(architecture))
    assert len(replaced(model)) == 3, "a linear layer, a norm and a gate"
    found, gradients = run(model)
    assert torch.allclose(found, expected, atol=1e-5)
    assert gradients.keys() == wanted.keys()
    assert any("input_layernorm" in name for name in gradients)
    for name in wanted:
        assert torch.allclose(gradients[name], wanted[name], atol=1e-6, rtol=1e-3), name
    with torch.no_grad(), model.disable_adapter():
        plain = model(input_ids=torch.arange(5, 15)[None]).logits
    with torch.no_grad():
        base = tiny_model(tiny_tokenizer(), architecture=architecture)(input_ids=torch.arange(5, 15)[None]).logits
    assert torch.allclose(plain, base, atol=1e-5), "switched off, it is the base"


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_an_update_of_another_form_is_left_to_peft(options: dict[str, Any]) -> None:
    assert "Linear" not in replaced(fuse(adapted("llama", **options)))


def test_a_norm_and_a_gate_of_another_form_are_left_alone() -> None:
    class OddRMSNorm(torch.nn.Module):
        variance_epsilon = 1e-6

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((8,), 0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    class OddMLP(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (torch.nn.Linear(8, 8) for _ in range(3))
            self.act_fn = torch.nn.GELU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    assert replaced(fuse(torch.nn.Sequential(OddRMSNorm(), OddMLP()))) == set()


def test_the_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    frozen = make(5, 4).detach()
    assert gradcheck(
        lambda x, a, b: _LowRankLinear.apply(x, frozen, frozen[:, 0], a, b, 0.7),
        (make(2, 3, 4), make(2, 4), make(5, 2)),
    )
    assert gradcheck(_GatedUnit.apply, (make(3, 4), make(3, 4)))
    assert gradcheck(lambda x, w: _RootMeanSquareNorm.apply(x, w, 1e-6), (make(3, 6), make(6)))
