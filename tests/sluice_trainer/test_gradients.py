"""The packed path against plain unpacked fp32 peft and transformers: same loss, same gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from documents import row_loss, tokenize_rows
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import head
from sluice_trainer.attention import IMPLEMENTATION, RowLayout, document_attention
from sluice_trainer.head import frozen_head_losses, is_plain_head
from sluice_trainer.model import trained_parameters
from sluice_trainer.recipes import SftRecipe
from sluice_trainer.tokenise import Document
from tiny_models import sft_row, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
CPU = torch.device("cpu")


def documents(count: int = 6) -> list[Document]:
    return tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(count)], tiny_tokenizer())


def adapted(architecture: str, implementation: str) -> Any:
    """A model with an adapter whose B is not zero, so that every adapter weight has a gradient."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, architecture=architecture)
    model.set_attn_implementation(implementation)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted_model = get_peft_model(model, config).train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(adapted_model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return adapted_model


def plain_loss(model: Any, items: list[Document]) -> torch.Tensor:
    """One document a forward, transformers' own attention, all logits, labels by -100."""
    total = torch.zeros(())
    for item in items:
        labels = np.where(item.scored, item.ids, -100)
        logits = model(input_ids=torch.from_numpy(item.ids)[None]).logits[0]
        total = total + cross_entropy(logits[:-1], torch.from_numpy(labels)[1:], reduction="sum", ignore_index=-100)
    return total


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in trained_parameters(model).values() if p.grad is not None])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral"])
def test_loss_and_gradients_equal_the_unpacked_ones(architecture: str) -> None:
    """Mistral's sliding window is shorter than the documents here."""
    items = documents()
    reference = adapted(architecture, "sdpa")
    scored = sum(item.scored_count for item in items)
    expected = plain_loss(reference, items) / scored
    expected.backward()
    packed = adapted(architecture, IMPLEMENTATION)
    recipe = SftRecipe(packed, items, trained_parameters(packed), CPU)
    total = recipe.backward([3, 0, 5], scored) + recipe.backward([1, 2, 4], scored)
    assert float(total) / scored == pytest.approx(float(expected.detach()), abs=1e-4)
    found, wanted = gradients(packed), gradients(reference)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.999
    assert torch.allclose(found, wanted, atol=1e-5, rtol=1e-3)


def test_gradients_of_each_scored_token_equal_the_unpacked_ones() -> None:
    items = documents(3)
    reference, packed = adapted("llama", "sdpa"), adapted("llama", IMPLEMENTATION)
    for number, item in enumerate(items):
        for place in np.flatnonzero(item.scored)[::7]:
            only = [Document(ids=each.ids, scored=np.zeros_like(each.scored)) for each in items]
            only[number].scored[place] = True
            reference.zero_grad()
            packed.zero_grad()
            plain_loss(reference, [only[number]]).backward()
            row_loss(packed, only, CPU).backward()
            assert torch.cosine_similarity(gradients(packed), gradients(reference), dim=0) > 0.999


def test_documents_of_a_row_do_not_see_each_other() -> None:
    items = documents(3)
    model = adapted("llama", IMPLEMENTATION)
    alone = row_loss(model, [items[1]], CPU)
    silent = [Document(ids=each.ids, scored=np.zeros_like(each.scored)) for each in items]
    among = row_loss(model, [silent[0], items[1], silent[2]], CPU)
    assert float(among.detach()) == pytest.approx(float(alone.detach()), abs=1e-5)


def test_attention_without_a_layout_is_plain_causal_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 9, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 9, 8, generator=generator)
    output, _ = document_attention(torch.nn.Identity(), query, key, value, None)
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), float("-inf"))
    expected = (scores.softmax(-1) @ value.repeat_interleave(2, 1)).transpose(1, 2)
    assert torch.allclose(output, expected, atol=1e-5)


def test_attention_that_this_trainer_cannot_do_is_a_user_error() -> None:
    tensor = torch.zeros(1, 1, 2, 4)
    with pytest.raises(WorkerError, match="caps its scores") as caught:
        document_attention(torch.nn.Identity(), tensor, tensor, tensor, None, softcap=30.0)
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_positions_restart_with_every_document() -> None:
    layout = RowLayout.of_lengths([3, 1, 2])
    assert [(each.start, each.end) for each in layout.segments] == [(0, 3), (3, 4), (4, 6)]
    assert layout.positions(CPU).tolist() == [[0, 1, 2, 0, 0, 1]]


def test_both_answers_of_a_pair_start_where_the_prompt_ends() -> None:
    layout = RowLayout.of_pairs([(2, 3, 1), (1, 1, 2)])
    assert layout.positions(CPU).tolist() == [[0, 1, 2, 3, 4, 2, 0, 1, 1, 2]]


@pytest.mark.parametrize("chunk", [1, 70, 10**6])
def test_the_chunked_head_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(8, 33)
    layer.requires_grad_(False)
    hidden = torch.randn(11, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 33, (11,), generator=generator)
    expected = cross_entropy(layer(hidden), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, hidden)
    losses = frozen_head_losses(hidden, layer, targets)
    assert torch.allclose(losses, cross_entropy(layer(hidden), targets, reduction="none"), atol=1e-5)
    found = losses.sum()
    (gradient,) = torch.autograd.grad(3 * found, hidden)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(gradient, 3 * wanted, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(frozen_head_losses(hidden.detach(), layer, targets), losses)


def test_a_head_that_is_adapted_or_scaled_takes_the_models_own_path() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).requires_grad_(False)
    assert is_plain_head(model, model.get_output_embeddings())
    model.config.final_logit_softcapping = 30.0
    assert not is_plain_head(model, model.get_output_embeddings())
    model.config.final_logit_softcapping = None
    items = documents(2)
    model.set_attn_implementation(IMPLEMENTATION)
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", ensure_weight_tying=False)
    with pytest.warns(UserWarning, match="tie|tied"):
        adapted_head = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in trained_parameters(adapted_head).values():
            parameter.add_(0.02)
    found = row_loss(adapted_head, items, CPU)
    model.set_attn_implementation("sdpa")
    assert float(found.detach()) == pytest.approx(float(plain_loss(adapted_head, items).detach()), abs=1e-3)
