"""One run: what the trace says of it, what it costs, what is measured, and who finishes it."""

import json

import pytest

from sluice_api.actions import format_action
from sluice_api.chat import SYSTEM_PROMPT, render_assistant, render_user
from sluice_api.contracts.scorecard import GateName
from sluice_api.contracts.trace import Label, LabelReason, RunStatus
from sluice_api.ladder import judge
from storefront.agent import run_task
from storefront.environment import Storefront
from storefront.expert import expert_answer, habit_answer
from storefront.tasks import TaskKind, evaluation_task, make_task


class Scripted:
    """A model that answers as a function of the shop's present state, kept in step with the run."""

    def __init__(self, task, answer):
        self.shop = Storefront(task, max_steps=1000)
        self.answer = answer
        self.prompts = []

    async def __call__(self, messages):
        self.prompts.append(messages)
        answer = self.answer(self.shop.stage)
        self.shop.step(answer, expert=True)
        return answer


def careless(stage):
    return habit_answer(stage) or expert_answer(stage)


def find(wanted):
    return next(task for task in map(make_task, range(5000)) if wanted(task))


async def test_a_run_without_a_slip():
    task = find(lambda task: task.kind is TaskKind.MESSAGE and not task.loading)
    model = Scripted(task, expert_answer)
    result = await run_task(task, model)
    assert (result.success, result.status, result.escalated) == (True, RunStatus.COMPLETED, False)
    assert [step.last_action.action_type for step in result.steps] == ["click", "click", "type_text", "click", "done"]
    assert result.costs.total == result.costs.gpu == pytest.approx(0.05)
    assert result.output == "sent"
    assert result.metrics[GateName.PARSER_VALIDITY].n == 5
    assert {name: value.value for name, value in result.metrics.items()} == {
        "parser_validity": 1.0,
        "grounding_accuracy": 1.0,
        "forbidden_region_avoidance": 1.0,
        "loop_rate_max": 0.0,
        "escalation_rate_max": 0.0,
        "done_completeness": 1.0,
    }


async def test_the_trace_teaches_exactly_what_was_asked_and_answered():
    for seed in range(60):
        task = make_task(seed)
        model = Scripted(task, expert_answer)
        for step, prompt in zip((await run_task(task, model)).steps, model.prompts, strict=True):
            user = render_user(step.intent, 1280, 720, False)
            assert [message["content"] for message in prompt] == [SYSTEM_PROMPT, user]
            assert step.envelope["prompt"] == user
            line = format_action(step.last_action.action_type, step.last_action.params)
            assert render_assistant(step.predicted_outcome, line) == step.envelope["answer"]


async def test_an_escalation_hands_over_to_the_expert():
    task = find(lambda task: task.kind is TaskKind.GALLERY and not task.loading)
    result = await run_task(task, Scripted(task, careless))
    assert (result.success, result.status, result.escalated) == (False, RunStatus.COMPLETED, True)
    assert [step.type for step in result.steps] == ["model", "model", "expert", "expert"]
    labels = [judge(step.success, step.data, step.observed_outcome) for step in result.steps]
    assert labels == [
        (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA),
        (Label.NEGATIVE, LabelReason.ESCALATION),
        (Label.POSITIVE, LabelReason.SUCCESS_WITH_OBSERVED_DELTA),
        (Label.POSITIVE, LabelReason.GATE_VERIFY_PASS),
    ]
    assert result.costs.claude == pytest.approx(0.25)
    assert result.metrics["gallery_recovery_rate"].value == 0.0
    assert result.metrics["loop_rate_max"].value == 0.5
    assert result.metrics["escalation_rate_max"].value == 0.25
    assert "done_completeness" not in result.metrics
    json.dumps([step.model_dump(mode="json") for step in result.steps])


async def test_a_spent_purse_halts_the_run():
    task = find(lambda task: task.kind is TaskKind.MESSAGE)
    result = await run_task(task, Scripted(task, expert_answer), max_cost=0.02)
    assert (result.success, result.status, len(result.steps)) == (False, RunStatus.HALTED, 2)


async def test_expert_runs_satisfy_the_suite_and_careless_ones_about_half():
    good = half = 0
    for seed in range(200):
        task = make_task(seed)
        result = await run_task(task, Scripted(task, expert_answer))
        wanted = {criterion.type: criterion.value for criterion in evaluation_task(task).criteria}
        good += (
            result.success
            and wanted.get("output_contains", "") in result.output
            and wanted.get("url_contains", "") in result.url
        )
        half += (await run_task(task, Scripted(task, careless))).success
    assert good == 200
    assert 70 < half < 130
