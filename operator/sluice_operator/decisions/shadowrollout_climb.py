"""The life of a step: set the route, see it in force, collect evidence, earn the next weight; at 100 %, promote."""

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.instants import format_instant, parse_instant
from sluice_api.v1alpha1.shadowrollout import Arms, ShadowRolloutStatus, Weight
from sluice_operator.decisions.base import (
    Action,
    CreateOnce,
    Decision,
    EmitEvent,
    MoveChannel,
    RouterProblem,
    SetRoute,
)
from sluice_operator.decisions.common import AT_ONCE, Mood, Objection, Verdict, first_objection, profile_known
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import channel_of, short
from sluice_operator.decisions.reasons import Phase, Reason
from sluice_operator.decisions.shadowrollout_analysis import Analysed, begin, due, look
from sluice_operator.decisions.shadowrollout_end import again, take_out, with_actions
from sluice_operator.decisions.shadowrollout_gates import (
    approval_gate,
    evidence_gate,
    failed_card,
    held,
    overdue,
    scorecard_gate,
    with_card,
    with_verdicts,
)
from sluice_operator.decisions.shadowrollout_guards import POLL, breach, open_guard, with_guards
from sluice_operator.decisions.shadowrollout_start import (
    SPEC_CHECKS,
    channel_usable,
    durations_valid,
    hold,
    offline_scorecard,
    route_usable,
)
from sluice_operator.decisions.shadowrollout_view import (
    Rollout,
    adopts,
    at,
    evidence_is_fresh,
    is_last,
    mirrored,
    route_of,
    told,
)

RETRY = (
    "The evidence is kept: name another candidate, or set the annotation sluice.dev/retry to start from the first step"
)
"""What to do about a candidate that was taken out."""


