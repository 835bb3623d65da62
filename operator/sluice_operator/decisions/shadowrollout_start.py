"""The beginning of a rollout: what must hold before any traffic moves, and what is pinned then."""

from itertools import pairwise

from sluice_api.v1alpha1 import FineTuneRun, PromotionScorecard
from sluice_api.v1alpha1.shadowrollout import Arms, ShadowRolloutStatus, Weight
from sluice_operator.decisions.base import Decision, EmitEvent, RouterProblem, SetRoute
from sluice_operator.decisions.common import (
    AT_ONCE,
    Mood,
    Objection,
    Verdict,
    first_objection,
    profile_known,
    reference,
)
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import channel_of, served_by_channel, served_by_run, short, trained
from sluice_operator.decisions.reasons import Phase, Reason
from sluice_operator.decisions.shadowrollout_gates import is_expired
from sluice_operator.decisions.shadowrollout_view import Rollout, told

# Checks, in order of importance


def durations_valid(facts: Rollout) -> Objection | None:
    """Check all durations of the spec."""
    spec = facts.obj.spec
    named = {
        "spec.bake": spec.bake,
        "spec.analysis.interval": spec.analysis.interval,
        "spec.analysis.maturity": spec.analysis.maturity,
        "spec.analysis.maxDuration": spec.analysis.max_duration,
        "spec.scorecard.validFor": spec.scorecard.valid_for,
        **{f"spec.analysis.guards[{place}].for": guard.for_ for place, guard in enumerate(spec.analysis.guards)},
        **{f"spec.steps[{place}].soak": step.soak for place, step in enumerate(spec.steps)},
    }
    for field, text in named.items():
        try:
            length = parse_duration(text)
        except ValueError as error:
            return Objection(reason=Reason.INVALID_SPEC, message=f"{field}: {error}")
        if field == "spec.analysis.interval" and length.total_seconds() < 1:
            return Objection(reason=Reason.INVALID_SPEC, message=f"{field} must be at least 1s")
    return None


def steps_valid(facts: Rollout) -> Objection | None:
    """Check that the weights rise strictly and end at 100."""
    weights = [step.weight for step in facts.obj.spec.steps]
    if any(later <= earlier for earlier, later in pairwise(weights)):
        return Objection(reason=Reason.INVALID_SPEC, message=f"spec.steps: weights {weights} must increase strictly")
    if not weights or weights[-1] != 100:
        return Objection(reason=Reason.INVALID_SPEC, message=f"spec.steps: weights {weights} must end with 100")
    return None


def traffic_valid(facts: Rollout) -> Objection | None:
    """Check that the router has what it needs."""
    traffic = facts.obj.spec.traffic
    if traffic.router == "httpRoute" and not (
        traffic.stable and traffic.candidate and (traffic.parent_refs or traffic.adopt)
    ):
        return Objection(
            reason=Reason.INVALID_SPEC,
            message="spec.traffic needs stable, candidate and parentRefs (or adopt) where router is httpRoute",
        )
    if any(step.shadow for step in facts.obj.spec.steps) and (traffic.router != "httpRoute" or traffic.adopt):
        return Objection(
            reason=Reason.INVALID_SPEC,
            message="spec.steps: only an HTTPRoute of the operator's own can mirror: set spec.traffic.router to "
            "httpRoute without adopt, or leave out the shadow step",
        )
    return None


def route_usable(facts: Rollout) -> Objection | None:
    """Check that the router answers and that the route is ours."""
    route = facts.observed.route
    if route is None or route.problem is RouterProblem.UNREACHABLE:
        told_ = route.message if route is not None else "not read yet"
        return Objection(
            reason=Reason.ROUTER_UNREACHABLE,
            message=f"the route cannot be read: {told_}. The weight holds; it is tried again",
            mood=Mood.WORKING,
        )
    if route.problem is RouterProblem.CONFLICT:
        return Objection(
            reason=Reason.ROUTE_CONFLICT,
            message=f"the route cannot be used: {route.message}",
        )
    return None


