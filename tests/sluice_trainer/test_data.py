"""Rows to documents: what is refused, and which tokens are scored."""

import json
from pathlib import Path

import numpy as np
import pytest

from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.data import read_rows, render_segments, sft_objection, tokenize_rows
from tiny_models import sft_row, tiny_tokenizer

QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{% for message in messages %}{% if loop.first %}<|begin|>{% endif %}<|start|>{{ message['role'] }}<|stop|>\n\n"
    "{{ message['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
MISTRAL = (
    "<|begin|>{% set first = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% if first and loop.index0 == 1 %}{{ first }}\n\n{% endif %}{{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}<|end|>{% endif %}{% endfor %}"
)
GEMMA = (
    "<|begin|>{% for message in messages %}{% if message['role'] != 'system' %}<|turn|>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n\n{% endif %}"
    "{{ message['content'] | trim }}<|eot|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)
EXTRA = ("<|im_start|>", "<|im_end|>", "<|begin|>", "<|start|>", "<|stop|>", "<|eot|>", "<|turn|>")


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parse(row: dict[str, object]) -> SftRow:
    return SftRow.model_validate(row)


def refused(path: Path) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        read_rows(path, SftRow, sft_objection)
    assert caught.value.failure_class == FailureClass.DATA
    return caught.value


@pytest.mark.parametrize("label", ["negative", "neutral", "Positive", ""])
def test_a_row_that_is_not_positive_stops_training_with_its_place(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "train.jsonl", [sft_row(0), sft_row(1), sft_row(2, label=label)])
    message = refused(path).message
    assert message.startswith("train.jsonl:3: metadata.label is ")
    assert repr(label or "none") in message


def test_a_row_without_metadata_is_refused(tmp_path: Path) -> None:
    row = sft_row(0)
    del row["metadata"]
    assert "train.jsonl:1: metadata.label is 'none'" in refused(write(tmp_path / "train.jsonl", [row])).message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("{", "train.jsonl:2: not JSON", id="truncated"),
        pytest.param('{"conversations": 1}', "train.jsonl:2: conversations: ", id="wrong type names the field"),
        pytest.param(
            '{"conversations": [{"from": "robot", "value": ""}]}',
            "train.jsonl:2: conversations.0.from",
            id="unknown role",
        ),
        pytest.param(json.dumps(sft_row(1, image="a.png")), "train.jsonl:2: image: ", id="screenshot"),
        pytest.param(
            json.dumps({**sft_row(1), "conversations": sft_row(1)["conversations"][:2]}),
            "train.jsonl:2: conversations: the last turn",
            id="no answer",
        ),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(sft_row(0)) + "\n" + line + "\n", encoding="utf-8")
    message = refused(path).message
    assert message.startswith(expected)
    assert "open" not in message, "a message never quotes a row"


def test_no_rows_and_no_file_say_what_to_do(tmp_path: Path) -> None:
    assert "no rows" in refused(write(tmp_path / "train.jsonl", [])).message
    assert "has no absent.jsonl" in refused(tmp_path / "absent.jsonl").message
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(tmp_path / "binary.jsonl").message


@pytest.mark.parametrize("template", [QWEN, LLAMA, MISTRAL, GEMMA], ids=["qwen", "llama", "mistral", "gemma"])
def test_prompt_tokens_are_those_of_serving_and_the_answer_is_scored_to_its_stop(template: str) -> None:
    tokenizer = tiny_tokenizer(template, EXTRA)
    row = parse(sft_row(4))
    (document,) = tokenize_rows([row], tokenizer)
    messages = to_messages(row.conversations)
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(messages, return_dict=False)
    assert document.ids.tolist() == whole
    assert document.ids[: len(prompt)].tolist() == prompt
    assert not document.scored[: len(prompt)].any()
    scored = document.ids[document.scored].tolist()
    answer = tokenizer.decode(scored)
    assert answer.strip().startswith(row.conversations[-1].value)
    assert scored[-1] in tokenizer.all_special_ids, "the model has to learn to stop"
    assert np.flatnonzero(document.scored).tolist() == list(range(len(prompt), len(prompt) + len(scored)))
    assert "".join(text for text, _ in render_segments(row.conversations, tokenizer)) == tokenizer.apply_chat_template(
        messages, tokenize=False
    )


def test_the_line_break_after_the_end_of_turn_is_not_scored() -> None:
    tokenizer = tiny_tokenizer()
    (document,) = tokenize_rows([parse(sft_row(1))], tokenizer)
    assert document.ids[-1] != tokenizer.eos_token_id
    assert not document.scored[-1]
    assert document.ids[document.scored][-1] == tokenizer.eos_token_id


def test_every_assistant_turn_is_scored_and_nothing_else() -> None:
    tokenizer = tiny_tokenizer()
    turns = [("human", "a?"), ("gpt", "first"), ("human", "b?"), ("gpt", "second")]
    row = parse({"conversations": [{"from": role, "value": text} for role, text in turns], "metadata": {}})
    (document,) = tokenize_rows([row], tokenizer)
    assert tokenizer.decode(document.ids[document.scored]) == "first<|end|>second<|end|>"


def test_a_missing_template_and_one_that_rewrites_turns_are_user_errors() -> None:
    row = parse(sft_row(0))
    bare = tiny_tokenizer()
    bare.chat_template = None
    for tokenizer, expected in (
        (bare, "no chat template"),
        (tiny_tokenizer("{{ messages | length }}{{ messages[-1]['content'] }}"), "rewrites earlier turns"),
    ):
        with pytest.raises(WorkerError, match=expected) as caught:
            tokenize_rows([row], tokenizer)
        assert caught.value.failure_class == FailureClass.USER_ERROR
