"""Rows longer than a base model knows positions."""

import pytest
from transformers import LlamaConfig, Qwen3Config

from sluice_api.contracts.dataset import PreferenceRow
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError, run_worker
from sluice_trainer.dpo import pair_sizes, tokenize_pairs
from sluice_trainer.fitting import check_positions
from sluice_trainer.plan import DocumentSize, PlanConfig, build_plan
from sluice_trainer.worker import CACHE_VARIABLE, run_bare
from tiny_models import preference_row, publish_rows, sft_row, tiny_tokenizer
from training_jobs import Workplace

STRETCHED = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}


def plan_of(length):
    config = PlanConfig(max_length=8192, tokens_per_step=8192)
    return build_plan([DocumentSize(length=length, scored=1, fingerprint=b"x")], config)


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (LlamaConfig(max_position_embeddings=1024), 1024),
        (LlamaConfig(max_position_embeddings=1024, rope_parameters=STRETCHED), 4096),
        (
            Qwen3Config(
                max_position_embeddings=4096,
                rope_parameters={**STRETCHED, "original_max_position_embeddings": 1024},
            ),
            4096,
        ),
    ],
    ids=["plain", "stretched", "stretched and said so"],
)
def test_a_row_may_reach_as_far_as_the_base_knows_positions(config, known):
    check_positions(config, plan_of(known))
    with pytest.raises(WorkerError, match=f"knows {known} positions .* set sequence.maxLength to {known}") as caught:
        check_positions(config, plan_of(known + 1))
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_both_answers_of_a_pair_begin_where_its_prompt_ends():
    (pair,) = tokenize_pairs([PreferenceRow.model_validate(preference_row(1))], tiny_tokenizer())
    prompt, chosen, rejected = pair.lengths
    assert pair_sizes([pair])[0].positions == prompt + max(chosen, rejected)


def test_a_run_with_rows_beyond_the_base_ends_as_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    place = Workplace(tmp_path, rows=1)
    turns = [{"from": "human", "value": "a" * 1500}, {"from": "gpt", "value": "b"}]
    dataset = publish_rows(f"file://{tmp_path}/long", [sft_row(0), {**sft_row(1), "conversations": turns}])
    job = place.job("long", dataset=dataset, max_length=2000, tokens_per_step=2000)
    assert run_worker(job, run_bare) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.USER_ERROR
    assert "knows 1024 positions" in failure.message
