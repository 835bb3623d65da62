"""TraceDataset: builds versions when the spec changes, the schedule is due or somebody asks, and keeps the good ones.

A build is one request with its own key: `generation/<n>`, `refresh/<value>` or `schedule/<instant>`. A build that fails
leaves the newest version in place: `Ready` stays true while there is one, `Fresh` says that it is not of today.
"""

from collections.abc import Mapping
from typing import Any

from sluice_api.contracts.jobs import FailureClass, LabelJob, LabelOutput, Result
from sluice_api.instants import format_instant, parse_instant
from sluice_api.v1alpha1 import TraceDataset
from sluice_api.v1alpha1.common import Attempt, AttemptFailure, ConditionStatus
from sluice_api.v1alpha1.tracedataset import DatasetVersion, TraceDatasetStatus
from sluice_operator.decisions.attempts import (
    Again,
    BackOff,
    Limits,
    after_failure,
    current,
    intend,
    newest,
    refused,
    replaced,
    superseded,
    throttled,
)
from sluice_operator.decisions.base import Action, CreateOnce, Decision, EmitEvent, Now, Observed
from sluice_operator.decisions.common import (
    AT_ONCE,
    Command,
    Facts,
    Mood,
    Verdict,
    acknowledge,
    add_finalizer,
    decided,
    first_objection,
    forget_withdrawn,
    has_finalizer,
    pending_command,
)
from sluice_operator.decisions.flight import Broken, Finished, Flight, InFlight, observe_attempt, stop_attempt
from sluice_operator.decisions.models import short
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason
from sluice_operator.decisions.runs import decide_deletion, failed_event
from sluice_operator.decisions.tracedataset_checks import CHECKS, next_instant
from sluice_operator.manifests.jobs import label_job
from sluice_operator.manifests.lineage import lineage

LIMITS = Limits()
"""Limits of a build; a TraceDataset has no deadlines of its own."""
LINEAGES_KEPT = 50
"""Digests remembered as having their lineage."""

_NO_ROWS_SIGNS = ("no rows", "no trace files", "none of the traces", "earlier version held out")


def decide(obj: TraceDataset, observed: Observed, now: Now) -> Decision:
    """Return what to do about a TraceDataset."""
    facts = Facts(obj=obj, observed=observed, now=now)
    status = obj.status
    if obj.deleting:
        return decide_deletion(facts, status)
    if not has_finalizer(obj):
        return add_finalizer(status)
    status = forget_withdrawn(obj, status)
    attempt = current(status)
    if obj.spec.suspend:
        return _suspend(facts, status, attempt)
    if attempt is not None:
        return _landed(facts, status, _flight(facts, status, attempt))
    return _next(facts, status)


# A build under way


def _flight(facts: Facts[TraceDataset], status: TraceDatasetStatus, attempt: Attempt) -> Flight:
    if attempt.generation != facts.obj.generation:
        text = f"generation {facts.obj.generation} of the spec replaces {attempt.generation}"
        flight = stop_attempt(facts, attempt, reason=Reason.SUPERSEDED, message=text)
        return Broken(attempt=superseded(flight.attempt, text)) if isinstance(flight, Finished) else flight
    view = facts.observed.attempt
    shown = throttled(None, attempt, view.progress) if view is not None else None
    # Builds report many files: only the stage is told, so that the status does not tick.
    stage = shown.model_copy(update={"step": 0, "of": 0, "loss": None}) if shown is not None else None
    return observe_attempt(
        facts,
        attempt,
        limits=LIMITS,
        job=lambda known: _job(facts.obj, known),
        shown=stage,
        workers=facts.obj.spec.workers,
    )


def _job(obj: TraceDataset, attempt: Attempt) -> LabelJob:
    return label_job(obj, attempt, parent=attempt.inputs.get("parent"))


