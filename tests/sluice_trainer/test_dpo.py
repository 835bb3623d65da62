"""Preference training: prefix sharing changes nothing but the work, against a plain DPO written from the paper."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import PreferenceRow
from sluice_api.contracts.jobs import FailureClass
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import read_manifest
from sluice_artifacts.reporting import WorkerError, run_worker
from sluice_trainer import worker
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.data import preference_objection, read_rows
from sluice_trainer.dpo import DpoRecipe, pair_sizes, reference_log_probabilities, tokenize_pairs
from sluice_trainer.group import Alone
from sluice_trainer.model import trained_parameters
from sluice_trainer.plan import PlanConfig, build_plan
from tiny_models import preference_row, publish_rows, sft_row, tiny_model, tiny_tokenizer
from training_jobs import Workplace

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
CPU = torch.device("cpu")
BETA = 0.3
ROWS = [PreferenceRow.model_validate(preference_row(number)) for number in range(6)]


def adapted(implementation: str, architecture: str = "llama") -> Any:
    model = tiny_model(tiny_tokenizer(), architecture=architecture)
    model.set_attn_implementation(implementation)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def disturb(model: Any) -> Any:
    """Move the adapter away from the reference, the same way every time."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_log_probability(model: Any, row: PreferenceRow, answer: str) -> torch.Tensor:
    """Prompt and answer in a sequence of their own; the answer ends with the end-of-turn token."""
    tokenizer = tiny_tokenizer()
    messages = to_messages(row.prompt)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ids = prompt + tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum((logits[place - 1, ids[place]] for place in range(len(prompt), len(ids))), torch.zeros(()))


def plain_dpo(model: Any, rows: list[PreferenceRow]) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows:
        policy = [plain_log_probability(model, row, answer) for answer in (row.chosen, row.rejected)]
        with torch.no_grad(), model.disable_adapter():
            reference = [plain_log_probability(model, row, answer) for answer in (row.chosen, row.rejected)]
        margin = (policy[0] - reference[0]) - (policy[1] - reference[1])
        total = total - torch.log(torch.sigmoid(BETA * margin))
    return total


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in trained_parameters(model).values() if p.grad is not None])


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_loss_and_gradients_equal_plain_dpo(architecture: str) -> None:
    """Mistral's sliding window is shorter than a prompt here."""
    plain = disturb(adapted("sdpa", architecture))
    expected = plain_dpo(plain, ROWS)
    (expected / len(ROWS)).backward()
    pairs = tokenize_pairs(ROWS, tiny_tokenizer())
    packed = adapted(IMPLEMENTATION, architecture)
    reference = reference_log_probabilities(packed, pairs, row_tokens=700, device=CPU, group=Alone())
    recipe = DpoRecipe(disturb(packed), pairs, trained_parameters(packed), reference=reference, beta=BETA, device=CPU)
    sums = recipe.backward([4, 0, 2], len(ROWS)) + recipe.backward([1, 3, 5], len(ROWS))
    assert float(sums[0]) / len(ROWS) == pytest.approx(float(expected.detach()) / len(ROWS), abs=1e-4)
    assert torch.cosine_similarity(gradients(packed), gradients(plain), dim=0) > 0.999
    assert torch.allclose(gradients(packed), gradients(plain), atol=1e-5, rtol=1e-2)


def test_the_reference_is_the_same_however_pairs_are_packed_and_shared_out() -> None:
    pairs = tokenize_pairs(ROWS, tiny_tokenizer())
    model = adapted(IMPLEMENTATION)
    together = reference_log_probabilities(model, pairs, row_tokens=5000, device=CPU, group=Alone())
    one_by_one = reference_log_probabilities(model, pairs, row_tokens=300, device=CPU, group=Alone())
    assert torch.allclose(together, one_by_one, atol=1e-3)
    shares = []
    for rank in range(2):
        member = Alone()
        member.rank, member.size = rank, 2
        shares.append(reference_log_probabilities(model, pairs, row_tokens=300, device=CPU, group=member))
    assert torch.equal(shares[0] + shares[1], one_by_one)
    assert model.training


