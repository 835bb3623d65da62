"""The memory plan: against what autograd really keeps, its choices, its refusals; recomputation changes no gradient."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from documents import row_loss, tokenize_rows
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.fitting import planned, too_few
from sluice_trainer.fused import fuse
from sluice_trainer.memory import GIB, Checkpointing, Shape, Strategy, estimate, plan_memory, strategies_for
from sluice_trainer.model import LoraSettings, add_adapter, recompute_activations, trained_parameters
from sluice_trainer.recipes import SftRecipe
from sluice_trainer.settings import check_job
from tiny_models import sft_row, tiny_model, tiny_tokenizer
from training_jobs import Workplace

CPU = torch.device("cpu")
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(12)], tiny_tokenizer())
LLAMA_8B = Shape(
    parameters=8_030_000_000, trained=42_000_000, layers=32, hidden=4096, query=4096, key=1024, middle=14336,
    vocabulary=128256, width=2, in_layers=6_979_000_000,
)  # fmt: skip


def adapted(architecture: str = "qwen3", dropout: float = 0.0) -> Any:
    base = tiny_model(tiny_tokenizer(), architecture=architecture, layers=4, size=128).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    return fuse(add_adapter(base, LoraSettings(rank=8, alpha=16, dropout=dropout), seed=5))


def kept(model: Any) -> int:
    """Bytes of the distinct activations that autograd keeps for a row."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        row_loss(model, DOCUMENTS, CPU)
    return sum(storages.values())


@pytest.mark.parametrize(("architecture", "dropout"), [("qwen3", 0.0), ("llama", 0.0), ("llama", 0.1)])
def test_the_estimate_is_what_autograd_keeps(architecture: str, dropout: float) -> None:
    """Within a quarter, without the vocabulary's share, which is freed within the step."""
    model = adapted(architecture, dropout)
    tokens = sum(document.length for document in DOCUMENTS)
    expected = estimate(Shape.of(model, 4, on_cpu=True), tokens, checkpointing=False).activations
    assert kept(model) == pytest.approx(expected, rel=0.25)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_a_base_of_another_build_is_a_user_error() -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=64, bos_token_id=0, eos_token_id=0)
    model = add_adapter(GPT2LMHeadModel(config), LoraSettings(rank=2, alpha=4), seed=1)
    with pytest.raises(WorkerError, match=r"model type gpt2 .* no intermediate_size: name a base of") as caught:
        Shape.of(model, 4)
    assert caught.value.failure_class is FailureClass.USER_ERROR


def test_recomputed_activations_are_fewer_and_the_gradients_the_same() -> None:
    plain, again = adapted(), adapted()
    recompute_activations(again)
    assert kept(again) < 0.5 * kept(plain)
    recipes = [SftRecipe(model, DOCUMENTS, trained_parameters(model), CPU) for model in (plain, again)]
    for recipe in recipes:
        recipe.backward(list(range(len(DOCUMENTS))), 100)
    for left, right in zip(*(recipe.parameters.values() for recipe in recipes), strict=True):
        assert left.grad is not None and right.grad is not None
        assert torch.equal(left.grad, right.grad)


def test_an_8b_model_is_planned_as_it_is_known_to_behave() -> None:
    """16 GB of weights in bf16; a full 4k row fits on 80 GB as it is, and on 24 GB only when computed again."""
    whole = estimate(LLAMA_8B, 4096, checkpointing=False)
    assert whole.weights / 1e9 == pytest.approx(16.06, abs=0.01)
    assert not plan_memory(LLAMA_8B, 4096, Checkpointing.AUTO, 80 * GIB).checkpointing
    assert plan_memory(LLAMA_8B, 4096, Checkpointing.AUTO, 24 * GIB).checkpointing
    assert plan_memory(LLAMA_8B, 4096, Checkpointing.ON, 80 * GIB).checkpointing