def channel_usable(facts: Rollout) -> Objection | None:
    """Check that the channel can be read and exists."""
    view, stable = facts.observed.channel, facts.obj.spec.stable
    where = f"channel {stable.channel!r} under {stable.root}"
    if view is None or view.problem:
        why = view.problem if view is not None else "not read yet"
        return Objection(reason=Reason.CHANNEL_UNREADABLE, message=f"{where} cannot be read: {why}", mood=Mood.WORKING)
    if view.channel is None:
        return Objection(
            reason=Reason.CHANNEL_NOT_FOUND,
            message=f"{where} does not exist: create it with the weights that are in service",
        )
    return None


SPEC_CHECKS = (durations_valid, steps_valid, traffic_valid)
"""Checks of the spec alone."""
SURROUNDINGS = (profile_known, route_usable, channel_usable)
"""Checks of what the rollout stands on."""


def offline_scorecard(facts: Rollout, candidate: str) -> Objection | None:
    """Check that the offline scorecard says Pass for exactly these weights, and has not expired."""
    ref = facts.obj.spec.scorecard_ref
    if ref is None:
        return None
    card = reference(facts, PromotionScorecard, ref.name)
    if isinstance(card, Objection):
        return card
    where = f"spec.scorecardRef: PromotionScorecard/{ref.name}"
    if card.status.verdict is None:
        stuck = card.status.phase in (Phase.FAILED, Phase.STALLED)
        text = f"{card.status.phase}: {card.status.message}" if card.status.message else card.status.phase
        return Objection(
            reason=Reason.SCORECARD_NOT_PASSED if stuck else Reason.SCORECARD_PENDING,
            message=f"{where} has no verdict ({text})",
            mood=Mood.STUCK if stuck else Mood.WORKING,
            phase=Phase.REFUSED if stuck else Phase.PENDING,
        )
    if card.status.candidate != candidate:
        return Objection(
            reason=Reason.CANDIDATE_MISMATCH,
            message=f"{where} judged {short(card.status.candidate)}, the candidate is {short(candidate)}: "
            "name the scorecard of these weights",
            phase=Phase.REFUSED,
        )
    if card.status.verdict != "Pass":
        return Objection(
            reason=Reason.SCORECARD_NOT_PASSED,
            message=f"{where} says {card.status.verdict}: {card.status.message}. No traffic moves: "
            "correct what failed and name the new scorecard",
            phase=Phase.REFUSED,
        )
    if is_expired(facts, card):
        return Objection(
            reason=Reason.SCORECARD_EXPIRED,
            message=f"{where} expired at {card.status.expires_at}: create a new one and name it",
            phase=Phase.REFUSED,
        )
    return None


def unpaused(facts: Rollout) -> Objection | None:
    """Check `spec.paused`."""
    if not facts.obj.spec.paused:
        return None
    return Objection(
        reason=Reason.PAUSED,
        message="spec.paused is true: it starts once that is false",
        mood=Mood.RESTING,
        phase=Phase.PAUSED,
    )


def target_free(facts: Rollout) -> Objection | None:
    """Check that no other rollout is under way for the same channel."""
    rivals = facts.observed.rivals
    if not rivals:
        return None
    stable = facts.obj.spec.stable
    return Objection(
        reason=Reason.TARGET_BUSY,
        message=f"waits for {', '.join(rivals)}, under way for channel {stable.channel!r} under {stable.root}; "
        "it starts once that has ended (abort it to go first)",
        mood=Mood.WORKING,
    )


