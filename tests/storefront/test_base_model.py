"""The base model's parts: a tokenizer that loses nothing, a template that marks the answer, repeatable training."""

import pytest
from safetensors.torch import load_file

from storefront.base_model import BaseRecipe, make_model, make_tokenizer, save, train_base
from storefront.demonstrations import demonstrations
from storefront.expert import expert_answer
from storefront.stages import stages_of
from storefront.tasks import make_task

RECIPE = BaseRecipe(tasks=80, steps=3, batch=4, width=32, layers=2, heads=2, threads=1)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(BaseRecipe())


def test_any_text_survives_the_tokenizer(tokenizer):
    for text in ("third (270, 420) red lamp $42", "naïve “quotes” \n\t 日本", 'type_text("a\\"b")'):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_rows_are_short_and_the_template_marks_the_answer(tokenizer):
    for row in demonstrations(0, 200, carelessness=0.5):
        rendered = tokenizer.apply_chat_template(
            row.messages(), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = rendered["input_ids"], rendered["assistant_masks"]
        assert len(ids) <= 160
        scored = [token for token, marked in zip(ids, mask, strict=True) if marked]
        assert tokenizer.decode(scored) == row.answer + "<|end|>"
        prompt = tokenizer.apply_chat_template(row.messages()[:-1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(row.messages(), tokenize=False)
        assert whole == prompt + row.answer + "<|end|>"


def test_the_model_is_small(tokenizer):
    assert make_model(BaseRecipe(), tokenizer).num_parameters() < 3_000_000


def test_demonstrations_are_careless_in_traps_only():
    clean = list(demonstrations(0, 100, carelessness=0.0))
    assert [row.answer for row in clean] == [
        expert_answer(stage) for seed in range(100) for stage in stages_of(make_task(seed))
    ]
    careless = list(demonstrations(0, 100, carelessness=1.0))
    traps = [stage.habit is not None for seed in range(100) for stage in stages_of(make_task(seed))]
    assert [a.answer != b.answer for a, b in zip(clean, careless, strict=True)] == traps


def test_training_repeats_itself_and_learns(tmp_path):
    losses = []
    for name in ("a", "b"):
        seen = []
        model, tokenizer = train_base(RECIPE, lambda _, loss, seen=seen: seen.append(loss))
        save(model, tokenizer, tmp_path / name)
        losses.append(seen)
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize("wrong", [{"width": 30, "heads": 4}, {"carelessness": 1.5}, {"steps": 0}, {"vocabulary": 100}])
def test_a_recipe_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BaseRecipe(**wrong)