def test_the_first_loss_is_that_of_not_knowing_and_metrics_are_means() -> None:
    pairs = tokenize_pairs(ROWS, tiny_tokenizer())
    model = adapted(IMPLEMENTATION)
    reference = reference_log_probabilities(model, pairs, row_tokens=700, device=CPU, group=Alone())
    recipe = DpoRecipe(model, pairs, trained_parameters(model), reference=reference, beta=BETA, device=CPU)
    sums = dict(zip(recipe.metrics, recipe.backward([0, 1, 2, 3, 4, 5], 6).tolist(), strict=True))
    assert sums["loss"] / 6 == pytest.approx(0.693147, abs=1e-4)
    assert sums["reward_margin"] == pytest.approx(0, abs=1e-3)
    difference = sum(pair.lengths[1] - pair.lengths[2] for pair in pairs)
    assert sums["length_difference"] == difference != 0


def test_a_pair_holds_its_prompt_once() -> None:
    pair = tokenize_pairs(ROWS[:1], tiny_tokenizer())[0]
    tokenizer = tiny_tokenizer()
    messages = to_messages(ROWS[0].prompt)
    assert pair.prompt.tolist() == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(pair.chosen) == ROWS[0].chosen + "<|end|>"
    assert tokenizer.decode(pair.rejected) == ROWS[0].rejected + "<|end|>"
    plan = build_plan(pair_sizes([pair]), PlanConfig())
    assert plan.steps[0].tokens == sum(pair.lengths)
    assert plan.steps[0].scored == 1


def test_earlier_answers_are_context() -> None:
    turns = [("human", "a?"), ("gpt", "first"), ("human", "b?")]
    row = {"prompt": [{"from": who, "value": text} for who, text in turns], "chosen": "yes", "rejected": "no"}
    (pair,) = tokenize_pairs([PreferenceRow.model_validate(row)], tiny_tokenizer())
    assert "first" in tiny_tokenizer().decode(pair.prompt)
    assert tiny_tokenizer().decode(pair.chosen) == "yes<|end|>"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rejected": ""}, "chosen and rejected must both"),
        ({"rejected": preference_row(1)["chosen"]}, "chosen and rejected are the same"),
        ({"prompt": sft_row(1)["conversations"]}, "prompt: the last turn"),
    ],
)
def test_a_pair_that_prefers_nothing_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "train.jsonl"
    rows = [preference_row(0), preference_row(1, **change)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(WorkerError, match=f"^train.jsonl:2: {expected}") as caught:
        read_rows(path, PreferenceRow, preference_objection)
    assert caught.value.failure_class == FailureClass.DATA


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    return Workplace(tmp_path)


def test_a_job_teaches_the_preference_and_resumes_to_the_same_adapter(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = publish_rows(
        f"file://{place.folder}/pairs", [preference_row(number) for number in range(16)], dataset_format="preference"
    )
    options = {"dataset": pairs, "method": "dpo", "dpo_beta": BETA, "epochs": 4, "tokens_per_step": 900}
    options |= {"checkpoint_keep": 100}
    job = place.job("dpo", **options)
    assert run_worker(job, worker.run_bare) == 0
    output = place.output(job)
    assert output.final_loss < 0.6
    manifest = read_manifest(output.adapter, AdapterManifest)
    assert manifest.method == "dpo"
    checkpoints = Path(job.checkpoint_uri.removeprefix("file://"))
    for folder in checkpoints.glob("step-*"):
        if folder.name != "step-00000003.attempt-1":
            (folder / "complete.json").unlink()

    def twice(*_: Any, **__: Any) -> torch.Tensor:
        raise AssertionError("the reference is computed once for all attempts")

    monkeypatch.setattr("sluice_trainer.session.reference_log_probabilities", twice)
    again = place.job("dpo", attempt=2, **options)
    assert run_worker(again, worker.run_bare) == 0
    resumed = place.output(again)
    assert resumed.resumed_from_step == 3
    assert resumed.adapter == output.adapter
    base = AutoModelForCausalLM.from_pretrained(place.base)
    adapter = str(Path(output.adapter.uri.removeprefix("file://")))
    model = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        assert float(plain_dpo(model, ROWS)) / len(ROWS) < 0.6


def test_rows_of_the_other_method_are_refused(place: Workplace) -> None:
    job = place.job("mixed-up", method="dpo")
    assert run_worker(job, worker.run_bare) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.DATA
    assert "format is 'sft', method dpo needs 'preference'" in failure.message
