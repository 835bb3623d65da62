"""Bases that are not what they say they are: each is refused as a `UserError` that names the file, weight or module."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seeing_models import seeing_model
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.model import LoraSettings, add_adapter, load_base, load_tokenizer, target_names
from tiny_models import save_base, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
URI = "file:///models/base"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "base")


def change(base: Path, **values: Any) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(base: Path) -> str:
    with pytest.raises(WorkerError) as caught:
        load_tokenizer(base, URI)
        load_base(base, URI, CPU)
    assert caught.value.failure_class is FailureClass.USER_ERROR
    assert URI in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("architecture", ["mistral", "qwen3", "qwen3_moe"])
def test_a_whole_base_is_loaded_bit_for_bit(tmp_path: Path, architecture: str) -> None:
    expected = tiny_model(tiny_tokenizer(), architecture=architecture).state_dict()
    found = load_base(save_base(tmp_path / "base", architecture=architecture), URI, CPU).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_base_without_some_of_its_weights_is_refused(base: Path) -> None:
    change(base, num_hidden_layers=3)
    message = refusal(base)
    assert "lack model.layers.2.input_layernorm.weight" in message
    assert "and 4 more" in message


def test_a_tensor_that_is_cut_out_of_the_file_is_named(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert "lack model.layers.1.mlp.up_proj.weight:" in refusal(base)


def test_a_head_that_is_not_tied_must_be_there(base: Path) -> None:
    load_base(base, URI, CPU)
    change(base, tie_word_embeddings=False)
    assert "lack lm_head.weight:" in refusal(base)


def test_weights_of_another_shape_are_named(base: Path) -> None:
    change(base, intermediate_size=96)
    assert "model.layers.0.mlp.down_proj.weight ([64, 128], config.json says [64, 96])" in refusal(base)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "abc"}, {"num_attention_heads": 0}, {"num_attention_heads": 3}, {"model_type": "nope"},
        {"vocab_size": -1}, {"hidden_act": "nope"}, {"dtype": "float99", "torch_dtype": "float99"},
        {"rope_parameters": {"rope_type": "zzz"}},
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_user_errors(base: Path, values: dict[str, Any]) -> None:
    change(base, **values)
    refusal(base)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "[]"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.json", "{}"),
        ("generation_config.json", "[1]"),
    ],
)
def test_documents_of_another_form_are_user_errors(base: Path, name: str, text: str) -> None:
    (base / name).write_text(text)
    refusal(base)


def adapted(base: Any, *targets: str) -> set[str]:
    """Last parts of the names of the modules that get an adapter."""
    model = add_adapter(base, LoraSettings(rank=2, alpha=4, target_modules=targets), seed=1)
    return {name.rpartition(".")[2] for name in target_names(model)}


ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (("q_proj", "layers.1.self_attn.v_proj"), {"q_proj", "v_proj"}),
        (("all-linear",), ALL),
        (("all-linear", "q_proj"), ALL),
        (("embed_tokens", "all-linear"), ALL | {"embed_tokens"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_every_name_of_a_module_counts(targets: tuple[str, ...], found: set[str]) -> None:
    assert adapted(tiny_model(tiny_tokenizer()), *targets) == found


@pytest.mark.parametrize("unknown", ["v_prjo", "", "proj", "layers.2.self_attn.q_proj"])
@pytest.mark.parametrize("seeing", [False, True])
def test_a_name_that_no_module_has_is_a_user_error_that_names_it(unknown: str, seeing: bool) -> None:
    base = seeing_model() if seeing else tiny_model(tiny_tokenizer())
    for others in ((), ("q_proj",), ("all-linear",)):
        with pytest.raises(WorkerError, match=f"^lora.targetModules: .*no module '{unknown}'.*o_proj") as caught:
            adapted(base, *others, unknown)
        assert caught.value.failure_class is FailureClass.USER_ERROR


def test_a_module_of_the_tower_is_named_with_the_tower() -> None:
    with pytest.raises(WorkerError, match="no module 'qkv'"):
        adapted(seeing_model(), "q_proj", "qkv")
    assert adapted(seeing_model(), "q_proj", "visual.blocks.0.attn.qkv") == {"q_proj", "qkv"}


def test_want_of_memory_and_a_failing_disk_are_no_faults_of_the_base(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory"), OSError(5, "I/O error")):

        def fail(*_: Any, raised: BaseException = error, **__: Any) -> None:
            raise raised

        monkeypatch.setattr("sluice_trainer.model.AutoModelForCausalLM.from_pretrained", fail)
        with pytest.raises(type(error)) as caught:
            load_base(base, URI, CPU)
        assert caught.value is error