def _landed(facts: Facts[TraceDataset], status: TraceDatasetStatus, flight: Flight) -> Decision:
    status = replaced(status, flight.attempt)
    if isinstance(flight, InFlight):
        return decided(
            facts,
            status,
            _with_more(flight.verdict, status),
            actions=flight.actions,
            requeue_after=flight.requeue_after,
        )
    if isinstance(flight, Finished):
        closed = _accept(facts, status, flight.attempt, flight.result)
        if isinstance(closed, TraceDatasetStatus):
            verdict = _answered(closed)
            event = EmitEvent(reason=Reason.VERSION_READY, message=verdict.message[:1024])
            return decided(facts, closed, verdict, actions=(event,), requeue_after=AT_ONCE)
        flight = Broken(attempt=closed)
    attempt = _named(flight.attempt)
    return _next(facts, replaced(status, attempt), (*flight.actions, failed_event(attempt)))


def _named(attempt: Attempt) -> Attempt:
    """Return a failed attempt with the reason that a data failure without rows deserves."""
    failure = attempt.failure
    if failure is None or failure.reason or failure.failure_class != FailureClass.DATA:
        return attempt
    if not any(sign in failure.message.lower() for sign in _NO_ROWS_SIGNS):
        return attempt
    named = AttemptFailure(failure_class=failure.failure_class, reason=Reason.NO_ROWS, message=failure.message)
    return attempt.model_copy(update={"failure": named})


def _accept(
    facts: Facts[TraceDataset], status: TraceDatasetStatus, attempt: Attempt, result: Result
) -> TraceDatasetStatus | Attempt:
    """Return the status with the new version; the same digest as before is no new version."""
    output = result.output
    if not isinstance(output, LabelOutput):
        return refused(
            attempt,
            reason=Reason.RESULT_MISMATCH,
            message=f"the result is a {type(output).__name__}, not a LabelOutput",
            failure_class=FailureClass.UNKNOWN,
        )
    if output.rows <= 0:
        return refused(
            attempt,
            reason=Reason.NO_ROWS,
            message=f"{output.traces} traces gave no training row (labels {dict(output.labels)}): widen spec.source, "
            "or set spec.convert.requireScreenshot to false for a text-only agent",
            failure_class=FailureClass.DATA,
        )
    latest = status.latest
    if latest is not None and latest.digest == output.dataset.digest:
        return status
    version = DatasetVersion(
        digest=output.dataset.digest,
        uri=output.dataset.uri,
        rows=output.rows,
        holdout_rows=output.holdout_rows,
        new_rows=output.new_rows,
        traces=output.traces,
        bad_files=output.bad_files,
        labels=_bounded(output.labels, 8),
        reasons=_bounded(output.label_reasons, 16),
        redactions=_bounded(output.redactions, 64),
        quarantined=output.quarantined,
        duplicates=_bounded(output.duplicates, 8),
        leaks=output.leaks,
        bad_reasons=_bounded(output.bad_reasons, 32),
        tenants=_bounded(output.tenants, 33),
        buckets=_bounded(output.buckets, 32),
        screens=output.screens,
        kept_rows=output.kept_rows,
        created_at=facts.now.text,
    )
    versions = [old for old in status.versions if old.digest != version.digest]
    kept = [*versions, version][-facts.obj.spec.history_limit :]
    pending = status.pending_new_rows + version.new_rows
    return status.model_copy(update={"latest": version, "versions": kept, "pending_new_rows": pending})


