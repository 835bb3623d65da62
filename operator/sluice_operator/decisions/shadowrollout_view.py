"""What a ShadowRollout is asked for and what it says of itself: the present step, the pinned arms, the conditions."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.common import ConditionStatus
from sluice_api.v1alpha1.shadowrollout import Arms, RolloutStep, ShadowRolloutStatus, Weight
from sluice_operator.decisions.base import Action, Decision, SetRoute
from sluice_operator.decisions.common import Facts, Mood, Verdict, as_status, decided
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import channel_of
from sluice_operator.decisions.reasons import ConditionType, Reason
from sluice_operator.manifests.configmap import traffic_of

STALE_INTERVALS = 3
"""Evidence older than this many analysis intervals is stale."""
SHARE_SIGMAS = 5.0
"""Standard errors by which a measured share may differ from the weight."""
SHARE_SLACK = 0.25
"""Share of the weight by which a measured share may differ beside that: agents follow a new weight after a moment."""
SHARE_RUNS = 100
"""Matured runs of both arms below which a measured share says nothing."""

Rollout = Facts[ShadowRollout]


def present_step(facts: Rollout, status: ShadowRolloutStatus) -> RolloutStep:
    """Return the step that the rollout is at; only while it is at one that the spec still has."""
    return facts.obj.spec.steps[status.step - 1]


def is_last(facts: Rollout, status: ShadowRolloutStatus) -> bool:
    """Return whether the rollout is at its last step, which serves everything from the candidate."""
    return status.step == len(facts.obj.spec.steps)


def mirrored(facts: Rollout, status: ShadowRolloutStatus) -> int:
    """Return the per cent of the requests that the present step copies to the candidate."""
    shadow = present_step(facts, status).shadow
    return shadow.mirror if shadow is not None else 0


def adopts(facts: Rollout) -> bool:
    """Return whether the weights are on somebody else's route, which is never fought over."""
    return traffic_of(facts.obj).adopt is not None


def step_start(status: ShadowRolloutStatus) -> datetime | None:
    """Return when the present weight was verified."""
    return None if status.step_started_at is None else parse_instant(status.step_started_at)


def interval(facts: Rollout) -> timedelta:
    """Return the time between analyses; an invalid one is none at all, so that all evidence counts as stale."""
    try:
        return parse_duration(facts.obj.spec.analysis.interval)
    except ValueError:
        return timedelta(0)


def evidence_is_fresh(facts: Rollout, status: ShadowRolloutStatus) -> bool:
    """Return whether the newest analysis is of the present step and recent."""
    evidence = status.evidence
    if evidence is None or evidence.step != status.step:
        return False
    return facts.now.instant <= parse_instant(evidence.at) + STALE_INTERVALS * interval(facts)


def at(status: ShadowRolloutStatus, facts: Rollout) -> str:
    """Return the present step in words."""
    return f"step {status.step} of {len(facts.obj.spec.steps)} at {status.weight.desired} %"


def reset(status: ShadowRolloutStatus) -> ShadowRolloutStatus:
    """Return the status before the first step: nothing pinned, nothing measured; history and round stay."""
    return status.model_copy(
        update={
            "step": 0,
            "step_started_at": None,
            "previous_step_started_at": None,
            "bake_started_at": None,
            "weight": Weight(desired=0, actual=status.weight.actual),
            "arms": Arms(),
            "verdict": "",
            "evidence": None,
            "approvals": [],
            "candidate_digest": None,
            "candidate_uri": None,
            "candidate_run": "",
            "candidate_model": None,
            "stable_digest": None,
            "stable_model": None,
            "last_good": None,
            "outcome": "",
            "guards": [],
            "evaluator": None,
            "assignment": None,
            "traffic": None,
        }
    )


def route_of(facts: Rollout, status: ShadowRolloutStatus, weight: int, mirror: int = 0) -> SetRoute | None:
    """Return the route between the pinned arms; None before anything was pinned."""
    if status.stable_model is None or status.candidate_model is None:
        return None
    name = facts.obj.spec.stable.channel
    return SetRoute(
        weight=weight,
        stable=channel_of(name, status.stable_model),
        candidate=channel_of(name, status.candidate_model),
        mirror=mirror,
    )


def told(
    facts: Rollout,
    status: ShadowRolloutStatus,
    verdict: Verdict,
    *,
    actions: tuple[Action, ...] = (),
    requeue_after: timedelta | None = None,
) -> Decision:
    """Return the decision that says `verdict` with all of the rollout's conditions."""
    said = Verdict(
        mood=verdict.mood,
        phase=verdict.phase,
        reason=verdict.reason,
        message=verdict.message,
        ready=verdict.ready,
        more={**conditions(facts, status, verdict), **verdict.more},
    )
    return decided(facts, status, said, actions=actions, requeue_after=requeue_after)


