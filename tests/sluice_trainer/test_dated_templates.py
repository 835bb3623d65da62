"""Chat templates that ask for today's date: the same tokens on every day, in training, probes and serving."""

import datetime

import pytest
import torch
from transformers.utils import chat_template_utils

from sluice_api.chat import TEMPLATE_DATE, pinned_template, strftime_now, to_messages
from sluice_api.contracts.dataset import PreferenceRow, SftRow
from sluice_runtime.engine import GenerationRequest, TextEngine
from sluice_trainer.dpo import tokenize_pairs
from sluice_trainer.live import LiveModel, Prompt
from sluice_trainer.token_cache import cache_key
from sluice_trainer.tokenise import Documents, Tokeniser, join_batches
from tiny_models import CHAT_TEMPLATE, preference_row, sft_row, tiny_model, tiny_tokenizer

DATED = (
    "{%- if strftime_now is defined %}{%- set today = strftime_now('%d %b %Y') %}{%- else %}{%- set today = '?' %}"
    "{%- endif %}Today: {{ today }}\n" + CHAT_TEMPLATE
)
FORMS = ("%d %b %Y", "%A, %-d %B %Y", "%Y-%m-%dT%H:%M:%S", "%j %U %y 100%% %%d", "%e|%I %p|%F|%Z%z|", "plain")


@pytest.fixture
def on(monkeypatch):
    """Moves the clock of transformers' renderer."""

    def move(year):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, 1, 2, tzinfo=tz)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return move


def documents(rows, tokenizer):
    tokeniser = Tokeniser(tokenizer)
    found = Documents(join_batches(tokeniser.encode(row.conversations for row in rows)))
    return [document.ids.tolist() for document in found], tokeniser


def test_another_day_gives_the_same_documents_and_pairs(on):
    tokenizer = tiny_tokenizer(DATED)
    rows = [SftRow.model_validate(sft_row(number)) for number in range(3)]
    pairs = [PreferenceRow.model_validate(preference_row(number)) for number in range(2)]
    found = []
    for year in (2025, 2026):
        on(year)
        ids, tokeniser = documents(rows, tokenizer)
        assert tokeniser._plan is not None, "rows are joined from what was rendered once, the date included"
        found.append((ids, [pair.fingerprint() for pair in tokenize_pairs(pairs, tokenizer)]))
    assert found[0] == found[1]
    assert tokenizer.decode(found[0][0][0]).startswith(f"Today: {TEMPLATE_DATE:%d %b %Y}\n<|system|>")


def test_probes_and_serving_see_the_day_that_training_saw(on, tmp_path):
    tokenizer = tiny_tokenizer(DATED)
    tokenizer.save_pretrained(tmp_path)
    model = tiny_model(tokenizer, layers=1)
    model.save_pretrained(tmp_path)
    turns = [{"from": "human", "value": "open the lamp"}, {"from": "gpt", "value": "click(1, 2)"}]
    row = SftRow.model_validate({"conversations": turns, "metadata": {}})
    on(2025)
    (trained,), _ = documents([row], tokenizer)
    on(2026)
    asked = LiveModel(model, tokenizer, torch.device("cpu"))._prompt_ids(Prompt(text="open the lamp", max_tokens=1))
    served = TextEngine(tmp_path)._encode(GenerationRequest(messages=to_messages(row.conversations[:-1]), max_tokens=1))
    assert asked == served == trained[: len(asked)]


@pytest.mark.parametrize("form", FORMS)
def test_a_pinned_template_writes_dates_as_strftime_does(form, on):
    on(2025)
    template = "\n  {% if true %}\n" + "{{ strftime_now('" + form + "') }}{% endif %}  x\n"
    write = chat_template_utils._compile_jinja_template(pinned_template(template)).render
    assert write() == f"\n{strftime_now(form)}  x"
    assert pinned_template(pinned_template(template)) == pinned_template(template)


def test_a_template_that_asks_for_no_date_is_left_alone_and_tokens_of_another_day_are_not_used():
    assert pinned_template(CHAT_TEMPLATE) is CHAT_TEMPLATE
    dated, pinned = tiny_tokenizer(DATED), tiny_tokenizer(pinned_template(DATED))
    assert cache_key("sha256:" + 64 * "0", dated) == cache_key("sha256:" + 64 * "0", pinned)
