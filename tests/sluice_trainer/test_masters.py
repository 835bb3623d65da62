"""What is trained is fp32 where the base is not: a tiny mixture of experts in bf16, as a base is on an accelerator."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from documents import row_loss, tokenize_rows
from loop_runs import Recorder
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.dataset import SftRow
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.fused import fuse
from sluice_trainer.loop import LoopConfig, train
from sluice_trainer.model import (
    LoraSettings,
    adapter_config,
    adapter_state,
    add_adapter,
    continue_adapter,
    hold_masters,
    read_again,
    trained_parameters,
)
from sluice_trainer.parameter_groups import role_of
from sluice_trainer.plan import PlanConfig, build_plan
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.schedule import Schedule
from tiny_models import sft_row, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(4)], tiny_tokenizer())
SETTINGS = LoraSettings(rank=4, alpha=8, roles=frozenset({"norm", "router", "experts"}))
RATE = 2e-5


def base() -> Any:
    model = tiny_model(tiny_tokenizer(), architecture="qwen3_moe").to(torch.bfloat16).requires_grad_(False)
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def test_norms_and_routers_move_by_a_small_rate_and_the_file_holds_what_moved(tmp_path: Path) -> None:
    plain = fuse(add_adapter(base(), SETTINGS, seed=5))
    model = hold_masters(fuse(add_adapter(base(), SETTINGS, seed=5)))
    assert torch.equal(row_loss(model, DOCUMENTS, CPU), row_loss(plain, DOCUMENTS, CPU)), "computed as before"
    parameters = trained_parameters(model)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    plan = build_plan(sft_sizes(DOCUMENTS), PlanConfig(max_length=300, tokens_per_step=2000, max_steps=1))
    schedule = Schedule(peak=RATE, steps=1, decay="constant", warmup_ratio=0.0)
    hooks = Recorder()
    train(plan, hooks, recipe=SftRecipe(model, DOCUMENTS, parameters, CPU), config=LoopConfig(schedule=schedule))
    for name, parameter in parameters.items():
        if role_of(name) in ("norm", "router"):
            moved = (parameter - before[name]).abs().max()
            assert 0.5 * RATE < moved < 1.5 * RATE, name
    snapshot = hooks.snapshots[1]
    assert all(torch.equal(snapshot.parameters[name], parameter) for name, parameter in parameters.items())
    state = adapter_state(model)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}

    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(adapter_config(model, ModelRef(uri="file:///base")))
    child = read_again(hold_masters(fuse(continue_adapter(base(), tmp_path, SETTINGS))), tmp_path)
    again = adapter_state(child)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
