"""Rows with screenshots: packed, they give the losses and gradients of plain transformers one document at a time."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from documents import row_loss
from seeing_models import (
    MERGE,
    TOKENS,
    image_processor,
    name_of,
    publish_seen,
    save_seeing_base,
    screenshot,
    seeing_model,
    seeing_tokenizer,
    seen_row,
    with_screenshot,
)
from sluice_api.chat import to_messages
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import read_manifest
from sluice_artifacts.reporting import WorkerError, run_worker
from sluice_trainer import worker
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.documents import read_documents, read_pairs
from sluice_trainer.dpo import answer_log_probabilities, tokenize_pairs
from sluice_trainer.flops import Work
from sluice_trainer.fused import fuse
from sluice_trainer.model import LoraSettings, add_adapter, target_names, trained_parameters
from sluice_trainer.recipes import SftRecipe
from sluice_trainer.screens import Screens
from sluice_trainer.tokenise import Document, Picture
from sluice_trainer.vision import Eyes, SeeingTokeniser, Sight, with_parts
from tiny_models import preference_row, sft_row
from training_jobs import Workplace

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
CPU = torch.device("cpu")
PICTURES = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("seen")
    return publish_seen(f"file://{folder}/data", [seen_row(number) for number in range(PICTURES)], PICTURES)


@pytest.fixture
def eyes(dataset: Any, tmp_path: Path) -> Eyes:
    token = seeing_tokenizer().convert_tokens_to_ids(TOKENS[2])
    screens = Screens(dataset.uri, tmp_path / "screens")
    return Eyes(screens=screens, processor=image_processor(), token=token, mark=TOKENS[2])


def adapted(family: str, implementation: str, targets: Any = "all-linear") -> Any:
    base = seeing_model(family).requires_grad_(False)
    base.set_attn_implementation(implementation)
    model = add_adapter(base, LoraSettings(rank=4, alpha=8, target_modules=targets), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_inputs(messages: list[dict[str, Any]], images: list[Any]) -> dict[str, torch.Tensor]:
    """What the families' own processor makes of one conversation, written out."""
    tokenizer = seeing_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    inputs: dict[str, torch.Tensor] = {}
    if images:
        found = image_processor()(images=images, return_tensors="pt")
        inputs = {"pixel_values": found["pixel_values"], "image_grid_thw": found["image_grid_thw"]}
        for grid in found["image_grid_thw"]:
            text = text.replace(TOKENS[2], "\0" * (int(grid.prod()) // MERGE**2), 1)
        text = text.replace("\0", TOKENS[2])
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    types = (ids == tokenizer.convert_tokens_to_ids(TOKENS[2])).int()
    return {**inputs, "input_ids": ids, "mm_token_type_ids": types}


def plain_losses(model: Any, row: SftRow, document: Document, screens: Screens) -> torch.Tensor:
    """Sum over the scored tokens of one document alone, by transformers' own forward pass."""
    images = [screens.picture(row.image)] if row.image else []
    messages = with_parts(row.conversations) if images else to_messages(row.conversations)
    inputs = plain_inputs(messages, images)
    ids = inputs["input_ids"][0]
    assert ids[: document.length].tolist() == document.ids.tolist(), "the line break after the last turn aside"
    logits = model(**inputs, use_cache=False).logits[0]
    targets = torch.where(torch.from_numpy(document.scored), torch.from_numpy(document.ids), -100)[1:]
    return torch.nn.functional.cross_entropy(logits[: document.length - 1], targets, reduction="sum")


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in trained_parameters(model).values() if p.grad is not None])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_packed_losses_and_gradients_are_those_of_documents_alone(family: str, eyes: Eyes) -> None:
    rows = [SftRow.model_validate(row) for row in (seen_row(0), sft_row(8), seen_row(1), seen_row(5))]
    assert [eyes.objection(row) for row in rows] == [""] * 4
    seeing = SeeingTokeniser(seeing_tokenizer(), eyes)
    documents = [seeing.document(row.conversations, row.image) for row in rows]
    assert len({document.pictures for document in documents}) == 4
    plain, packed = adapted(family, "sdpa"), fuse(adapted(family, IMPLEMENTATION))
    expected = [plain_losses(plain, row, each, eyes.screens) for row, each in zip(rows, documents, strict=True)]
    torch.stack(expected).sum().backward()
    sight = Sight(causal=packed.get_base_model(), eyes=eyes)
    recipe = SftRecipe(packed, documents, trained_parameters(packed), CPU, sight=sight)
    total = recipe.backward([0, 1, 2, 3], 1)
    assert float(total) == pytest.approx(float(torch.stack(expected).sum().detach()), abs=1e-2, rel=1e-5)
    assert torch.cosine_similarity(gradients(packed), gradients(plain), dim=0) > 0.999
    assert torch.allclose(gradients(packed), gradients(plain), atol=1e-4, rtol=1e-2)
    for document, alone in zip(documents, expected, strict=True):
        assert float(row_loss(packed, [document], CPU, sight).detach()) == pytest.approx(
            float(alone.detach()), abs=1e-3
        )
    load = recipe.load([0, 1])
    assert load.patches == 4 * sum(int((document.ids == eyes.token).sum()) for document in documents[:2])
    assert Work.of(packed).vision > 0


