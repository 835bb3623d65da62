"""Analyses of a rollout's present step: when one is due, what it is given, what is believed of its result.

Each is a job whose attempt has the key `analysis/<round>/<step>/<n>`. At the last step, at 100 %, no stable arm runs
beside the candidate: its stable evidence reaches back to the start of the step before, so that harm can still be shown.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sluice_api.contracts.jobs import FailureClass, Result, ShadowJob, ShadowOutput
from sluice_api.contracts.shadow import VariantSummary
from sluice_api.contracts.trace import Variant
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1.common import Attempt
from sluice_api.v1alpha1.shadowrollout import Arms, ArmStatus, EvidenceStatus, ShadowRolloutStatus
from sluice_operator.decisions.attempts import Limits, current, intend, refused, replaced, retry_delay
from sluice_operator.decisions.base import Action
from sluice_operator.decisions.common import Objection
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.flight import Broken, Finished, InFlight, observe_attempt, stop_attempt
from sluice_operator.decisions.reasons import Reason
from sluice_operator.decisions.runs import failed_event
from sluice_operator.decisions.shadowrollout_view import (
    Rollout,
    interval,
    is_last,
    mirrored,
    present_step,
    step_start,
)
from sluice_operator.manifests.configmap import traffic_of
from sluice_operator.manifests.jobs import shadow_job

LIMITS = Limits(queued=parse_duration("1h"), running=parse_duration("1h"))
"""Limits of an analysis."""


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """The status after looking at the open analysis, and what to do about it."""

    status: ShadowRolloutStatus
    actions: tuple[Action, ...] = ()
    requeue_after: timedelta | None = None
    message: str = ""
    """What an analysis that is being stopped waits for."""


def prefix(status: ShadowRolloutStatus) -> str:
    """Return the beginning of the keys of the present step's analyses."""
    return f"analysis/{status.round}/{status.step}/"


def of_step(status: ShadowRolloutStatus) -> list[Attempt]:
    """Return the analyses of the present step, oldest first."""
    return [attempt for attempt in status.attempts if attempt.key.startswith(prefix(status))]


def last_failure(status: ShadowRolloutStatus) -> str:
    """Return why the newest analysis of the present step failed; empty when it did not."""
    attempts = of_step(status)
    failure = attempts[-1].failure if attempts else None
    return f"{failure.failure_class}: {failure.message}" if failure is not None else ""


def look(facts: Rollout, status: ShadowRolloutStatus) -> Analysed:
    """Return the status with what the open analysis has brought; one of another step is stopped."""
    attempt = current(status)
    if attempt is None:
        return Analysed(status=status)
    if not attempt.key.startswith(prefix(status)) or status.outcome:
        return stop(facts, status, attempt)
    flight = observe_attempt(facts, attempt, limits=LIMITS, job=lambda known: _job(facts, status, known))
    if isinstance(flight, Finished):
        return _accept(facts, replaced(status, flight.attempt), flight.attempt, flight.result)
    status = replaced(status, flight.attempt)
    if isinstance(flight, InFlight):
        return Analysed(status=status, actions=flight.actions, requeue_after=flight.requeue_after)
    return Analysed(status=status, actions=(*flight.actions, failed_event(flight.attempt)))


def stop(facts: Rollout, status: ShadowRolloutStatus, attempt: Attempt) -> Analysed:
    """Return the status with an analysis that nobody needs any more closed, once its job has stopped."""
    flight = stop_attempt(facts, attempt, reason=Reason.SUPERSEDED, message="the rollout has moved on", limits=LIMITS)
    if isinstance(flight, InFlight):
        return Analysed(
            status=replaced(status, flight.attempt),
            actions=flight.actions,
            requeue_after=flight.requeue_after,
            message=flight.verdict.message,
        )
    return Analysed(
        status=replaced(status, flight.attempt), actions=flight.actions if isinstance(flight, Broken) else ()
    )


def due(facts: Rollout, status: ShadowRolloutStatus) -> datetime | None:
    """Return when the next analysis starts; None while one is open or the step has not begun.

    Normally one interval after the last one was started; after failures with doubling delay.
    """
    started = step_start(status)
    if started is None or current(status) is not None:
        return None
    attempts = of_step(status)
    if not attempts:
        return started + interval(facts)
    last = attempts[-1]
    if last.failure is None:
        return parse_instant(last.intended_at or "") + interval(facts)
    failures = 0
    for attempt in reversed(attempts):
        if attempt.failure is None:
            break
        failures += 1
    return parse_instant(last.ended_at or "") + retry_delay(facts, failures)