@pytest.mark.parametrize(
    ("wish", "memory", "shared", "words"),
    [
        (Checkpointing.AUTO, 16 * GIB, False, "lower sequence.maxLength"),
        (Checkpointing.OFF, 24 * GIB, False, "set sequence.activationCheckpointing to auto or, in quotes, to 'on'"),
        (Checkpointing.AUTO, 17 * GIB, True, "14.40 GiB to use"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_to_change(
    wish: Checkpointing, memory: int, shared: bool, words: str
) -> None:
    with pytest.raises(WorkerError, match=words) as caught:
        plan_memory(LLAMA_8B, 4096, wish, memory, shared=shared)
    assert caught.value.failure_class == FailureClass.OUT_OF_MEMORY


def test_unknown_memory_refuses_nothing() -> None:
    assert not plan_memory(LLAMA_8B, 10**6, Checkpointing.AUTO, None).checkpointing


@pytest.mark.parametrize(
    ("memory", "workers", "probing", "sharded", "checkpointing"),
    [
        (80 * GIB, 4, False, False, False),
        (24 * GIB, 4, False, False, True),  # less is exchanged where each holds the base, so that comes first
        (12 * GIB, 4, False, True, True),
        (None, 4, False, False, False),
    ],
)
def test_weights_are_shared_out_only_where_they_do_not_fit_otherwise(
    memory: int | None, workers: int, probing: bool, sharded: bool, checkpointing: bool
) -> None:
    strategies = strategies_for(Strategy.AUTO, workers=workers, probing=probing)
    found = plan_memory(LLAMA_8B, 4096, Checkpointing.AUTO, memory, strategies=strategies, workers=workers)
    assert (found.sharded, found.checkpointing) == (sharded, checkpointing)


def test_what_is_asked_for_is_done_and_what_cannot_be_is_not() -> None:
    assert strategies_for(Strategy.FSDP, workers=2, probing=False) == (Strategy.FSDP,)
    assert strategies_for(Strategy.DDP, workers=2, probing=False) == (Strategy.DDP,)
    assert strategies_for(Strategy.FSDP, workers=1, probing=False) == ()
    assert strategies_for(Strategy.AUTO, workers=2, probing=True) == (Strategy.DDP,)
    with pytest.raises(WorkerError, match=r"strategy fsdp, workers"):
        plan_memory(LLAMA_8B, 4096, Checkpointing.AUTO, 12 * GIB)


@pytest.mark.parametrize(("strategy", "workers", "least"), [("auto", 4, 2), ("fsdp", 2, 2)])
def test_too_few_workers_for_the_plan_are_tried_again_and_never_trained_with(
    strategy: str, workers: int, least: int, tmp_path: Path
) -> None:
    """The attempt found room for one; with the workers that were asked for, the base fits."""
    job = Workplace(tmp_path).job("elastic", workers=workers, min_workers=1, strategy=strategy, memory_bytes=14 * GIB)
    for_workers = partial(planned, job, LLAMA_8B, 4096, shared=False)
    with pytest.raises(WorkerError, match="needs about") as caught:
        for_workers(1)
    error = too_few(job, 1, for_workers, caught.value)
    assert error.failure_class == FailureClass.INFRASTRUCTURE
    assert f"set minWorkers to {least}" in error.message
    hopeless = job.model_copy(update={"memory_bytes": GIB})
    assert too_few(hopeless, 1, partial(planned, hopeless, LLAMA_8B, 4096, shared=False), caught.value) is caught.value


def test_sharing_out_needs_two_workers_from_the_start(tmp_path: Path) -> None:
    job = Workplace(tmp_path).job("elastic", workers=4, min_workers=1, strategy="fsdp")
    with pytest.raises(WorkerError, match=r"^min_workers is 1: strategy fsdp") as caught:
        check_job(job)
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_shards_hold_their_part_of_the_layers_and_two_layers_whole() -> None:
    whole, quarter = (estimate(LLAMA_8B, 4096, checkpointing=True, shards=shards) for shards in (1, 4))
    layers = LLAMA_8B.in_layers * LLAMA_8B.width
    assert whole.weights - quarter.weights == pytest.approx(layers * (1 - 1 / 4 - 2 / 32), rel=1e-6)
    tiny = Shape.of(adapted(), 4)
    assert 0 < tiny.in_layers < tiny.parameters