def _bounded(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """Return at most so many counts, sorted by name, whose names fit into a status."""
    return dict(sorted((name, count) for name, count in counts.items() if len(name) <= 253)[:most])


# Between builds


def _next(facts: Facts[TraceDataset], status: TraceDatasetStatus, actions: tuple[Action, ...] = ()) -> Decision:
    objection = first_objection(facts, CHECKS)
    if objection is not None:
        verdict = _with_more(objection.verdict(ready=status.latest is not None), status, fresh=False)
        return decided(facts, status, verdict, actions=actions, requeue_after=objection.requeue_after)
    status = _scheduled(facts, status)
    creating = _lineage(facts, status)
    if isinstance(creating, TraceDatasetStatus):
        status = creating
    elif creating:
        verdict = Verdict(
            mood=Mood.WORKING,
            phase=Phase.READY,
            reason=Reason.CREATING_LINEAGE,
            message=f"creating {len(creating)} objects for the newest version",
            ready=True,
        )
        told = _with_more(verdict, status, fresh=True)
        return decided(facts, status, told, actions=(*actions, *creating), requeue_after=AT_ONCE)
    last = newest(status)
    key = _wanted_key(facts, status, last)
    if key is None and last is not None and last.failure is not None:
        follows = after_failure(facts, status, last, max_attempts=LIMITS.max_attempts)
        if isinstance(follows, BackOff):
            verdict = _with_more(follows.verdict, status, fresh=False)
            return decided(facts, status, verdict, actions=actions, requeue_after=follows.requeue_after)
        if not isinstance(follows, Again):
            return _given_up(facts, status, follows.reason, follows.message, actions)
        key = last.key
    if key is None:
        return decided(facts, status, _answered(status), actions=actions, requeue_after=_until_due(facts, status))
    return _intend(facts, status, key, actions)


def _wanted_key(facts: Facts[TraceDataset], status: TraceDatasetStatus, last: Attempt | None) -> str | None:
    """Return the key of a build that is asked for and not begun: spec, command, schedule, in this order."""
    if last is None or last.generation != facts.obj.generation:
        return f"generation/{facts.obj.generation}"
    for command in (Command.REFRESH, Command.RETRY):
        value = pending_command(facts.obj, status, command)
        if value is not None:
            return f"{command}/{value}"[:253]
    if status.next_refresh is not None and facts.now.instant >= parse_instant(status.next_refresh):
        return f"schedule/{status.next_refresh}"
    return None


def _intend(facts: Facts[TraceDataset], status: TraceDatasetStatus, key: str, actions: tuple[Action, ...]) -> Decision:
    for command in (Command.REFRESH, Command.RETRY):
        value = pending_command(facts.obj, status, command)
        if value is not None and (key.startswith(f"{command}/") or not key.startswith("schedule/")):
            # A build that starts now answers a command given before it.
            status = acknowledge(status, command, value)
    schedule = facts.obj.spec.schedule
    if schedule is not None and key.startswith("schedule/"):
        following = format_instant(next_instant(schedule, facts.now.instant))
        status = status.model_copy(update={"next_refresh": following})
    output, latest = facts.obj.spec.output.uri, status.latest
    # A version elsewhere is no parent: after a change of the output prefix the first build there starts afresh.
    parent = latest.digest if latest is not None and latest.uri.startswith(output.rstrip("/") + "/") else None
    status = intend(facts, status, key=key, output=output, inputs={"parent": parent})
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.PENDING,
        reason=Reason.SUBMITTING,
        message=f"build {status.attempts_total} is decided on ({key})",
    )
    return decided(facts, status, _with_more(verdict, status), actions=actions, requeue_after=AT_ONCE)


def _scheduled(facts: Facts[TraceDataset], status: TraceDatasetStatus) -> TraceDatasetStatus:
    """Return the status with the schedule's next instant; a changed schedule counts from now."""
    schedule = facts.obj.spec.schedule
    if schedule is None:
        return status if status.next_refresh is None else status.model_copy(update={"next_refresh": None})
    known = status.next_refresh
    last = newest(status)
    if known is not None and last is not None and last.generation == facts.obj.generation:
        return status
    return status.model_copy(update={"next_refresh": format_instant(next_instant(schedule, facts.now.instant))})


def _until_due(facts: Facts[TraceDataset], status: TraceDatasetStatus) -> Any:
    if status.next_refresh is None:
        return None
    return max(AT_ONCE, parse_instant(status.next_refresh) - facts.now.instant)