def test_the_next_rows_pictures_are_decoded_beside_the_present_rows(eyes: Eyes) -> None:
    threads: list[str] = []

    class Watched(Eyes):
        def pixels(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
            threads.append(threading.current_thread().name)
            return super().pixels(pictures)

    watched = Watched(screens=eyes.screens, processor=eyes.processor, token=eyes.token, mark=eyes.mark)
    rows = [[watched.measure(name_of(screenshot(number)))] for number in (0, 1, 0, 2)]
    sight = Sight(causal=None, eyes=watched)
    sight.follow([rows[0], rows[1], [], rows[2], rows[3]])
    for row in rows[1:]:
        patches, grids = sight.pixels(row)
        plain = eyes.pixels(row)
        assert torch.equal(patches, plain[0])
        assert torch.equal(grids, plain[1])
    assert len(threads) == 3, "each row's once, from wherever training begins"
    assert threads[0] == threading.current_thread().name
    assert all(name.startswith("pictures") for name in threads[1:])
    assert torch.equal(sight.pixels(rows[1])[0], eyes.pixels(rows[1])[0]), "what is not expected is decoded at once"


def test_a_picture_decides_the_loss_and_the_plan(eyes: Eyes) -> None:
    row = SftRow.model_validate(seen_row(0))
    seeing = SeeingTokeniser(seeing_tokenizer(), eyes)
    own = seeing.document(row.conversations, row.image)
    # Screenshots 0 and 6 have the same size.
    data = screenshot(6)
    path = Path(eyes.screens._prefix.removeprefix("file://")) / name_of(data)
    path.write_bytes(data)
    other = seeing.document(row.conversations, name_of(data))
    assert own.ids.tolist() == other.ids.tolist()
    assert own.fingerprint() != other.fingerprint()
    model = adapted("qwen2_5_vl", IMPLEMENTATION)
    sight = Sight(causal=model.get_base_model(), eyes=eyes)
    losses = [float(row_loss(model, [each], CPU, sight).detach()) for each in (own, other)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_preference_pairs_see_the_picture_of_their_prompt(eyes: Eyes) -> None:
    rows = [
        PreferenceRow.model_validate(with_screenshot(preference_row(number), name_of(screenshot(number))))
        for number in range(2)
    ]
    assert [eyes.objection(row) for row in rows] == ["", ""]
    pairs = tokenize_pairs(rows, seeing_tokenizer(), eyes)
    model, plain = (adapted("qwen2_5_vl", each) for each in (IMPLEMENTATION, "sdpa"))
    sight = Sight(causal=model.get_base_model(), eyes=eyes)
    with torch.no_grad():
        found = answer_log_probabilities(model, pairs, CPU, sight)
        for row, pair, packed in zip(rows, pairs, found, strict=True):
            assert row.image is not None
            for text, answer, log_probability in zip(
                (row.chosen, row.rejected), (pair.chosen, pair.rejected), packed, strict=True
            ):
                messages = [*with_parts(row.prompt), {"role": "assistant", "content": text}]
                inputs = plain_inputs(messages, [eyes.screens.picture(row.image)])
                logits = plain(**inputs, use_cache=False).logits[0].log_softmax(-1)
                start = pair.prompt.size
                places = torch.arange(start - 1, start - 1 + answer.size)
                alone = logits[places, torch.from_numpy(answer)].sum()
                assert float(log_probability) == pytest.approx(float(alone), abs=1e-3)


def test_an_adapter_stays_in_the_language_model_unless_the_tower_is_named() -> None:
    for targets in ("all-linear", ("q_proj", "gate_proj")):
        names = target_names(adapted("qwen2_5_vl", IMPLEMENTATION, targets))
        assert names and not any("visual" in name for name in names)
    model = adapted("qwen2_5_vl", IMPLEMENTATION, ("q_proj", "visual.blocks.0.attn.qkv"))
    assert any(name.endswith("visual.blocks.0.attn.qkv") for name in target_names(model))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    return Workplace(tmp_path)


def seeing_job(
    place: Workplace, name: str, rows: list[dict[str, Any]], pictures: int = PICTURES, **options: Any
) -> Any:
    base = save_seeing_base(place.folder / "seeing")
    data = publish_seen(f"file://{place.folder}/{name}", rows, pictures, dataset_format=options.pop("format", "sft"))
    return place.job(name, base_model=ModelRef(uri=f"file://{base}"), dataset=data, **options)


def test_a_job_trains_on_screenshots_and_its_adapter_is_pefts(place: Workplace) -> None:
    rows = [seen_row(number % PICTURES, words=1 + number) for number in range(8)] + [sft_row(3)]
    job = seeing_job(place, "seen", rows, epochs=7, learning_rate=1e-2, max_length=600)
    assert run_worker(job, worker.run_bare) == 0
    output = place.output(job)
    manifest = read_manifest(output.adapter, AdapterManifest)
    assert manifest.metrics["rows_left_out"] == 0
    assert output.final_loss < 5.2, "5.6 is that of not knowing"
    base = AutoModelForImageTextToText.from_pretrained(place.folder / "seeing")
    adapter = str(Path(output.adapter.uri.removeprefix("file://")))
    row = SftRow.model_validate(seen_row(2))
    screens = Screens(job.dataset.uri, place.folder / "again")
    inputs = plain_inputs(with_parts(row.conversations), [screens.picture(str(row.image))])
    with torch.no_grad():
        before = base(**inputs).logits
        after = PeftModel.from_pretrained(base, adapter).eval()(**inputs).logits
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("method", ["sft", "dpo"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("missing", "is missing in"),
        ("bytes", "is not what its name says"),
        ("picture", "is no PNG"),
        ("name", "names no screenshot of a dataset version"),
        ("placeholder", "0 human turns begin with a line `<image>`, it must be one"),
        ("unnamed", "a turn asks for one (`<image>`) and the row names none"),
        ("token", "a turn holds <|image_pad|>"),
    ],
)
def test_a_screenshot_that_cannot_be_used_is_named_with_its_row(
    tmp_path: Path, eyes: Eyes, method: str, damage: str, expected: str
) -> None:
    plain = sft_row(1) if method == "sft" else preference_row(1)
    good = with_screenshot(sft_row(0) if method == "sft" else preference_row(0), name_of(screenshot(0)))
    bad = with_screenshot(plain, name_of(screenshot(1)))
    turns = "conversations" if method == "sft" else "prompt"
    bytes_of = {"picture": b"no picture at all", "bytes": b"changed"}
    folder = tmp_path / "data" / "_screens"
    folder.mkdir(parents=True)
    if damage == "picture":
        bad["image"] = name_of(bytes_of[damage])
    elif damage == "name":
        bad["image"] = "../secret.png"
    elif damage == "placeholder":
        bad[turns] = plain[turns]
    elif damage == "unnamed":
        del bad["image"]
    elif damage == "token":
        bad[turns] = [*bad[turns][:1], {**bad[turns][1], "value": "<image>\nsee <|image_pad|>"}, *bad[turns][2:]]
    if damage in bytes_of:
        (folder / bad["image"]).write_bytes(bytes_of[damage])
    elif damage != "missing":
        (folder / name_of(screenshot(1))).write_bytes(screenshot(1))
    (folder / name_of(screenshot(0))).write_bytes(screenshot(0))
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)))
    seen = Eyes(
        screens=Screens(f"file://{tmp_path}/data/version/", tmp_path / "cache"),
        processor=eyes.processor,
        token=eyes.token,
        mark=eyes.mark,
    )
    with pytest.raises(WorkerError) as caught:
        if method == "sft":
            read_documents([file], seeing_tokenizer(), seen, dataset="sha256:0", cache=tmp_path)
        else:
            read_pairs([file], seeing_tokenizer(), seen)
    assert caught.value.failure_class == FailureClass.DATA
    assert caught.value.message.startswith("train.jsonl:2: ")
    assert expected in caught.value.message


def test_a_base_that_reads_text_only_refuses_screenshots(place: Workplace) -> None:
    data = publish_seen(f"file://{place.folder}/text", [sft_row(0), seen_row(1)], 2)
    job = place.job("text", dataset=data)
    run_worker(job, worker.run_bare)
    failure = place.result(job).failure
    assert failure is not None
    assert failure.message.startswith("train.jsonl:2: image: the row carries a screenshot, and the base model reads")