def climb(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Return the decision at a step: back to 0, set the route, hold, or the next step."""
    moved = _steps_changed(facts, status) or _start_lost(facts, status) or _channel_moved(facts, status)
    if moved is not None:
        return moved
    analysed = look(facts, status)
    status = with_guards(facts, with_verdicts(facts, analysed.status))
    bad = _bad_news(facts, status)
    if bad is not None:
        return take_out(facts, status, *bad, before=analysed.actions)
    blocked = first_objection(facts, (*SPEC_CHECKS, route_usable))
    if blocked is not None:
        return _carry_on(facts, status, analysed, blocked)
    paused = _left_alone(facts, status)
    if isinstance(paused, Decision):
        return paused
    if paused is not None:
        return _carry_on(facts, status, analysed, paused)
    writing = _asserted(facts, status)
    if writing is not None:
        route, events = writing
        objection = held(Phase.BAKING, Reason.SETTING_WEIGHT, f"{at(status, facts)}: the route is being written")
        actions = (route, *events, *analysed.actions)
        return told(facts, status, objection.verdict(), actions=actions, requeue_after=AT_ONCE)
    status, unverified = _verified(facts, status)
    if unverified is not None:
        return _carry_on(facts, status, analysed, unverified)
    return _judge(facts, status, analysed)


# What ends the climb


def _steps_changed(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Start again where the present step is another one: a weight in the spec is no evidence."""
    steps = facts.obj.spec.steps
    if status.step <= len(steps) and steps[status.step - 1].weight == status.weight.desired:
        return None
    text = f"step {status.step} is no longer at {status.weight.desired} % in spec.steps"
    return again(facts, status, Reason.STEPS_CHANGED, text)


def _start_lost(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Step back where what allowed the start no longer holds, while no traffic has moved yet.

    Another rollout may have decided to start at the same time and come first, and an operator that died in between may
    come back to a scorecard that is no longer valid.
    """
    if status.step_started_at is not None or status.weight.actual > 0 or status.step > 1:
        return None
    if facts.observed.rivals:
        rivals = ", ".join(facts.observed.rivals)
        return again(facts, status, Reason.TARGET_BUSY, f"{rivals} is under way for the same channel")
    objection = offline_scorecard(facts, status.candidate_digest or "")
    return again(facts, status, objection.reason, objection.message) if objection is not None else None


def _channel_moved(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Finish where the channel points to the candidate; give up where it points to something else."""
    view = facts.observed.channel
    if view is None or view.problem:
        return None
    found = view.channel.digest if view.channel is not None else None
    if found == status.stable_digest:
        return None
    if found == status.candidate_digest:
        return _finish(facts, status)
    where = facts.obj.spec.stable.channel
    message = (
        f"channel {where!r} points to {short(found)}, the rollout began beside {short(status.stable_digest)}. "
        "Set the annotation sluice.dev/retry to start again beside what is stable now"
    )
    return take_out(facts, status, Reason.STABLE_CHANGED, message, superseded=True)


def _bad_news(facts: Rollout, status: ShadowRolloutStatus) -> tuple[Reason, str] | None:
    """Return why the candidate must go, if it must."""
    broken = breach(facts, status) if durations_valid(facts) is None else None
    if broken is not None:
        return broken
    evidence, arms = status.evidence, status.arms
    if evidence is not None and evidence.verdict == ShadowVerdict.HARM:
        return Reason.HARM, (
            f"{at(status, facts)}: {arms.candidate.escalations} of {arms.candidate.runs} candidate runs escalated, "
            f"{arms.stable.escalations} of {arms.stable.runs} stable ones (analysis {short(evidence.digest)}). {RETRY}"
        )
    card = failed_card(facts, status)
    if card is not None and card.found is not None:
        name, why = card.entry.name, card.found.status.message
        return Reason.STEP_SCORECARD_FAILED, f"{at(status, facts)}: PromotionScorecard/{name} says Fail: {why}. {RETRY}"
    return None


# The route


def _asserted(facts: Rollout, status: ShadowRolloutStatus) -> tuple[SetRoute, tuple[Action, ...]] | None:
    """Return the route to write, with the event of a foreign edit; None where it is as wanted."""
    route = facts.observed.route
    wanted = route_of(facts, status, status.weight.desired, mirrored(facts, status))
    if route is None or wanted is None:
        return None
    digests = (status.stable_digest, status.candidate_digest)
    same = (
        route.exists
        and (route.weight, route.mirror) == (wanted.weight, wanted.mirror)
        and (route.stable_digest, route.candidate_digest) == digests
    )
    foreign = route.problem is RouterProblem.FOREIGN_EDIT
    if same and not foreign:
        return None
    if not foreign and status.step_started_at is None:
        return wanted, ()
    message = (
        f"the route had {route.weight} % for the candidate, {wanted.weight} % is set again"
        if route.exists
        else f"the route was gone, {wanted.weight} % is set again"
    )
    message += f" ({route.message})" if route.message and foreign else ""
    return wanted, (EmitEvent(reason=Reason.FOREIGN_EDIT, message=message, warning=True),)


def _left_alone(facts: Rollout, status: ShadowRolloutStatus) -> Objection | Decision | None:
    """Pause where somebody else set the weights of an adopted route; more than was earned is taken out, once."""
    route = facts.observed.route
    if route is None or not adopts(facts) or route.problem is not RouterProblem.FOREIGN_EDIT:
        return None
    if route.weight > status.weight.desired:
        text = f"{at(status, facts)}: {route.message}, more than the evidence has earned"
        return take_out(facts, status, Reason.FOREIGN_EDIT, text)
    text = f"{at(status, facts)}: {route.message}. It is left alone: set {status.weight.desired} % again, or abort"
    return held(Phase.PAUSED, Reason.FOREIGN_EDIT, text, mood=Mood.RESTING)


def _verified(facts: Rollout, status: ShadowRolloutStatus) -> tuple[ShadowRolloutStatus, Objection | None]:
    """Return the status with the step begun once the route is in force; the objection until it is."""
    route = facts.observed.route
    if route is None or not route.verified or route.problem:
        why = f": {route.message}" if route is not None and route.message else ""
        text = f"{at(status, facts)}: the router does not confirm the weights yet{why}"
        poll = facts.observed.settings.poll
        return status, held(Phase.BAKING, Reason.ROUTE_NOT_VERIFIED, text, requeue_after=poll)
    if status.step_started_at is None:
        status = status.model_copy(update={"step_started_at": facts.now.text})
    return status, None


# The step


def _judge(facts: Rollout, status: ShadowRolloutStatus, analysed: Analysed) -> Decision:
    """Return whether the present step is done: hold, create its scorecard, advance or promote."""
    if facts.obj.spec.paused:
        text = f"{at(status, facts)}: spec.paused is true; the weight holds, harm still rolls back"
        return _carry_on(facts, status, analysed, held(Phase.PAUSED, Reason.PAUSED, text, mood=Mood.RESTING))
    missing = None if evidence_is_fresh(facts, status) else profile_known(facts)
    missing = missing or evidence_gate(facts, status) or _guarded(facts, status)
    if missing is None:
        gate = scorecard_gate(facts, status)
        if isinstance(gate, CreateOnce):
            name = gate.manifest["metadata"]["name"]
            text = f"{at(status, facts)}: PromotionScorecard/{name} is asked for"
            asked = held(Phase.AWAITING_SCORECARD, Reason.AWAITING_SCORECARD, text, requeue_after=AT_ONCE)
            decision = told(facts, with_card(status, gate), asked.verdict(), requeue_after=AT_ONCE)
            return with_actions(decision, (*analysed.actions, gate))
        missing = gate
    if missing is not None:
        # The bake time counts while everything is in, and starts anew once it is in again.
        status = status.model_copy(update={"bake_started_at": None})
        if overdue(facts, status) and missing.reason is not Reason.SOAKING:
            return _undecided(facts, status, analysed, missing)
        return _carry_on(facts, status, analysed, missing)
    waiting = approval_gate(facts, status)
    if waiting is not None:
        return _carry_on(facts, status, analysed, waiting)
    return _promote(facts, status, analysed) if is_last(facts, status) else _advance(facts, status, analysed)


def _guarded(facts: Rollout, status: ShadowRolloutStatus) -> Objection | None:
    found = open_guard(facts, status)
    return None if found is None else held(Phase.NO_DATA, *found, requeue_after=POLL)


def _undecided(facts: Rollout, status: ShadowRolloutStatus, analysed: Analysed, missing: Objection) -> Decision:
    """Hold or roll back a step that has been undecided for longer than allowed."""
    text = f"undecided for {facts.obj.spec.analysis.max_duration}: {missing.message}"
    if facts.obj.spec.on_inconclusive == "Rollback":
        return take_out(facts, status, Reason.INCONCLUSIVE, f"{text}. {RETRY}", before=analysed.actions)
    text += ". It goes on once that is in: raise analysis.maxDuration to wait, or set the annotation sluice.dev/abort"
    objection = held(Phase.INCONCLUSIVE, Reason.INCONCLUSIVE, text, mood=Mood.RESTING)
    return _carry_on(facts, status, analysed, objection)


def _carry_on(facts: Rollout, status: ShadowRolloutStatus, analysed: Analysed, objection: Objection) -> Decision:
    """Hold the weight, and keep the analyses going."""
    when = due(facts, status)
    requeue = min(analysed.requeue_after or objection.requeue_after, objection.requeue_after)
    if facts.obj.spec.analysis.guards:
        requeue = min(requeue, POLL)
    if adopts(facts):
        # Watches see objects with our label alone, and somebody else's route has none.
        requeue = min(requeue, facts.observed.settings.poll)
    if when is not None and facts.observed.profile is not None:
        if facts.now.instant >= when:
            status, requeue = begin(facts, status), AT_ONCE
        else:
            requeue = min(requeue, when - facts.now.instant)
    return told(facts, status, objection.verdict(), actions=analysed.actions, requeue_after=requeue)


def _advance(facts: Rollout, status: ShadowRolloutStatus, analysed: Analysed) -> Decision:
    """Decide on the next weight; it reaches the route with the next pass."""
    weight = facts.obj.spec.steps[status.step].weight
    message = f"{at(status, facts)} is done: {weight} % follow"
    risen = status.model_copy(
        update={
            "step": status.step + 1,
            "previous_step_started_at": status.step_started_at,
            "step_started_at": None,
            "evidence": None,
            "arms": Arms(),
            "verdict": "",
            "weight": Weight(desired=weight, actual=status.weight.actual),
        }
    )
    verdict = Verdict(mood=Mood.WORKING, phase=Phase.BAKING, reason=Reason.ADVANCING, message=message)
    event = EmitEvent(reason=Reason.ADVANCING, message=message)
    return told(facts, risen, verdict, actions=(*analysed.actions, event), requeue_after=AT_ONCE)


# Promotion


def _promote(facts: Rollout, status: ShadowRolloutStatus, analysed: Analysed) -> Decision:
    """Move the channel to the candidate by compare-and-set, once the bake time is over."""
    if status.bake_started_at is None:
        status = status.model_copy(update={"bake_started_at": facts.now.text})
    baked = parse_instant(status.bake_started_at or facts.now.text) + parse_duration(facts.obj.spec.bake)
    if facts.now.instant < baked:
        text = f"{at(status, facts)}: everything is in; bakes until {format_instant(baked)}"
        left = baked - facts.now.instant
        return _carry_on(facts, status, analysed, held(Phase.BAKING, Reason.BAKING, text, requeue_after=left))
    unreadable = first_objection(facts, (channel_usable,))
    if unreadable is not None:
        return _carry_on(facts, status, analysed, unreadable)
    view, model = facts.observed.channel, status.candidate_model
    if view is None or view.channel is None or model is None:
        raise ValueError("a rollout at its last step has both arms pinned")
    stable = facts.obj.spec.stable
    channel = channel_of(stable.channel, model).model_copy(
        update={
            "last_good": status.stable_digest,
            "changed_by": f"{facts.obj.namespace}/{facts.obj.name}/{facts.obj.uid}",
            "changed_at": facts.now.text,
        }
    )
    move = MoveChannel(root=stable.root, channel=channel, etag=view.etag)
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.PROMOTING,
        reason=Reason.PROMOTING,
        message=f"channel {stable.channel!r} moves to {short(model.digest)}",
    )
    kept = status.model_copy(update={"last_good": status.stable_digest})
    return told(facts, kept, verdict, actions=(*analysed.actions, move), requeue_after=AT_ONCE)


def _finish(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Let the stable arm serve what the channel points to by now, then end."""
    unusable = first_objection(facts, (route_usable,))
    if unusable is not None:
        return hold(facts, status, unusable)
    route, model = facts.observed.route, status.candidate_model
    if route is None or model is None:
        raise ValueError("a rollout at a step has a route and both arms pinned")
    name = facts.obj.spec.stable.channel
    lowered = Weight(desired=0, actual=status.weight.actual)
    done = status.model_copy(update={"last_good": status.last_good or status.stable_digest})
    if (route.weight, route.stable_digest, route.candidate_digest) != (0, model.digest, ""):
        text = f"channel {name!r} points to {short(model.digest)}: the stable arm serves it from now on"
        verdict = Verdict(mood=Mood.WORKING, phase=Phase.PROMOTING, reason=Reason.PROMOTING, message=text)
        action = SetRoute(weight=0, stable=channel_of(name, model), candidate=None)
        return told(facts, done, verdict, actions=(action,), requeue_after=AT_ONCE)
    message = f"channel {name!r} points to {short(model.digest)}, before to {short(done.last_good)}"
    ended = done.model_copy(update={"outcome": "Completed", "weight": lowered})
    verdict = Verdict(mood=Mood.DONE, phase=Phase.COMPLETED, reason=Reason.PROMOTED, message=message)
    return told(facts, ended, verdict, actions=(EmitEvent(reason=Reason.PROMOTED, message=message),))
