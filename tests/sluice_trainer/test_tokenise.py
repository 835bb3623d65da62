"""Conversations to documents: which tokens, and which of them are scored."""

import numpy as np
import pytest

from documents import tokenize_rows
from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.tokenise import render_segments
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


def parse(row: dict[str, object]) -> SftRow:
    return SftRow.model_validate(row)


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
