"""The agent: one run of one task, from prompt to prompt, until it is done or the expert has finished it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluice_api.chat import prompt_turns, split_answer, to_messages
from sluice_api.contracts.trace import Costs, TraceAction, TraceStep
from storefront.environment import StepResult, Storefront
from storefront.expert import expert_answer
from storefront.pages import SCREEN_HEIGHT, SCREEN_WIDTH
from storefront.tasks import ShopTask

COST_PER_ANSWER = 0.0004
"""US dollars of one answer of the model."""
COST_PER_EXPERT_STEP = 0.02
"""US dollars of one step of the expert."""

Answer = Callable[[list[dict[str, str]]], Awaitable[str]]
"""Asks the model: chat messages in, text out."""


@dataclass
class Tally:
    """Numerators and denominators of what is measured on a run."""

    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, good: bool | None) -> None:
        """Count one observation; None is none."""
        if good is not None:
            pair = self.counts.setdefault(name, [0, 0])
            pair[0] += good
            pair[1] += 1

    def observe(self, result: StepResult) -> None:
        """Count what one answer of the model shows."""
        self.add("parser_validity", result.action is not None)
        self.add("grounding_accuracy", result.hit)
        self.add("forbidden_region_avoidance", not result.forbidden)
        self.add("loop_rate_max", result.looped)
        self.add("gallery_recovery_rate", result.left_gallery)
        self.add("escalation_rate_max", result.escalated)
        self.add("done_completeness", result.complete)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return rates with their denominators, by scorecard gate."""
        return {name: {"value": good / n, "n": n} for name, (good, n) in self.counts.items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run."""

    task: ShopTask
    success: bool
    """Whether the model finished the task without the expert."""
    escalated: bool
    output: str
    """What `done` said."""
    url: str
    steps: tuple[TraceStep, ...]
    costs: Costs
    started_at: datetime
    ended_at: datetime
    metrics: dict[str, dict[str, float]]

    @property
    def outcome(self) -> dict[str, Any]:
        """Return the run as `POST /v1/predict` answers it."""
        return {
            "success": self.success,
            "status": "completed",
            "url": self.url,
            "output": self.output,
            "cost": self.costs.total,
            "duration_s": (self.ended_at - self.started_at).total_seconds(),
            "error": None,
            "metrics": self.metrics,
        }


async def run_task(
    task: ShopTask, answer: Answer, *, max_steps: int = 12, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Run:
    """Run a task with a model; on escalation the expert finishes it, as it would in production.

    Whatever `answer` raises ends the run: a run that was not served is none.
    """
    shop, tally = Storefront(task, max_steps=max_steps), Tally()
    started, steps, handed_over, output, asked = clock(), [], False, "", 0
    while not shop.finished:
        prompt = to_messages(prompt_turns(shop.intent(), SCREEN_WIDTH, SCREEN_HEIGHT))
        intent, before, expert = shop.intent(), clock(), handed_over
        text = expert_answer(shop.stage) if expert else await answer(prompt)
        result = shop.step(text, expert=expert)
        if not expert:
            asked += 1
            tally.observe(result)
        if result.finished and result.action is not None:
            output = str(result.action.params.get("summary") or result.action.params.get("text") or "")
        steps.append(_step(len(steps), intent, prompt, text, result, expert, (clock() - before).total_seconds()))
        handed_over = handed_over or result.escalated
    gpu, claude = asked * COST_PER_ANSWER, (len(steps) - asked) * COST_PER_EXPERT_STEP
    return Run(
        task=task,
        success=not handed_over,
        escalated=handed_over,
        output="" if handed_over else output,
        url=shop.url,
        steps=tuple(steps),
        costs=Costs(gpu=gpu, claude=claude, total=gpu + claude),
        started_at=started,
        ended_at=clock(),
        metrics=tally.metrics(),
    )


def _step(
    index: int,
    intent: str,
    prompt: list[dict[str, str]],
    text: str,
    result: StepResult,
    expert: bool,
    duration: float,
) -> TraceStep:
    """Return the trace's record of one answer."""
    predicted, line = split_answer(text)
    action = result.action
    return TraceStep(
        step_index=index,
        intent=intent,
        type="expert" if expert else "model",
        success=result.success,
        data=result.data,
        steps_used=1,
        duration=round(duration, 4),
        reversed=result.reversed,
        last_action=None if action is None else TraceAction(action_type=action.action_type, params=dict(action.params)),
        predicted_outcome=predicted,
        observed_outcome=result.observed,
        reasoning=None if action is not None else line,
        envelope={"prompt": prompt[-1]["content"], "answer": text},
    )
