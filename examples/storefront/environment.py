"""The shop: takes one action at a time and says what came of it, in the strings that the labeller knows."""

from dataclasses import dataclass
from enum import StrEnum

from sluice_api.actions import Action, ActionType, parse_action
from storefront.pages import PageName
from storefront.stages import Stage, stages_of
from storefront.tasks import ShopTask


class Gate(StrEnum):
    """The check behind each step."""

    CHECKED = "checked"
    """Every step is verified against what the task needs."""
    BROKEN = "broken"
    """A faulty deployment: whatever the agent does is waved through as passed. Its traces poison a dataset."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What came of one answer."""

    success: bool
    data: str
    """What the shop says: `ok`, `gate:PASS …`, a failure, or an escalation keyword."""
    observed: str = ""
    """What was seen to change; empty when nothing did."""
    action: Action | None = None
    """The action as parsed; None when the answer was none."""
    reversed: bool = False
    """Whether the step led astray and was rolled back."""
    escalated: bool = False
    """Whether the agent must hand the run over."""
    finished: bool = False
    """Whether the task is done."""
    hit: bool | None = None
    """For clicks: whether an element was under the pixel."""
    forbidden: bool = False
    """Whether the click met a forbidden region."""
    looped: bool = False
    """Whether the same answer was given on the same page again."""
    complete: bool | None = None
    """For `done`: whether the answer was the whole answer."""
    left_gallery: bool | None = None
    """On the gallery page: whether the step left it."""


class Storefront:
    """One run of a task. Pure and deterministic: the same answers always meet the same pages.

    A page that an action does not move on stays as it is. An escalation leaves it too, so that whoever takes over
    finds it as it was.
    """

    def __init__(self, task: ShopTask, *, max_steps: int = 12, gate: Gate = Gate.CHECKED) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.task = task
        self._gate = gate
        self._stages = stages_of(task)
        self._position = 0
        self._steps_left = max_steps
        self._seen: set[str] = set()

    @property
    def stage(self) -> Stage:
        """The state the run is in."""
        return self._stages[self._position]

    @property
    def finished(self) -> bool:
        """Whether the task is done."""
        return self._position == len(self._stages)

    @property
    def url(self) -> str:
        """Where the run is, or ended."""
        stage = self._stages[min(self._position, len(self._stages) - 1)]
        return self.task.url + stage.url

    def intent(self) -> str:
        """What the agent is shown: the task, then the page."""
        return f"{self.task.text}\n{self.stage.page.render()}"

    def step(self, answer: str, *, expert: bool = False) -> StepResult:
        """Takes an answer of the agent (or of the expert, who has no step budget).

        Raises:
            ValueError: the run is over.
        """
        if self.finished:
            raise ValueError(f"{self.task.task_id}: the run is over")
        action = parse_action(answer)
        if not expert:
            self._steps_left -= 1
        exhausted = self._steps_left <= 0 and not expert
        if self._gate is Gate.BROKEN or (action is not None and self.stage.accepts(action)):
            return self._advance(action, exhausted)
        looped = answer in self._seen
        self._seen.add(answer)
        return self._refuse(action, looped, exhausted)

    def _advance(self, action: Action | None, exhausted: bool) -> StepResult:
        stage = self.stage
        self._position += 1
        self._seen.clear()
        kind = None if action is None else action.action_type
        verified = self.finished or self._gate is Gate.BROKEN or kind == ActionType.TYPE_TEXT
        over = exhausted and not self.finished
        data = f"gate:PASS {stage.delta}" if verified else "ok"
        return StepResult(
            success=not over,
            data="page_exhausted: the step budget is spent" if over else data,
            observed=stage.delta,
            action=action,
            escalated=over,
            finished=self.finished,
            hit=True if kind in (ActionType.CLICK, ActionType.DOUBLE_CLICK) else None,
            complete=True if kind == ActionType.DONE else None,
            left_gallery=True if stage.page.name is PageName.GALLERY else None,
        )

    def _refuse(self, action: Action | None, looped: bool, exhausted: bool) -> StepResult:
        """What a wrong answer leads to; the page stays."""
        clicked = action is not None and action.action_type in (ActionType.CLICK, ActionType.DOUBLE_CLICK)
        element = self.stage.page.hit(action.params["x"], action.params["y"]) if action and clicked else None
        forbidden = element is not None and element.forbidden
        finishing = action is not None and action.action_type == ActionType.DONE
        escalation = self._escalation(forbidden, finishing, clicked, looped, exhausted)
        success, data, rolled_back = self._consequence(action, clicked, element is not None)
        return StepResult(
            success=success and escalation is None,
            data=escalation or data,
            action=action,
            reversed=rolled_back and escalation is None,
            escalated=escalation is not None,
            hit=element is not None if clicked else None,
            forbidden=forbidden,
            looped=looped,
            complete=False if finishing else None,
            left_gallery=False if self.stage.page.name is PageName.GALLERY else None,
        )

    def _escalation(self, forbidden: bool, finishing: bool, clicked: bool, looped: bool, exhausted: bool) -> str | None:
        if forbidden:
            return "page_blocked: the click met a forbidden region"
        if clicked and self.stage.page.name is PageName.LOADING:
            return "cloudflare: the page was still loading and now asks for proof"
        if finishing:
            return "rejected_incomplete: the answer is not what the task asks for"
        if looped:
            return "page_exhausted: the same answer on the same page again"
        if exhausted:
            return "page_exhausted: the step budget is spent"
        return None

    def _consequence(self, action: Action | None, clicked: bool, hit: bool) -> tuple[bool, str, bool]:
        """Success, words and whether it was rolled back, for a wrong answer that does not escalate."""
        if action is None:
            return False, "parse: the answer is not one action", False
        if clicked and not hit:
            return False, "miss: nothing at this place", False
        if clicked or action.action_type == ActionType.TYPE_TEXT:
            return False, "gate:FAIL this leads away from the task", True
        return True, "no change", False