def conditions(
    facts: Rollout, status: ShadowRolloutStatus, verdict: Verdict
) -> Mapping[ConditionType, tuple[ConditionStatus, Reason | str, str]]:
    """Return the rollout's own conditions."""
    spec = facts.obj.spec
    going = status.outcome == "" and verdict.mood is Mood.WORKING
    skipped = spec.scorecard_ref is None
    return {
        ConditionType.PROGRESSING: (as_status(going), verdict.reason, verdict.message),
        ConditionType.PAUSED: (
            as_status(spec.paused),
            Reason.PAUSED if spec.paused else Reason.IN_PROGRESS,
            f"spec.paused is {str(spec.paused).lower()}",
        ),
        ConditionType.WEIGHTS_VERIFIED: _weights(facts, status),
        ConditionType.METRICS_AVAILABLE: _metrics(facts, status),
        ConditionType.ROLLED_BACK: _outcome(status, "RolledBack", verdict),
        ConditionType.COMPLETED: _outcome(status, "Completed", verdict),
        ConditionType.SCORECARD_SKIPPED: (
            as_status(skipped),
            Reason.SCORECARD_SKIPPED if skipped else Reason.SCORECARD_REQUIRED,
            "spec.scorecardRef is left out: no offline scorecard was asked for" if skipped else "",
        ),
    }


def _outcome(status: ShadowRolloutStatus, outcome: str, verdict: Verdict) -> tuple[ConditionStatus, Reason | str, str]:
    if status.outcome == outcome:
        return ConditionStatus.TRUE, verdict.reason, verdict.message
    return ConditionStatus.FALSE, Reason.IN_PROGRESS if not status.outcome else status.outcome, ""


def _weights(facts: Rollout, status: ShadowRolloutStatus) -> tuple[ConditionStatus, Reason | str, str]:
    route, desired = facts.observed.route, status.weight.desired
    if route is None or (route.problem and not route.exists):
        return ConditionStatus.UNKNOWN, Reason.ROUTER_UNREACHABLE, route.message if route is not None else ""
    if not route.exists:
        text = "no route yet: all traffic is on the stable arm"
        return as_status(desired == 0), Reason.ROUTE_NOT_VERIFIED if desired else Reason.VERIFIED, text
    if route.weight == desired and route.verified and not route.problem:
        measured = share_mismatch(facts, status)
        if measured:
            return ConditionStatus.FALSE, Reason.SHARE_MISMATCH, measured
        return ConditionStatus.TRUE, Reason.VERIFIED, f"{100 - desired} % stable, {desired} % candidate"
    text = f"the route has {route.weight} %, wanted is {desired} %"
    return ConditionStatus.FALSE, Reason.ROUTE_NOT_VERIFIED, f"{text}: {route.message}" if route.message else text


def share_mismatch(facts: Rollout, status: ShadowRolloutStatus) -> str:
    """Return how the candidate's measured share differs from the desired one; empty where not, or none is known.

    The share of runs is binomial around the weight. Beyond `SHARE_SIGMAS` standard errors and `SHARE_SLACK` of the
    weight, something else than this rollout assigns the arms.
    """
    evidence = status.evidence
    runs = status.arms.stable.runs + status.arms.candidate.runs
    if not evidence_is_fresh(facts, status) or evidence is None or evidence.candidate_share is None:
        return ""
    if status.step > len(facts.obj.spec.steps):
        return ""
    wanted = (status.weight.desired or mirrored(facts, status)) / 100
    if not wanted or runs < SHARE_RUNS:
        return ""
    allowed = SHARE_SIGMAS * math.sqrt(wanted * (1 - wanted) / runs) + SHARE_SLACK * wanted
    if abs(evidence.candidate_share - wanted) <= allowed:
        return ""
    return (
        f"the candidate served {evidence.candidate_share:.1%} of the runs, the route asks for {wanted:.0%}: check that "
        "every agent follows the route and stamps its traces"
    )


def _metrics(facts: Rollout, status: ShadowRolloutStatus) -> tuple[ConditionStatus, Reason | str, str]:
    evidence = status.evidence
    if status.step == 0 or status.outcome:
        return ConditionStatus.UNKNOWN, Reason.NO_EVIDENCE, ""
    if evidence is None:
        return ConditionStatus.FALSE, Reason.NO_EVIDENCE, "no analysis of this step yet"
    if not evidence_is_fresh(facts, status):
        return ConditionStatus.FALSE, Reason.EVIDENCE_STALE, f"the newest analysis is of {evidence.at}"
    if status.arms.candidate.runs == 0 or (evidence.verdict == ShadowVerdict.NO_DATA and not is_last(facts, status)):
        return ConditionStatus.FALSE, Reason.NO_DATA, f"no matured runs of an arm in the analysis of {evidence.at}"
    return ConditionStatus.TRUE, Reason.EVIDENCE_FRESH, f"analysis of {evidence.at}: {evidence.verdict}"
