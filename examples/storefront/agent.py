"""One run: prompt, answer, action, until the task is done; when the model is stuck, the expert takes over."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sluice_api.chat import prompt_turns, render_user, split_answer, to_messages
from sluice_api.contracts.evaluation import MetricValue
from sluice_api.contracts.scorecard import GateName
from sluice_api.contracts.trace import Costs, RunStatus, TraceAction, TraceStep
from storefront.environment import Gate, StepResult, Storefront
from storefront.expert import expert_answer
from storefront.pages import SCREEN_HEIGHT, SCREEN_WIDTH, PageName
from storefront.tasks import ShopTask

MODEL_STEP_COST = 0.01
"""US dollars that one answer of the model costs."""
HANDOVER_COST = 0.15
"""US dollars for calling the expert."""
EXPERT_STEP_COST = 0.05
"""US dollars that one step of the expert costs."""
ANSWER_TOKENS = 48
"""Tokens of an answer at most; the longest good one has about 30."""


class Complete(Protocol):
    """Answers a prompt with text."""

    async def __call__(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's answer."""
        ...


class StepType(StrEnum):
    """Who took a step."""

    MODEL = "model"
    EXPERT = "expert"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run came to."""

    success: bool
    """Whether the model solved the task without help."""
    status: RunStatus
    url: str
    output: str
    """The final answer, whoever gave it."""
    costs: Costs
    duration_s: float
    escalated: bool
    steps: list[TraceStep]
    metrics: dict[str, MetricValue]
    """By scorecard gate, measured on this run; only those that had something to measure."""


@dataclass
class _Tally:
    """Counts behind the metrics of a run."""

    answers: int = 0
    parsed: int = 0
    clicks: int = 0
    hits: int = 0
    forbidden: int = 0
    loops: int = 0
    steps: int = 0
    escalations: int = 0
    finals: int = 0
    complete: int = 0
    gallery_seen: bool = False
    gallery_left: bool = False

    def model_step(self, page: PageName, result: StepResult) -> None:
        """Counts a step of the model."""
        self.answers += 1
        self.parsed += result.action is not None
        self.clicks += result.hit is not None
        self.hits += result.hit is True
        self.forbidden += result.forbidden
        self.loops += result.looped
        self.finals += result.complete is not None
        self.complete += result.complete is True
        self.gallery_seen = self.gallery_seen or page is PageName.GALLERY
        self.gallery_left = self.gallery_left or result.left_gallery is True

    def metrics(self) -> dict[str, MetricValue]:
        """Rates with their denominators."""
        counted = {
            GateName.PARSER_VALIDITY: (self.parsed, self.answers),
            GateName.GROUNDING_ACCURACY: (self.hits, self.clicks),
            GateName.FORBIDDEN_REGION_AVOIDANCE: (self.answers - self.forbidden, self.answers),
            GateName.LOOP_RATE_MAX: (self.loops, self.answers),
            GateName.GALLERY_RECOVERY_RATE: (int(self.gallery_left), int(self.gallery_seen)),
            GateName.ESCALATION_RATE_MAX: (self.escalations, self.steps),
            GateName.DONE_COMPLETENESS: (self.complete, self.finals),
        }
        return {str(gate): MetricValue(value=part / n, n=n) for gate, (part, n) in counted.items() if n}


@dataclass
class _Run:
    """State of a run while it goes on."""

    shop: Storefront
    clock: Callable[[], float]
    steps: list[TraceStep] = field(default_factory=list)
    tally: _Tally = field(default_factory=_Tally)
    gpu: float = 0.0
    expert: float = 0.0
    output: str = ""

    @property
    def cost(self) -> float:
        return self.gpu + self.expert

    def take(self, answer: str, kind: StepType, started: float) -> StepResult:
        """Carries out an answer and records the step."""
        page, intent = self.shop.stage.page.name, self.shop.intent()
        result = self.shop.step(answer, expert=kind is StepType.EXPERT)
        self.tally.steps += 1
        self.tally.escalations += result.escalated
        if kind is StepType.MODEL:
            self.gpu += MODEL_STEP_COST
            self.tally.model_step(page, result)
        else:
            self.expert += EXPERT_STEP_COST
        if result.action is not None and result.action.action_type == "done":
            self.output = str(result.action.params["summary"])
        self.steps.append(self._step(answer, kind, intent, result, self.clock() - started))
        return result

    def _step(self, answer: str, kind: StepType, intent: str, result: StepResult, duration: float) -> TraceStep:
        action = result.action
        return TraceStep(
            step_index=len(self.steps),
            intent=intent,
            type=kind,
            success=result.success,
            data=result.data,
            steps_used=1,
            duration=round(duration, 4),
            reversed=result.reversed,
            last_action=None
            if action is None
            else TraceAction(action_type=action.action_type, params=dict(action.params)),
            predicted_outcome=split_answer(answer)[0] if action is not None else "",
            observed_outcome=result.observed,
            reasoning="",
            envelope={"prompt": render_user(intent, SCREEN_WIDTH, SCREEN_HEIGHT, False), "answer": answer},
        )


async def run_task(
    task: ShopTask,
    complete: Complete,
    *,
    max_steps: int = 12,
    max_cost: float = 1.0,
    gate: Gate = Gate.CHECKED,
    clock: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Runs a task.

    Args:
        task: what is asked for, and the shop.
        complete: the model.
        max_steps: steps of the model at most; then it escalates.
        max_cost: US dollars at most; then the run is halted.
        gate: the shop's check behind each step.
        clock: seconds, for durations.
    """
    started = clock()
    run = _Run(Storefront(task, max_steps=max_steps, gate=gate), clock)
    escalated = False
    while not run.shop.finished and run.cost < max_cost:
        began = clock()
        if escalated:
            run.take(expert_answer(run.shop.stage), StepType.EXPERT, began)
            continue
        prompt = to_messages(prompt_turns(run.shop.intent(), SCREEN_WIDTH, SCREEN_HEIGHT))
        escalated = run.take(await complete(prompt), StepType.MODEL, began).escalated
        if escalated:
            run.expert += HANDOVER_COST
    return RunResult(
        success=run.shop.finished and not escalated,
        status=RunStatus.COMPLETED if run.shop.finished else RunStatus.HALTED,
        url=run.shop.url,
        output=run.output,
        costs=Costs(gpu=round(run.gpu, 4), claude=round(run.expert, 4), total=round(run.cost, 4)),
        duration_s=clock() - started,
        escalated=escalated,
        steps=run.steps,
        metrics=run.tally.metrics(),
    )
