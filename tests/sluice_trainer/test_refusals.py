"""Bases, rows and settings that cannot be used: a class that is not tried again, and a message that names the place."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.jobs import FailureClass, ProbeGate, ProbePlan, TrainJob, TrainPhase
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.data import ROWS, read_rows
from sluice_trainer.documents import read_documents, read_pairs
from sluice_trainer.dpo import DpoRecipe, reference_log_probabilities
from sluice_trainer.group import Alone
from sluice_trainer.recipes import SftRecipe
from sluice_trainer.settings import check_job
from sluice_trainer.tokenise import ConversationError
from tiny_models import CHAT_TEMPLATE, preference_row, sft_row, tiny_model, tiny_tokenizer

DATASET = "sha256:" + 64 * "1"
CPU = torch.device("cpu")
INF = float("inf")
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE


def lines(path: Path, *rows: Any) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("".join(text + "\n" for text in texts).encode("utf-8", "surrogatepass"))
    return path


def documents(path: Path, tokenizer: Any) -> Any:
    return read_documents([path], tokenizer, None, dataset=DATASET, cache=path.parent / "cache")


def said(**turns: str) -> dict[str, Any]:
    return {**sft_row(1), "conversations": [{"from": role, "value": text} for role, text in turns.items()]}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(STRICT, "TemplateError: no system role", id="refuses the system turn"),
        pytest.param("\n{% for m in messages %}{{ m.content }", "TemplateSyntaxError in its line 2: ", id="syntax"),
        pytest.param(
            "{{ strftime_now('%d') }}\n{% for m in messages %}{{ m.content }",
            "TemplateSyntaxError in its line 2: ",
            id="syntax, dated",
        ),
        pytest.param("{{ nothing.at.all }}" + CHAT_TEMPLATE, "UndefinedError: 'nothing' is undefined", id="undefined"),
        pytest.param("{{ 1 // 0 }}" + CHAT_TEMPLATE, "ZeroDivisionError: ", id="arithmetic"),
        pytest.param("{{ messages.clear() }}" + CHAT_TEMPLATE, "SecurityError: ", id="security"),
        pytest.param("{{ range(10 ** 9) | length }}" + CHAT_TEMPLATE, "OverflowError: ", id="too much"),
    ],
)
def test_a_template_that_cannot_render_a_row_is_a_user_error_with_the_rows_place(tmp_path, template, expected):
    harmless = said(human="a?", gpt="b") if template is STRICT else sft_row(0)
    path = lines(tmp_path / "train.jsonl", harmless, sft_row(1))
    place = "train.jsonl:2: " if template is STRICT else "train.jsonl:1: "
    with pytest.raises(WorkerError) as caught:
        documents(path, tiny_tokenizer(template))
    assert caught.value.failure_class == FailureClass.USER_ERROR
    assert caught.value.message.startswith(place)
    assert expected in caught.value.message
    assert "chat_template.jinja" in caught.value.message
    pairs = lines(tmp_path / "pairs.jsonl", preference_row(0))
    with pytest.raises(WorkerError, match=r"^pairs.jsonl:1: .*chat_template.jinja") as caught:
        read_pairs([pairs], tiny_tokenizer(template), None)
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_a_place_beyond_one_batch_and_one_file_is_found(tmp_path):
    harmless = said(human="a?", gpt="b")
    files = [lines(tmp_path / "a.jsonl", *[harmless] * 600), lines(tmp_path / "b.jsonl", harmless, "", sft_row(1))]
    with pytest.raises(WorkerError, match=r"^b.jsonl:3: the base model's chat template cannot render"):
        read_documents(files, tiny_tokenizer(STRICT), None, dataset=DATASET, cache=tmp_path / "cache")


def test_the_number_of_a_conversation_survives_pickling():
    error = ConversationError(FailureClass.DATA, "no")
    error.number = 7
    again = pickle.loads(pickle.dumps(error))
    assert (again.failure_class, again.message, again.number) == (FailureClass.DATA, "no", 7)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(said(gpt="x"), "conversations: the first turn must not be", id="only an answer"),
        pytest.param("[]", "the row: Input should be", id="no object"),
        pytest.param("[" * 200_000, "brackets are nested too deeply", id="deep"),
        pytest.param('{"conversations": ' + "1" * 5000 + "}", "a number has more digits", id="digits"),
        pytest.param(
            json.dumps(sft_row(1, label="negative"))[:-1] + ', "metadata": {"label": "positive"}}',
            "the field metadata stands twice in one object: keep one",
            id="a second label",
        ),
        pytest.param('{"conversations": [{"open sesame": 1, "open sesame": 2}]}', ": a field stands", id="some field"),
        pytest.param(said(human="\ud800", gpt="x"), "half of a surrogate pair", id="half a pair"),
    ],
)
def test_a_line_that_is_no_row_is_data_with_its_place(tmp_path, row, expected):
    path = lines(tmp_path / "train.jsonl", said(human="\U0001f4a1", gpt="x"), row)
    with pytest.raises(WorkerError) as caught:
        read_rows(path, *ROWS["sft"])
    assert caught.value.failure_class == FailureClass.DATA
    assert caught.value.message.startswith("train.jsonl:2: ")
    assert expected in caught.value.message
    assert "open" not in caught.value.message, "a message never quotes a row"


def test_a_pair_whose_prompt_begins_with_an_answer_is_data(tmp_path):
    row = {**preference_row(0), "prompt": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "a"}]}
    with pytest.raises(WorkerError, match=r"^pairs.jsonl:1: prompt: the first turn must not be"):
        read_rows(lines(tmp_path / "pairs.jsonl", row), *ROWS["dpo"])


def bad_text() -> pa.Array:
    return pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param({}, "train-00000.parquet: has no column digest", id="no digest"),
        pytest.param({"image": bad_text(), "digest": [b"0" * 16]}, "train-00000.parquet:1 to 1: not UTF-8", id="text"),
    ],
)
def test_a_shard_that_holds_no_rows_is_data(tmp_path, columns, expected):
    row = {"conversations": [said(human="a", gpt="b")["conversations"]], "metadata": [{"label": "positive"}]}
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.table({**row, **columns}), path)
    with pytest.raises(WorkerError) as caught:
        read_rows(path, *ROWS["sft"])
    assert caught.value.failure_class == FailureClass.DATA
    assert caught.value.message.startswith(expected)


def test_a_shard_whose_columns_have_no_names_is_data(tmp_path):
    path = tmp_path / "train-00000.parquet"
    pq.write_table(pa.table({"image": ["x"], "digest": [b"0" * 16]}), path)
    path.write_bytes(path.read_bytes().replace(b"image", b"\xffmage"))
    with pytest.raises(WorkerError, match=r"^train-00000.parquet") as caught:
        read_rows(path, *ROWS["sft"])
    assert caught.value.failure_class == FailureClass.DATA


BARE = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"chosen": "<think>a</think>"}, "chosen", id="chosen"),
        pytest.param({"rejected": "<think>a</think>"}, "rejected", id="rejected"),
        pytest.param({"prompt": [{"from": "human", "value": ""}]}, "prompt", id="prompt"),
    ],
)
def test_a_pair_of_which_the_template_leaves_nothing_is_data(tmp_path, changes, field):
    path = lines(tmp_path / "pairs.jsonl", preference_row(0), {**preference_row(1), **changes})
    with pytest.raises(WorkerError, match=f"^pairs.jsonl:2: {field}: .* leaves nothing") as caught:
        read_pairs([path], tiny_tokenizer(BARE), None)
    assert caught.value.failure_class == FailureClass.DATA


def test_a_template_that_writes_what_no_tokenizer_encodes_is_a_user_error(tmp_path):
    path = lines(tmp_path / "train.jsonl", sft_row(0))
    with pytest.raises(WorkerError, match="tokenizer cannot encode") as caught:
        documents(path, tiny_tokenizer("{{ '\\ud800' }}" + CHAT_TEMPLATE))
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_tokens_that_the_weights_do_not_know_are_a_user_error(tmp_path):
    model = tiny_model(tiny_tokenizer(), layers=1)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["lamp"])
    unknown = len(tokenizer) - 1
    found = documents(lines(tmp_path / "train.jsonl", sft_row(0)), tokenizer)
    pairs = read_pairs([lines(tmp_path / "pairs.jsonl", preference_row(0))], tokenizer, None)
    for attempt in (
        lambda: SftRecipe(model, found, {}, CPU),
        lambda: reference_log_probabilities(model, pairs, row_tokens=500, device=CPU, group=Alone()),
        lambda: DpoRecipe(model, pairs, {}, reference=torch.zeros(1, 2), beta=0.1, device=CPU),
    ):
        with pytest.raises(WorkerError, match=rf"writes token {unknown}, its weights know {unknown} tokens") as caught:
            attempt()
        assert caught.value.failure_class == FailureClass.USER_ERROR


def job(**options: Any) -> TrainJob:
    ref = ArtifactRef(uri="file:///data", digest=DATASET)
    return TrainJob(
        run=RunRef(kind="FineTuneRun", namespace="default", name="a", uid="a"),
        attempt=1,
        output_uri="file:///out",
        dataset=ref,
        base_model=ModelRef(uri="file:///base"),
        checkpoint_uri="file:///checkpoints",
        adapter_uri="file:///adapters",
        **options,
    )


def gated(**rates: float) -> dict[str, Any]:
    plan = ProbePlan(suite_uri="builtin:x", gates=[ProbeGate(at_step=5, **rates)], extend_to=9)
    return {"max_steps": 5, "probes": plan}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rate": INF}, "learning_rate is inf"),
        ({"dpo_beta": INF}, "dpo_beta is inf"),
        ({"epochs": INF}, "epochs is inf"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": -(2**63) - 1}, "seed is -9223372036854775809"),
        ({"phases": [TrainPhase(learning_rate=INF)]}, "learning_rate is inf"),
        ({"phases": [TrainPhase(learning_rates={"mlp": INF})]}, "learning_rate is inf"),
        (gated(pass_rate=float("nan")), r"probes.gates\[0\].pass_rate is nan"),
        (gated(syntax_rate=2.0), r"probes.gates\[0\].syntax_rate is 2.0"),
    ],
)
def test_numbers_that_cannot_be_are_user_errors_by_field(options, expected):
    with pytest.raises(WorkerError, match=expected) as caught:
        check_job(job(**options))
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_the_largest_and_smallest_seed_are_taken():
    for seed in (2**64 - 1, -(2**63)):
        torch.manual_seed(check_job(job(seed=seed)).plan.seed)