def _lineage(facts: Facts[TraceDataset], status: TraceDatasetStatus) -> TraceDatasetStatus | tuple[Action, ...]:
    """Return the children still to create, or the status in which the newest version's lineage is settled.

    A version counts as settled once all its children were seen, so that a crash in between creates the rest. New rows
    add up over versions: many small refreshes teach as much as a large one.
    """
    templates, latest = facts.obj.spec.on_new_version, status.latest
    if templates is None or latest is None or latest.digest in status.lineages:
        return status
    enough = max(status.pending_new_rows, latest.new_rows) >= templates.min_new_rows
    manifests = lineage(facts.obj, latest.digest) if enough else []
    missing = [
        manifest
        for manifest in manifests
        if facts.observed.references.get(f"{manifest['kind']}/{manifest['metadata']['name']}") is None
    ]
    if missing:
        return tuple(CreateOnce(manifest=manifest) for manifest in missing)
    settled = {"lineages": [*status.lineages, latest.digest][-LINEAGES_KEPT:]}
    return status.model_copy(update=settled | ({"pending_new_rows": 0} if enough else {}))


# What is said


def _answered(status: TraceDatasetStatus) -> Verdict:
    latest = status.latest
    if latest is None:
        raise ValueError("a dataset without a version answers nothing")
    message = (
        f"version {short(latest.digest)}: {latest.rows} rows to train on, {latest.holdout_rows} held out, "
        f"{latest.new_rows} new, from {latest.traces} traces"
    )
    if latest.bad_files:
        message += f"; {latest.bad_files} files could not be read"
    if removed := sum(latest.duplicates.values()) + latest.leaks:
        message += f"; {removed} rows removed as duplicates or leaks"
    verdict = Verdict(mood=Mood.DONE, phase=Phase.READY, reason=Reason.VERSION_READY, message=message)
    return _with_more(verdict, status, fresh=True)


def _with_more(verdict: Verdict, status: TraceDatasetStatus, fresh: bool | None = None) -> Verdict:
    """Return the verdict with `Ready` true while there is a version, and `Fresh`."""
    truth = {None: ConditionStatus.UNKNOWN, True: ConditionStatus.TRUE, False: ConditionStatus.FALSE}[fresh]
    return Verdict(
        mood=verdict.mood,
        phase=verdict.phase,
        reason=verdict.reason,
        message=verdict.message,
        ready=status.latest is not None,
        more={ConditionType.FRESH: (truth, verdict.reason, verdict.message)},
    )


def _given_up(
    facts: Facts[TraceDataset],
    status: TraceDatasetStatus,
    reason: Reason | str,
    message: str,
    actions: tuple[Action, ...],
) -> Decision:
    kept = f" Version {short(status.latest.digest)} stays in use." if status.latest is not None else ""
    verdict = Verdict(
        mood=Mood.STUCK,
        phase=Phase.STALLED,
        reason=reason,
        message=f"{message.rstrip('.')}. Correct the spec or the source, then set the annotation sluice.dev/refresh."
        + kept,
    )
    told = _with_more(verdict, status, fresh=False)
    return decided(facts, status, told, actions=actions, requeue_after=_until_due(facts, status))


def _suspend(facts: Facts[TraceDataset], status: TraceDatasetStatus, attempt: Attempt | None) -> Decision:
    if attempt is not None:
        flight = stop_attempt(facts, attempt, reason=Reason.SUSPENDED, message="spec.suspend is true")
        if not isinstance(flight, Broken):
            return _landed(facts, status, flight)
        status = replaced(status, flight.attempt)
    verdict = Verdict(
        mood=Mood.RESTING,
        phase=Phase.SUSPENDED,
        reason=Reason.SUSPENDED,
        message="spec.suspend is true: nothing is built",
    )
    return decided(facts, status, _with_more(verdict, status))
