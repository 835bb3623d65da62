"""A job from end to end without Ray: the adapter, its manifest, and every refusal."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from documents import tokenize_rows
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass, Progress, TrainJob, TrainOutput
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import digest_tree, read_manifest
from sluice_artifacts.reporting import run_worker
from sluice_trainer import worker
from sluice_trainer.plan import build_plan
from sluice_trainer.recipes import sft_sizes
from sluice_trainer.settings import check_job
from tiny_models import publish_rows, save_base, sft_row
from training_jobs import Workplace

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))


def run(place: Workplace, job: TrainJob) -> TrainOutput:
    assert run_worker(job, worker.run_bare) == 0
    return place.output(job)


def failure(place: Workplace, job: TrainJob) -> tuple[FailureClass, str]:
    assert run_worker(job, worker.run_bare) == 0
    found = place.result(job).failure
    assert found is not None
    return found.failure_class, found.message


def folder(ref: ArtifactRef) -> Path:
    return Path(ref.uri.removeprefix("file://"))


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer("Task: open lamp\nScreen size: 64x48 pixels", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=ids).logits
    return result


def test_the_adapter_loads_in_peft_and_its_manifest_says_where_it_comes_from(place: Workplace) -> None:
    job = place.job("clean")
    output = run(place, job)
    manifest = read_manifest(output.adapter, AdapterManifest)
    assert manifest.base_model == ModelRef(uri=f"file://{place.base}", digest=digest_tree(place.base))
    assert (manifest.rank, manifest.alpha, manifest.method) == (8, 16, "sft")
    assert manifest.dataset == place.dataset
    assert manifest.steps == output.steps > 5
    assert manifest.final_loss == output.final_loss
    assert manifest.code_version
    assert set(manifest.target_modules) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        entry.path for entry in manifest.files
    }
    for entry in manifest.files:
        data = (folder(output.adapter) / entry.path).read_bytes()
        assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))
    rows = [SftRow.model_validate(sft_row(number)) for number in range(30)]
    sizes = sft_sizes(tokenize_rows(rows, AutoTokenizer.from_pretrained(place.base)))
    assert manifest.data_plan == build_plan(sizes, check_job(job).plan).digest
    assert manifest.parent is None
    config = json.loads((folder(output.adapter) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place.base)
    assert config["target_modules"] == manifest.target_modules
    base = AutoModelForCausalLM.from_pretrained(place.base)
    tokenizer = AutoTokenizer.from_pretrained(folder(output.adapter))
    plain = logits(base, tokenizer)
    adapted = logits(PeftModel.from_pretrained(base, str(folder(output.adapter))), tokenizer)
    assert (adapted - plain).abs().max() > 0.05
    by_its_own_word = AutoPeftModelForCausalLM.from_pretrained(folder(output.adapter))
    assert torch.equal(logits(by_its_own_word, tokenizer), adapted)
    merged = plain_merge(place, output)
    assert torch.allclose(adapted, logits(merged, tokenizer), atol=1e-4)


def plain_merge(place: Workplace, output: TrainOutput) -> Any:
    """The base with `W + alpha / rank * B A` computed by hand from the published tensors."""
    model = AutoModelForCausalLM.from_pretrained(place.base)
    tensors = load_file(folder(output.adapter) / "adapter_model.safetensors")
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name in [key for key in tensors if ".lora_A." in key]:
            module = modules[name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            module.weight += 16 / 8 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    return model


def test_progress_names_the_verified_inputs_and_the_metrics(place: Workplace) -> None:
    job = place.job("progress")
    output = run(place, job)
    text = (Path(job.output_uri.removeprefix("file://")) / "progress.json").read_bytes()
    progress = Progress.model_validate_json(text)
    assert progress.inputs == {"dataset": place.dataset.digest, "baseModel": output.base_model.digest}
    assert (progress.stage, progress.step, progress.of) == ("publishing", output.steps, output.steps)
    assert {"loss", "tokens_per_second", "learning_rate", "epoch", "grad_norm"} <= progress.metrics.keys()


def test_the_same_job_gives_the_same_digest_and_another_seed_another(place: Workplace) -> None:
    first, second = (run(place, place.job(name)).adapter.digest for name in ("same-a", "same-b"))
    assert first == second
    assert run(place, place.job("other", seed=12)).adapter.digest != first


def test_a_run_that_is_over_is_published_again_from_its_last_checkpoint(place: Workplace) -> None:
    first = run(place, place.job("over"))
    again = run(place, place.job("over", attempt=2))
    assert again.resumed_from_step == first.steps
    assert again.adapter == first.adapter
    assert again.final_loss == first.final_loss


def test_a_checkpoint_of_other_settings_is_not_resumed(place: Workplace) -> None:
    run(place, place.job("changed"))
    assert run(place, place.job("changed", attempt=2, learning_rate=1e-3)).resumed_from_step is None


def test_training_goes_on_from_a_parent_adapter(place: Workplace) -> None:
    parent = run(place, place.job("parent"))
    child = run(place, place.job("child", parent=parent.adapter))
    manifest = read_manifest(child.adapter, AdapterManifest)
    assert manifest.parent == parent.adapter
    assert child.final_loss < parent.final_loss
    kind, message = failure(place, place.job("wrong-rank", parent=parent.adapter, lora_rank=4))
    assert kind == FailureClass.USER_ERROR
    assert "set lora.rank to 8" in message
    kind, message = failure(place, place.job("wrong-modules", parent=parent.adapter, target_modules=["q_proj"]))
    assert kind == FailureClass.USER_ERROR
    assert message.startswith("lora.targetModules is q_proj, the parent adapter's modules are others: set")
    assert "down_proj" in message
    same = list(reversed(manifest.target_modules))
    assert run(place, place.job("named", parent=parent.adapter, target_modules=same)).steps == child.steps


def test_a_parent_of_another_base_is_refused(place: Workplace, tmp_path: Path) -> None:
    parent = run(place, place.job("parent-2"))
    other = save_base(tmp_path / "other", seed=8)
    job = place.job("other-base", parent=parent.adapter, base_model=ModelRef(uri=f"file://{other}"))
    kind, message = failure(place, job)
    assert kind == FailureClass.USER_ERROR
    assert "its base model is sha256:" in message


def test_negatives_stop_the_job_with_file_and_line(place: Workplace, tmp_path: Path) -> None:
    rows = [sft_row(0), sft_row(1), sft_row(2, label="negative")]
    job = place.job("negatives", dataset=publish_rows(f"file://{tmp_path}/d", rows))
    kind, message = failure(place, job)
    assert kind == FailureClass.DATA
    assert message.startswith("train.jsonl:3: metadata.label is 'negative'")


def test_a_dataset_without_rows_of_another_format_or_damaged_is_a_data_failure(
    place: Workplace, tmp_path: Path
) -> None:
    empty = publish_rows(f"file://{tmp_path}/empty", [])
    pairs = publish_rows(f"file://{tmp_path}/pairs", [sft_row(0)], dataset_format="preference")
    damaged = publish_rows(f"file://{tmp_path}/damaged", [sft_row(0)])
    (folder(damaged) / "train.jsonl").write_text("{}\n")
    absent = ArtifactRef(uri=f"file://{tmp_path}/absent/", digest=f"sha256:{'0' * 64}")
    expected = [(empty, "no rows"), (pairs, "format is 'preference'"), (damaged, "damaged"), (absent, "absent")]
    for number, (dataset, words) in enumerate(expected):
        kind, message = failure(place, place.job(f"bad-data-{number}", dataset=dataset))
        assert kind == FailureClass.DATA
        assert words in message


def test_rows_that_are_all_too_long_say_which_field_to_raise(place: Workplace) -> None:
    kind, message = failure(place, place.job("long", max_length=20))
    assert kind == FailureClass.DATA
    assert "raise sequence.maxLength" in message


def test_a_missing_or_changed_base_model_is_a_user_error_that_names_it(place: Workplace, tmp_path: Path) -> None:
    missing = ModelRef(uri=f"file://{tmp_path}/nowhere")
    changed = ModelRef(uri=f"file://{place.base}", digest=f"sha256:{'1' * 64}")
    broken = save_base(tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": "no such model"}')
    for number, base in enumerate([missing, changed, ModelRef(uri=f"file://{broken}")]):
        kind, message = failure(place, place.job(f"bad-base-{number}", base_model=base))
        assert kind == FailureClass.USER_ERROR
        assert base.uri in message


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"target_modules": []}, "target_modules"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"warmup_ratio": 2.0}, "warmup_ratio"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"checkpoint_keep": 0}, "checkpoint_keep"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_length": 0}, "max_length"),
        ({"target_modules": ["no_such_module"]}, "lora.targetModules"),
    ],
)
def test_settings_that_cannot_be_are_user_errors_that_name_the_field(
    place: Workplace, options: dict[str, Any], field: str
) -> None:
    kind, message = failure(place, place.job(f"bad-{field}-{next(iter(options))}", **options))
    assert kind == FailureClass.USER_ERROR
    assert message.startswith(field)


def test_an_adapter_prefix_that_cannot_be_written_is_a_storage_failure(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kind, message = failure(place, place.job("no-room", adapter_uri=f"file://{tmp_path}/file/adapters/"))
    assert kind == FailureClass.STORAGE
    assert message.startswith("adapter: ")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_fix(place: Workplace, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("sluice_trainer.session.train", fail)
    kind, message = failure(place, place.job(f"memory-{type(error).__name__}-{len(str(error))}"))
    assert kind == FailureClass.OUT_OF_MEMORY
    assert "lower sequence.maxLength (now 300)" in message


@pytest.mark.parametrize(("method", "config"), [("bitsandbytes", {"load_in_4bit": True}), ("gptq", {"bits": 4})])
def test_a_quantised_base_is_refused_whatever_the_profile(
    place: Workplace, tmp_path: Path, method: str, config: dict[str, Any]
) -> None:
    base = shutil.copytree(place.base, tmp_path / "quantised")
    path = base / "config.json"
    document = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method, **config}}
    path.write_text(json.dumps(document))
    job = place.job(f"quantised-{method}", base_model=ModelRef(uri=f"file://{base}"))
    kind, message = failure(place, job)
    assert kind == FailureClass.USER_ERROR
    assert f"is quantised ({method})" in message
    assert "name the model without quantisation" in message