def begin(facts: Rollout, status: ShadowRolloutStatus) -> ShadowRolloutStatus:
    """Return the status with a new analysis intended."""
    attempts = of_step(status)
    number = int(attempts[-1].key.rsplit("/", 1)[1]) + 1 if attempts else 1
    return intend(
        facts,
        status,
        key=f"{prefix(status)}{number}",
        output=facts.obj.spec.output,
        inputs={"candidate": status.candidate_digest, "stable": status.stable_digest},
    )


def _job(facts: Rollout, status: ShadowRolloutStatus, attempt: Attempt) -> ShadowJob | Objection:
    if status.step_started_at is None or status.candidate_digest is None or status.stable_digest is None:
        return Objection(reason=Reason.NO_EVIDENCE, message="the step has not begun")
    try:
        maturity = parse_duration(facts.obj.spec.analysis.maturity)
    except ValueError as error:
        return Objection(reason=Reason.INVALID_SPEC, message=f"spec.analysis.maturity: {error}")
    baseline_since = ""
    if is_last(facts, status) and status.previous_step_started_at is not None:
        baseline_since = status.previous_step_started_at
    job = shadow_job(
        facts.obj,
        attempt,
        since=status.step_started_at,
        baseline_since=baseline_since,
        candidate_digest=status.candidate_digest,
        stable_digest=status.stable_digest,
        min_runs=present_step(facts, status).min_runs,
        maturity_s=maturity.total_seconds(),
    )
    gateway = traffic_of(facts.obj).router == "httpRoute"
    return job.model_copy(
        update={
            "harm_alpha": harm_alpha(facts, status),
            "paired": mirrored(facts, status) > 0,
            # Behind a gateway no agent knows its rollout: digests and instants bind the evidence.
            "rollout": "" if gateway else facts.obj.uid,
        }
    )


def harm_alpha(facts: Rollout, status: ShadowRolloutStatus) -> float:
    """Return the present step's part of the error level of harm, so that all parts add up to `analysis.alpha`.

    Each step tests on evidence of its own: without parts, an equal candidate would run the risk again at every step.
    Half is spent where a harmful candidate meets its first users, half of what is left at each further step.
    """
    spent = status.step if not is_last(facts, status) else status.step - 1
    return float(facts.obj.spec.analysis.alpha * 0.5**spent)


def _accept(facts: Rollout, status: ShadowRolloutStatus, attempt: Attempt, result: Result) -> Analysed:
    output = result.output
    problem = ""
    if not isinstance(output, ShadowOutput):
        problem = f"the result is a {type(output).__name__}, not a ShadowOutput"
    elif output.summary.candidate_digest != status.candidate_digest:
        found = output.summary.candidate_digest or "unnamed weights"
        problem = f"the analysis is about {found}, rolled out is {status.candidate_digest}"
    if problem or not isinstance(output, ShadowOutput):
        failed = refused(attempt, reason=Reason.RESULT_MISMATCH, message=problem, failure_class=FailureClass.UNKNOWN)
        return Analysed(status=replaced(status, failed), actions=(failed_event(failed),))
    summary, process = output.summary, output.summary.e_process
    evidence = EvidenceStatus(
        uri=output.report.uri,
        digest=output.report.digest,
        step=status.step,
        verdict=str(summary.verdict),
        at=attempt.intended_at or facts.now.text,
        attempt=attempt.number,
        harm=_finite(process.harm if process is not None else None),
        non_inferiority=_finite(process.non_inferiority if process is not None else None),
        candidate_share=_finite(summary.candidate_share),
        evaluator=summary.evaluator or None,
        unreadable=round(summary.bad_files / summary.traces, 4) if summary.traces else None,
    )
    arms = Arms(
        stable=_arm(summary.variants.get(Variant.BASELINE)),
        candidate=_arm(summary.variants.get(Variant.CANDIDATE)),
    )
    return Analysed(
        status=status.model_copy(
            update={
                "evidence": evidence,
                "arms": arms,
                "verdict": str(summary.verdict),
                "evaluator": status.evaluator or evidence.evaluator,
            }
        )
    )


def _finite(value: float | None) -> float | None:
    """Return a value that a status can hold: what is not a number is not known."""
    return value if value is not None and math.isfinite(value) else None


def _arm(summary: VariantSummary | None) -> ArmStatus:
    if summary is None:
        return ArmStatus()
    return ArmStatus(
        runs=summary.run_count,
        escalations=summary.escalated_runs,
        steps=summary.step_count,
        step_escalations=summary.escalation_count,
    )