def start(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    """Return the decision before the first step: wait, refuse, or pin both arms and decide on the first weight."""
    objection = first_objection(facts, (*SPEC_CHECKS, *SURROUNDINGS))
    if objection is not None:
        return hold(facts, status, objection)
    forged = _forged(facts, status)
    if forged is not None:
        return forged
    run = trained(facts, facts.obj.spec.candidate.fine_tune_run_ref.name, "spec.candidate.fineTuneRunRef")
    if isinstance(run, Objection):
        return hold(facts, status, run)
    pinned = pin(facts, status, run)
    if pinned.candidate_digest == pinned.stable_digest:
        return _already(facts, pinned)
    objection = offline_scorecard(facts, pinned.candidate_digest or "") or first_objection(
        facts, (unpaused, target_free)
    )
    if objection is not None:
        return hold(facts, status, objection)
    weight = facts.obj.spec.steps[0].weight
    begun = pinned.model_copy(
        update={
            "round": status.round + 1,
            "step": 1,
            "weight": Weight(desired=weight, actual=status.weight.actual),
            "step_started_at": None,
            "previous_step_started_at": None,
            "bake_started_at": None,
            "evidence": None,
            "arms": Arms(),
            "verdict": "",
            "approvals": [],
            "guards": [],
            "evaluator": None,
            "outcome": "",
        }
    )
    message = (
        f"round {begun.round}: {short(begun.candidate_digest)} starts at {weight} % beside {short(begun.stable_digest)}"
    )
    verdict = Verdict(mood=Mood.WORKING, phase=Phase.BAKING, reason=Reason.STARTING, message=message)
    event = EmitEvent(reason=Reason.STARTING, message=message)
    return told(facts, begun, verdict, actions=(event,), requeue_after=AT_ONCE)


def _forged(facts: Rollout, status: ShadowRolloutStatus) -> Decision | None:
    """Take out a candidate that has traffic, or may have, though no rollout gave it any."""
    route, view, name = facts.observed.route, facts.observed.channel, facts.obj.spec.stable.channel
    if route is None or not route.exists or view is None or view.channel is None:
        return None
    if route.weight + route.mirror == 0 and route.problem is not RouterProblem.FOREIGN_EDIT:
        return None
    message = f"the route had {route.weight} % for a candidate before any step; all traffic goes to the stable arm"
    verdict = Verdict(mood=Mood.WORKING, phase=Phase.PENDING, reason=Reason.FOREIGN_EDIT, message=message)
    back = SetRoute(weight=0, stable=channel_of(name, served_by_channel(view.channel)), candidate=None)
    event = EmitEvent(reason=Reason.FOREIGN_EDIT, message=message, warning=True)
    return told(facts, status, verdict, actions=(back, event), requeue_after=AT_ONCE)


def hold(facts: Rollout, status: ShadowRolloutStatus, objection: Objection) -> Decision:
    """Return the decision that waits for what a check objected to."""
    return told(facts, status, objection.verdict(), requeue_after=objection.requeue_after)


def pin(facts: Rollout, status: ShadowRolloutStatus, run: FineTuneRun) -> ShadowRolloutStatus:
    """Return the status with both arms pinned, so that a rollback depends on nothing that may go."""
    view = facts.observed.channel
    if view is None or view.channel is None:
        raise ValueError("the channel must be usable before it is pinned")
    candidate, stable = served_by_run(run), served_by_channel(view.channel)
    return status.model_copy(
        update={
            "candidate_run": run.name,
            "candidate_digest": candidate.digest,
            "candidate_uri": candidate.adapter_uri,
            "candidate_model": candidate,
            "stable_digest": stable.digest,
            "stable_model": stable,
            "assignment": facts.obj.spec.assignment,
            "traffic": facts.obj.spec.traffic,
        }
    )


def _already(facts: Rollout, status: ShadowRolloutStatus) -> Decision:
    verdict = Verdict(
        mood=Mood.DONE,
        phase=Phase.COMPLETED,
        reason=Reason.ALREADY_STABLE,
        message=f"channel {facts.obj.spec.stable.channel!r} points to {short(status.candidate_digest)} already",
    )
    return told(facts, status.model_copy(update={"outcome": "Completed"}), verdict)
