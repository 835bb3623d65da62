"""Tokens and masks against the tokenizer's own, for four families; what is fast must be the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_api.chat import to_messages
from sluice_api.contracts.dataset import Turn
from sluice_trainer.chat_plan import ChatPlan, fill
from sluice_trainer.tokenise import Documents, Tokeniser, join_batches, render_segments
from sluice_trainer.words import WordEncoder
from tokenisers import FAMILIES, family_tokenizer

PIECES = [*map(chr, range(32, 127)), "\n", " ", "  ", "\n\n", "'s", "'LL", "1234", "word", " word", "..."]
ASCII = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
SAID = st.one_of(ASCII, st.text(max_size=20), st.sampled_from(["<|im_end|>", "a [INST] b", "x<s>y", "<end_of_turn>"]))
# Answers as the converter writes them start with a word: where they do not, the boundary to the prompt is ours.
ANSWERS = st.one_of(
    st.from_regex(r"[A-Z][a-z ]{0,20}\.\nclick\([0-9]{1,3}, [0-9]{1,3}\)", fullmatch=True),
    st.from_regex(r'type_text\("[A-Za-z0-9 ,.!?]{1,20}"\)', fullmatch=True),
    st.sampled_from(["Señor, 漢字.\nwait(1)", "It's done.\ndone(\"it's\")"]),
)


def turns(*said: tuple[str, str]) -> list[Turn]:
    return [Turn.model_validate({"from": role, "value": text}) for role, text in said]


def documents(conversations, tokenizer):
    return Documents(join_batches(Tokeniser(tokenizer).encode(conversations)))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.tuples(SAID.filter(str.strip), ANSWERS), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_ids_and_masks_are_those_of_the_chat_template(family, chosen):
    tokenizer = family_tokenizer(family)
    conversations = [
        turns(
            *([("system", "You operate a screen.")] if system else []),
            *(turn for asked, said in exchange for turn in (("human", asked), ("gpt", said))),
        )
        for system, exchange in chosen
    ]
    found = documents(conversations, tokenizer)
    for conversation, document in zip(conversations, found, strict=True):
        theirs = tokenizer.apply_chat_template(
            to_messages(conversation), return_dict=True, return_assistant_tokens_mask=True
        )
        assert document.ids.tolist() == theirs["input_ids"]
        assert document.scored.astype(int).tolist() == theirs["assistant_masks"]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=80, deadline=None)
@given(st.lists(SAID, max_size=6))
def test_remembered_words_give_the_tokenizers_own_ids(family, texts):
    tokenizer = family_tokenizer(family)
    encoder = WordEncoder(tokenizer)
    assert encoder.remembers == (family != "gemma")
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    for _ in range(2):
        assert encoder.encode(texts) == expected


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(SAID.filter(str.strip), SAID.filter(str.strip)), min_size=1, max_size=3))
def test_a_plan_renders_what_the_template_renders(family, exchange):
    tokenizer = family_tokenizer(family)
    conversation = turns(*(turn for asked, said in exchange for turn in (("human", asked), ("gpt", said))))
    messages = to_messages(conversation)
    plan = ChatPlan(tokenizer.chat_template, tokenizer.special_tokens_map)
    pieces = plan.pieces(tuple(message["role"] for message in messages))
    assert pieces is not None, "these templates only copy"
    contents = [message["content"] for message in messages]
    assert [(fill(parts, contents), scored) for parts, scored in pieces] == render_segments(conversation, tokenizer)


@pytest.mark.parametrize(
    "body",
    [
        "{% if 'x' in m.content %}a{% endif %}{{ m.content }}",
        "{% if m.content == 'x' %}a{% endif %}{{ m.content }}",
        "{% if m.content in 'xyz' %}a{% endif %}{{ m.content }}",
        "{% if m.content | length > 9 %}a{% endif %}{{ m.content }}",
        "{{ m.content.split('x')[0] }}",
        "{{ m.content[:9] }}",
        "{{ m.content | upper }}",
        "{{ m.content | tojson }}",
        "{{ m | tojson }}",
        "{{ m.content | int }}",
        "{{ m.content.strip('x') }}",
        "{% set kept %}{{ m.content }}{% endset %}{{ kept | replace('x', 'y') }}",
        "{% set kept = m.content ~ '' %}{% if 'x' in kept %}a{% endif %}{{ kept }}",
        "{% macro said(text) %}{{ text }}{% endmacro %}{{ said(m.content) | trim }}",
        "{% for letter in m.content %}{{ letter }}{% endfor %}",
        "{{ '%.3s' | format(m.content) }}",
        "{% if ''.join(['', m.content]).startswith('x') %}a{% endif %}{{ m.content }}",
        "{% set glue = ''.join %}{% if glue(['', m.content]) == 'x' %}a{% endif %}{{ m.content }}",
        "{% set namespace = ''.join %}{% if namespace(['', m.content]) == 'x' %}a{% endif %}{{ m.content }}",
        "{% if '{}'.format(m.content).startswith('x') %}a{% endif %}{{ m.content }}",
        "{% if '.'.replace('.', m.content).startswith('x') %}a{% endif %}{{ m.content }}",
        "{% if ('%s' % m.content).startswith('x') %}a{% endif %}{{ m.content }}",
        "{% set form = '%s' %}{% if (form % (m.content,)).startswith('x') %}a{% endif %}{{ m.content }}",
        "{% if m.content is in 'xyz' %}a{% endif %}{{ m.content }}",
        "{% if [m] | selectattr('content', 'in', 'xyz') | list %}a{% endif %}{{ m.content }}",
        "{% block said scoped %}{{ m.content }}{% endblock %}{% if self.said().startswith('x') %}a{% endif %}",
        "{% for each in [m] recursive %}{{ each if each is string else loop([m.content]) | trim }}{% endfor %}",
        "{{ m.content",
    ],
)
def test_a_template_that_looks_at_what_is_said_gets_no_plan(body):
    assert ChatPlan("{% for m in messages %}" + body + "{% endfor %}", {}).pieces(("user", "assistant")) is None


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content.strip() }}",
        "{{ m.get('content') }}",
        "{% set kept = namespace(text=m.content) %}{{ kept.text }}",
        "{% set kept = dict(text=m['content']) %}{{ kept['text'] | trim }}",
        "{% if loop.index0 % 2 == 0 %}a{% endif %}{{ m.content }}",
        "{% if m.content is string %}{{ m.content }}{% endif %}",
        "{{ ([m] | rejectattr('role', 'equalto', 'tool') | list)[0].content }}",
        "{{ strftime_now('%d %b %Y') }}{{ '-' * 3 }}{{ m.content }}",
    ],
)
def test_a_template_that_copies_in_harmless_words_gets_a_plan(body):
    given = {"strftime_now": lambda form: "today"}
    assert ChatPlan("{% for m in messages %}" + body + "{% endfor %}", given).pieces(("user", "assistant"))


def test_a_template_that_looks_at_what_is_said_is_followed_all_the_same():
    tokenizer = family_tokenizer("qwen")
    kept = "+ '<|im_end|>' }}{% endif"
    looking = tokenizer.chat_template.replace(kept, f"| replace('x', 'y') {kept}")
    chat = turns(("human", "x marks it"), ("gpt", "click(1, 2)"))
    original, tokenizer.chat_template = tokenizer.chat_template, looking
    try:
        (document,) = documents([chat], tokenizer)
        assert tokenizer.decode(document.ids).startswith("<|im_start|>user\ny marks it<|im_end|>")
    finally:
        tokenizer.chat_template = original


def test_an_empty_turn_is_left_to_the_template():
    tokenizer = family_tokenizer("qwen")
    chat = turns(("human", " "), ("gpt", 'done("")'))
    (document,) = documents([chat], tokenizer)
    assert document.ids.tolist() == tokenizer.apply_chat_template(to_messages(chat), return_dict=False)
