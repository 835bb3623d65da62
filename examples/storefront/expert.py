"""The scripted expert that takes over escalated runs: solves every task, at a price."""

from sluice_api.actions import format_action
from sluice_api.chat import render_assistant
from storefront.stages import Stage


def expert_answer(stage: Stage) -> str:
    """What the expert answers in a state: expected outcome and action, in the very shape that a model answers in."""
    return render_assistant(stage.outcome, _line(stage))


def habit_answer(stage: Stage) -> str | None:
    """What a careless hand answers in a state; None where it does the right thing for want of a trap."""
    if stage.habit is None:
        return None
    line = format_action(stage.habit.action_type, stage.habit.params)
    return None if line is None else render_assistant(stage.habit_outcome, line)


def _line(stage: Stage) -> str:
    line = format_action(stage.action.action_type, stage.action.params)
    if line is None:
        raise ValueError(f"page {stage.page.name}: the grammar cannot say {stage.action}")
    return line
