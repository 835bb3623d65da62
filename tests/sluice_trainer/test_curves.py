"""Loss curves beside a plain loop: unpacked, fp32, peft and transformers alone, written without this package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, logsigmoid

from documents import tokenize_rows
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.jobs import ProbeResult
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.dpo import DpoRecipe, Pair, pair_sizes, reference_log_probabilities, tokenize_pairs
from sluice_trainer.fused import fuse
from sluice_trainer.group import Alone
from sluice_trainer.loop import LoopConfig, StepRecord, train
from sluice_trainer.model import trained_parameters
from sluice_trainer.plan import Plan, PlanConfig, build_plan
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.schedule import Schedule
from sluice_trainer.snapshot import Take
from sluice_trainer.tokenise import Document
from tiny_models import preference_row, sft_row, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
CPU = torch.device("cpu")
BETA = 0.3
RATE = 5e-3
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(16)], tiny_tokenizer())
PAIRS = tokenize_pairs([PreferenceRow.model_validate(preference_row(number)) for number in range(12)], tiny_tokenizer())
GOLDEN = Path(__file__).parent / "golden" / "dpo_losses.json"


class Records:
    """Keeps what the loop tells."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def step_done(self, record: StepRecord) -> None:
        self.records.append(record)

    def stop_requested(self) -> bool:
        return False

    def checkpoint(self, step: int, take: Take) -> None:
        return

    def probe(self, step: int) -> ProbeResult:
        raise AssertionError(f"no probe is due at step {step}")


def adapted(implementation: str, architecture: str = "qwen3") -> Any:
    model = tiny_model(tiny_tokenizer(), architecture=architecture)
    model.set_attn_implementation(implementation)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def packed_curve(recipe: Any, plan: Plan) -> list[StepRecord]:
    hooks = Records()
    schedule = Schedule(peak=RATE, steps=len(plan.steps), decay="constant", warmup_ratio=0.0)
    train(plan, hooks, recipe=recipe, config=LoopConfig(schedule=schedule))
    return hooks.records


def plain_curve(model: Any, plan: Plan, loss: Callable[[Any, int], torch.Tensor]) -> list[float]:
    """AdamW over the plan's documents, one forward a sequence."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, foreach=False)
    losses = []
    for step in plan.steps:
        optimizer.zero_grad()
        total = 0.0
        for number in (number for row in step.rows for number in row):
            part = loss(model, number) / step.scored
            part.backward()
            total += float(part.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(total)
    return losses


def sft_loss(model: Any, number: int) -> torch.Tensor:
    document: Document = DOCUMENTS[number]
    ids = torch.from_numpy(document.ids)
    labels = ids.masked_fill(~torch.from_numpy(document.scored), -100)
    return cross_entropy(model(input_ids=ids[None]).logits[0, :-1], labels[1:], reduction="sum", ignore_index=-100)


def log_probability(model: Any, pair: Pair, answer: Any) -> torch.Tensor:
    prompt = torch.from_numpy(pair.prompt)
    ids = torch.cat([prompt, torch.from_numpy(answer)])
    logits = model(input_ids=ids[None]).logits[0, prompt.numel() - 1 : -1]
    return -cross_entropy(logits, ids[prompt.numel() :], reduction="sum")


def dpo_loss(model: Any, number: int) -> torch.Tensor:
    pair = PAIRS[number]
    policy = [log_probability(model, pair, answer) for answer in (pair.chosen, pair.rejected)]
    with torch.no_grad(), model.disable_adapter():
        reference = [log_probability(model, pair, answer) for answer in (pair.chosen, pair.rejected)]
    return -logsigmoid(BETA * ((policy[0] - reference[0]) - (policy[1] - reference[1])))


def dpo_records() -> tuple[list[StepRecord], Plan]:
    plan = build_plan(pair_sizes(PAIRS), PlanConfig(seed=3, max_length=700, tokens_per_step=900, epochs=5))
    model = fuse(adapted(IMPLEMENTATION))
    reference = reference_log_probabilities(model, PAIRS, row_tokens=700, device=CPU, group=Alone())
    recipe = DpoRecipe(model, PAIRS, trained_parameters(model), reference=reference, beta=BETA, device=CPU)
    return packed_curve(recipe, plan), plan


@pytest.mark.parametrize("architecture", ["qwen3", "mistral"])
def test_the_sft_loss_curve_is_that_of_a_plain_loop(architecture: str) -> None:
    plan = build_plan(sft_sizes(DOCUMENTS), PlanConfig(seed=3, max_length=500, tokens_per_step=600, epochs=3))
    model = fuse(adapted(IMPLEMENTATION, architecture))
    found = [r.loss for r in packed_curve(SftRecipe(model, DOCUMENTS, trained_parameters(model), CPU), plan)]
    expected = plain_curve(adapted("sdpa", architecture), plan, sft_loss)
    assert len(found) >= 10
    assert found == pytest.approx(expected, abs=1e-2)
    assert found[-1] < found[0] - 0.25, "a curve that does not move would agree with anything"


def test_the_dpo_loss_curve_is_that_of_a_plain_loop() -> None:
    records, plan = dpo_records()
    expected = plain_curve(adapted("sdpa"), plan, dpo_loss)
    assert len(records) >= 10
    assert [record.loss for record in records] == pytest.approx(expected, abs=1e-2)
    assert records[-1].loss < 0.5 < records[0].loss


def test_dpo_losses_are_the_golden_ones() -> None:
    """Losses, margins and accuracies per step, within 1e-3 and 1e-2: another processor may round differently."""
    records, _ = dpo_records()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert [record.loss for record in records] == pytest.approx(golden["losses"], abs=1e-3)
    assert [record.extra["reward_margin"] for record in records] == pytest.approx(golden["reward_margins"], abs=1e-2)
    assert [record.extra["reward_accuracy"] for record in records] == pytest.approx(golden["reward_accuracies"])


def test_gradients_of_each_answer_token_equal_the_unpacked_ones() -> None:
    """One token's log-probability at a time, through the prefix-shared row and through a sequence of its own."""
    from sluice_trainer.attention import RowLayout
    from sluice_trainer.dpo import _scored_places
    from sluice_trainer.head import scored_losses
    from sluice_trainer.recipes import row_inputs

    packed, plain = fuse(adapted(IMPLEMENTATION)), adapted("sdpa")
    for model in (packed, plain):
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in trained_parameters(model).values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    pairs = PAIRS[:2]
    ids = torch.cat([torch.from_numpy(part) for pair in pairs for part in (pair.prompt, pair.chosen, pair.rejected)])
    predictors, targets, owners = _scored_places(pairs)
    layout = RowLayout.of_pairs([pair.lengths for pair in pairs])
    for place in range(0, len(targets), 5):
        pair, rejected = pairs[int(owners[place]) // 2], int(owners[place]) % 2
        answer = pair.rejected if rejected else pair.chosen
        own = place - int((owners < owners[place]).sum())
        packed.zero_grad()
        scored_losses(packed, row_inputs(ids, layout), predictors[[place]], ids[targets[[place]]]).sum().backward()
        plain.zero_grad()
        alone = torch.cat([torch.from_numpy(pair.prompt), torch.from_numpy(answer)])
        at = pair.prompt.size + own
        cross_entropy(plain(input_ids=alone[None]).logits[0, at - 1][None], alone[at][None]).backward()
        vectors = [
            torch.cat([p.grad.reshape(-1) for p in trained_parameters(model).values() if p.grad is not None])
            for model in (packed, plain)
        ]
        assert torch.cosine_similarity(vectors[0], vectors[1], dim=0) > 0.999
