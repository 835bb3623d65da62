"""ShadowRollout: traffic climbs step by step on evidence, and comes back by itself.

The order is what keeps it safe: deletion, a changed candidate and commands first; then harm and failed gates, which set
the weight to 0 before anything else; then the route; and only then the question whether the next step is earned. A rise
is written into the status first and reaches the route with the next pass; a fall reaches the route first.

| module | what it holds |
|---|---|
| `shadowrollout` | the order, deletion, commands |
| `shadowrollout_start` | what must hold before the first step |
| `shadowrollout_climb` | the life of a step, promotion |
| `shadowrollout_gates` | what a step must have to be done |
| `shadowrollout_analysis` | evidence |
| `shadowrollout_guards` | fast checks beside it |
| `shadowrollout_end` | the way back to 0 |
| `shadowrollout_view` | pinned arms, conditions |
"""

from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.shadowrollout import ShadowRolloutStatus, Weight
from sluice_operator.decisions.attempts import current
from sluice_operator.decisions.base import Action, Decision, EmitEvent, Now, Observed, RouterProblem
from sluice_operator.decisions.common import (
    AT_ONCE,
    Command,
    Facts,
    Mood,
    Objection,
    Verdict,
    acknowledge,
    add_finalizer,
    deletion_overdue,
    forget_withdrawn,
    has_finalizer,
    pending_command,
)
from sluice_operator.decisions.reasons import Phase, Reason
from sluice_operator.decisions.runs import decide_deletion, notice_deletion
from sluice_operator.decisions.shadowrollout_analysis import look
from sluice_operator.decisions.shadowrollout_climb import RETRY, climb
from sluice_operator.decisions.shadowrollout_end import again, ended, take_out, to_zero, with_actions
from sluice_operator.decisions.shadowrollout_gates import with_approval
from sluice_operator.decisions.shadowrollout_start import hold, start
from sluice_operator.decisions.shadowrollout_view import Rollout, adopts, told


def decide(obj: ShadowRollout, observed: Observed, now: Now) -> Decision:
    """Return what to do about a ShadowRollout."""
    facts = Facts(obj=obj, observed=observed, now=now)
    status = _with_actual(facts, obj.status)
    if obj.deleting:
        return _delete(facts, status)
    if not has_finalizer(obj):
        return add_finalizer(obj.status)
    status = forget_withdrawn(obj, status)
    changed = _candidate_changed(facts, status) or _pins_changed(facts, status)
    if changed is not None:
        return changed
    status, told_off = _commands(facts, status)
    if isinstance(told_off, Decision):
        return told_off
    if status.outcome:
        return with_actions(ended(facts, status), told_off)
    if status.step == 0:
        return with_actions(_start(facts, status), told_off)
    return with_actions(climb(facts, status), told_off)


def _with_actual(facts: Rollout, status: ShadowRolloutStatus) -> ShadowRolloutStatus:
    """Return the status with the weight that the router was last seen to have."""
    route = facts.observed.route
    known = {RouterProblem.NONE, RouterProblem.NOT_ACCEPTED}
    if adopts(facts):
        known.add(RouterProblem.FOREIGN_EDIT)
    if route is None or route.problem not in known:
        return status
    actual = route.weight if route.exists else 0
    return status.model_copy(update={"weight": Weight(desired=status.weight.desired, actual=actual)})


def _delete(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Give all traffic back to the stable arm, then stop the analysis, then let go."""
    if not has_finalizer(facts.obj):
        return Decision(status=status.to_wire())
    back = () if status.outcome == "Completed" else to_zero(facts, status)
    if not back:
        return decide_deletion(facts, status)
    noticed = notice_deletion(facts, status, "all traffic goes back to the stable arm before the rollout goes")
    if noticed is not None:
        return noticed
    if deletion_overdue(facts, status):
        text = f"the route could not be brought back to 100/0 in time: {_route_message(facts)}"
        warning = EmitEvent(reason=Reason.ROUTER_UNREACHABLE, message=text, warning=True)
        decision = decide_deletion(facts, status)
        return Decision(
            status=decision.status, actions=(warning, *decision.actions), requeue_after=decision.requeue_after
        )
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.DELETING,
        reason=Reason.DELETING,
        message="all traffic goes back to the stable arm before the rollout goes",
    )
    lowered = status.model_copy(update={"weight": Weight(desired=0, actual=status.weight.actual)})
    return told(facts, lowered, verdict, actions=back, requeue_after=AT_ONCE)


def _route_message(facts: Rollout) -> str:
    route = facts.observed.route
    return route.message if route is not None and route.message else "it still has a weight"


def _candidate_changed(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Start again from 0 where the spec names another candidate, or the run of that name has other weights."""
    if not status.candidate_run:
        return None
    name = facts.obj.spec.candidate.fine_tune_run_ref.name
    raw = facts.observed.references.get(f"FineTuneRun/{name}") or {}
    found = ((raw.get("status") or {}).get("adapter") or {}).get("digest")
    same = name == status.candidate_run and (found is None or found == status.candidate_digest)
    if same:
        return None
    return again(facts, status, Reason.CANDIDATE_CHANGED, f"the candidate is FineTuneRun/{name} by now")


def _pins_changed(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Start again from 0 where runs would get their arm another way, or the weight reach the agent another way."""
    if status.step == 0 or status.outcome:
        return None
    spec = facts.obj.spec
    if status.traffic is not None and status.traffic != spec.traffic:
        return again(facts, status, Reason.TRAFFIC_CHANGED, "spec.traffic has changed: the route before goes to 0")
    if status.assignment is not None and status.assignment != spec.assignment:
        return again(facts, status, Reason.ASSIGNMENT_CHANGED, "spec.assignment has changed: arms would mix")
    return None


def _commands(facts: Rollout, status: ShadowRolloutStatus) -> tuple[ShadowRolloutStatus, tuple[Action, ...] | Decision]:
    """Act on abort, retry and promote; a decision where one of them decides alone."""
    ignored: list[Action] = []
    abort = pending_command(facts.obj, status, Command.ABORT)
    if abort is not None:
        status = acknowledge(status, Command.ABORT, abort)
        if not status.outcome:
            return status, take_out(facts, status, Reason.ABORTED, f"aborted by annotation {abort!r}. {RETRY}")
        ignored.append(_ignored("abort", f"the rollout has ended: {status.outcome}"))
    retry = pending_command(facts.obj, status, Command.RETRY)
    if retry is not None:
        status = acknowledge(status, Command.RETRY, retry)
        if status.outcome in ("RolledBack", "Superseded"):
            return status, again(facts, status, Reason.RETRY, f"retry {retry!r}")
        ignored.append(_ignored("retry", "only a rollout that was rolled back or superseded starts again"))
    if status.step > 0 or status.outcome:
        status, events = with_approval(facts, status)
        ignored.extend(events)
    return status, tuple(ignored)


def _ignored(command: str, why: str) -> EmitEvent:
    return EmitEvent(reason=Reason.COMMAND_IGNORED, message=f"{command} is ignored: {why}", warning=True)


def _start(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Begin, once nothing of an earlier round is left."""
    analysed = look(facts, status)
    if current(analysed.status) is not None:
        objection = Objection(
            reason=Reason.STOPPING,
            message=f"an analysis of the round before is being stopped: {analysed.message}",
            mood=Mood.WORKING,
        )
        return with_actions(hold(facts, analysed.status, objection), analysed.actions)
    return start(facts, analysed.status)
