"""The way back: the weight to 0 first, then the word about it; what ended stays ended until a retry."""

from sluice_api.v1alpha1.shadowrollout import ShadowRolloutStatus, Weight
from sluice_operator.decisions.base import Action, Decision, EmitEvent, RouterProblem
from sluice_operator.decisions.common import AT_ONCE, Command, Mood, Verdict, acknowledge, condition, pending_command
from sluice_operator.decisions.models import served_by_channel
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason
from sluice_operator.decisions.shadowrollout_analysis import look
from sluice_operator.decisions.shadowrollout_view import Rollout, adopts, reset, route_of, told


def to_zero(facts: Rollout, status: ShadowRolloutStatus) -> tuple[Action, ...]:
    """Return the action that takes the candidate out, where the route gives it traffic or cannot be trusted.

    A route whose name somebody else holds is left alone.
    """
    route, back = facts.observed.route, route_of(facts, status, 0)
    if route is None or back is None or route.problem is RouterProblem.CONFLICT:
        return ()
    unknown = route.problem is RouterProblem.UNREACHABLE or (
        route.problem is RouterProblem.FOREIGN_EDIT and not adopts(facts)
    )
    return (back,) if unknown or (route.exists and route.weight + route.mirror > 0) else ()


def again(facts: Rollout, status: ShadowRolloutStatus, reason: Reason, message: str) -> Decision:
    """Take the candidate out and go back before the first step."""
    actions: tuple[Action, ...] = () if status.outcome == "Completed" else to_zero(facts, status)
    fresh = reset(status)
    promote = pending_command(facts.obj, fresh, Command.PROMOTE)
    if promote is not None:
        # An approval of what was before must not approve what comes.
        fresh = acknowledge(fresh, Command.PROMOTE, promote)
    text = f"{message}: it starts again from 0"
    verdict = Verdict(mood=Mood.WORKING, phase=Phase.PENDING, reason=reason, message=text)
    event = EmitEvent(reason=reason, message=text)
    return told(facts, fresh, verdict, actions=(*actions, event), requeue_after=AT_ONCE)


def take_out(
    facts: Rollout,
    status: ShadowRolloutStatus,
    reason: Reason,
    message: str,
    *,
    superseded: bool = False,
    before: tuple[Action, ...] = (),
) -> Decision:
    """Set the weight to 0 first, then say so; the evidence stays.

    `before` are actions of this pass that come after the weight and before the event.
    """
    view = facts.observed.channel
    if superseded and view is not None and view.channel is not None:
        # Traffic must go to what is stable now.
        status = status.model_copy(update={"stable_model": served_by_channel(view.channel)})
    out = status.model_copy(
        update={
            "outcome": "Superseded" if superseded else "RolledBack",
            "step": 0,
            "step_started_at": None,
            "previous_step_started_at": None,
            "bake_started_at": None,
            "weight": Weight(desired=0, actual=status.weight.actual),
        }
    )
    event = EmitEvent(reason=reason, message=message[:1024], warning=True)
    verdict = _end_verdict(facts, out, reason, message)
    return told(facts, out, verdict, actions=(*to_zero(facts, out), *before, event), requeue_after=AT_ONCE)


def _end_verdict(facts: Rollout, status: ShadowRolloutStatus, reason: str, message: str) -> Verdict:
    if to_zero(facts, status):
        mood, phase = Mood.WORKING, Phase.ROLLING_BACK
    elif status.outcome == "Superseded":
        mood, phase = Mood.RESTING, Phase.SUPERSEDED
    else:
        mood, phase = Mood.STUCK, Phase.ROLLED_BACK
    return Verdict(mood=mood, phase=phase, reason=reason, message=message, ready=False)


def ended(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Keep what ended as it is: no traffic for a candidate that was taken out, no job that runs on."""
    known = condition(status, ConditionType.PROGRESSING)
    reason, message = (known.reason, known.message) if known is not None else (status.outcome, status.message)
    analysed = look(facts, status)
    if status.outcome == "Completed":
        verdict = Verdict(mood=Mood.DONE, phase=Phase.COMPLETED, reason=reason, message=message)
        return told(facts, analysed.status, verdict, actions=analysed.actions, requeue_after=analysed.requeue_after)
    back = to_zero(facts, status)
    verdict = _end_verdict(facts, status, reason, message)
    requeue = AT_ONCE if back else analysed.requeue_after
    return told(facts, analysed.status, verdict, actions=(*back, *analysed.actions), requeue_after=requeue)


def with_actions(decision: Decision, actions: tuple[Action, ...]) -> Decision:
    """Return a decision with further actions at its end."""
    if not actions:
        return decision
    return Decision(status=decision.status, actions=(*decision.actions, *actions), requeue_after=decision.requeue_after)
