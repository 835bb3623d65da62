"""The record of attempts: intent, limits, progress, and what a failure leads to.

| class | then |
|---|---|
| Preempted | tried again, does not count |
| NodeLost, Hang, Storage, Infrastructure, Unknown | tried again with doubling delay, `max_attempts` times a request |
| OutOfMemory, Data, UserError | waits for a corrected spec; final once the inputs are pinned |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sluice_api.contracts.jobs import FailureClass, Progress
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1.common import Attempt, AttemptFailure, BaseStatus, RunProgress
from sluice_operator.decisions.common import Facts, Mood, Objection, Verdict
from sluice_operator.decisions.reasons import Phase, Reason
from sluice_operator.manifests.naming import attempt_uri, job_name

S = TypeVar("S", bound=BaseStatus)

KEPT_ATTEMPTS = 20
"""Attempts kept in a status."""
LONGEST_BACK_OFF = timedelta(minutes=5)
"""Ceiling of the doubling delay."""
PROGRESS_STEP = 0.05
"""Progress is written at least this share of the whole apart, so that a status does not tick."""

NOT_RETRIED = frozenset({FailureClass.OUT_OF_MEMORY, FailureClass.DATA, FailureClass.USER_ERROR})
"""Classes that fail again with the same spec."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Time limits and the number of attempts of one request."""

    queued: timedelta = timedelta(hours=6)
    """From the intent until it runs."""
    running: timedelta = timedelta(hours=24)
    """From the start until it ends."""
    hang: timedelta | None = timedelta(minutes=15)
    """Without any progress while it runs; None: not watched."""
    max_attempts: int = 3
    """Failures that count, until it is given up."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """A new attempt is due now."""


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """A new attempt is due after a while."""

    verdict: Verdict
    requeue_after: timedelta


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """No further attempt at this request."""

    reason: Reason | str
    message: str
    correctable: bool
    """True: another try may help without another spec (all attempts used up)."""


def newest(status: BaseStatus) -> Attempt | None:
    """Return the newest attempt."""
    return status.attempts[-1] if status.attempts else None


def current(status: BaseStatus) -> Attempt | None:
    """Return the open attempt."""
    attempt = newest(status)
    return attempt if attempt is not None and attempt.ended_at is None else None


def replaced(status: S, attempt: Attempt) -> S:
    """Return `status` with its newest attempt replaced by a later state of the same."""
    return status.model_copy(update={"attempts": [*status.attempts[:-1], attempt]})


def intend(facts: Facts[Any], status: S, *, key: str, output: str, inputs: Mapping[str, str | None] | None = None) -> S:
    """Return `status` with a new attempt recorded, to be submitted by the next decision."""
    obj = facts.obj
    number = status.attempts_total + 1
    attempt = Attempt(
        number=number,
        job=job_name(obj.crd.kind, obj.name, obj.uid, number),
        generation=obj.generation,
        key=key,
        output_uri=attempt_uri(output, obj.namespace, obj.uid, number),
        inputs={name: digest for name, digest in (inputs or {}).items() if digest},
        profile=obj.spec.profile,
        intended_at=facts.now.text,
    )
    kept = list(status.attempts)
    while len(kept) >= KEPT_ATTEMPTS:
        # Failures that count must not be forgotten before ones that do not, or the limit would never be reached.
        spare = next((i for i, old in enumerate(kept) if not _counts(old)), 0)
        del kept[spare]
    return status.model_copy(update={"attempts": [*kept, attempt], "attempts_total": number})


def after_failure(
    facts: Facts[Any], status: BaseStatus, attempt: Attempt, *, max_attempts: int
) -> Again | BackOff | GivenUp:
    """Return what follows the failure of the newest attempt, for the same request."""
    failure = attempt.failure
    if failure is None or attempt.ended_at is None:
        raise ValueError(f"attempt {attempt.number} has not failed")
    if failure.reason in (Reason.SUSPENDED, Reason.SUPERSEDED):
        return Again()
    cls = _class_of(failure)
    if cls in NOT_RETRIED:
        return GivenUp(reason=failure.reason or _reason_of(cls), message=failure.message, correctable=False)
    counted = sum(1 for old in status.attempts if old.key == attempt.key and _counts(old))
    if counted >= max_attempts and cls is not FailureClass.PREEMPTED:
        return GivenUp(
            reason=Reason.BACKOFF_LIMIT_EXCEEDED,
            message=f"{counted} of {max_attempts} attempts failed, the last with {cls}: {failure.message}",
            correctable=True,
        )
    due = parse_instant(attempt.ended_at) + retry_delay(facts, counted)
    left = due - facts.now.instant
    if left <= timedelta(0):
        return Again()
    text = due.strftime("%H:%M:%S")
    return BackOff(
        verdict=Verdict(
            mood=Mood.WORKING,
            phase=Phase.RETRYING,
            reason=Reason.RETRY_BACK_OFF,
            message=f"attempt {attempt.number} failed with {cls} ({counted} of {max_attempts} that count), "
            f"the next one starts at {text} UTC: {failure.message}",
        ),
        requeue_after=left,
    )


def retry_delay(facts: Facts[Any], failures: int) -> timedelta:
    """Return the delay after that many failures: doubles from `settings.retry_backoff`, at most five minutes."""
    base = facts.observed.settings.retry_backoff
    factor: int = 1 << min(16, max(0, failures - 1))
    return min(LONGEST_BACK_OFF, base * factor)


def throttled(old: RunProgress | None, attempt: Attempt, progress: Progress | None) -> RunProgress | None:
    """Return the progress to show: the old one until the stage changes or 5 % more is done."""
    if progress is None or progress.attempt != attempt.number:
        return old
    new = RunProgress(
        stage=progress.stage,
        step=progress.step,
        of=progress.of,
        loss=progress.metrics.get("loss"),
        epoch=progress.metrics.get("epoch"),
        tokens_per_second=progress.metrics.get("tokens_per_second"),
    )
    if old is None or (old.stage, old.of) != (new.stage, new.of) or new.step < old.step:
        return new
    if new.step == old.step or new.of <= 0:
        return old
    return new if new.step >= new.of or new.step - old.step >= PROGRESS_STEP * new.of else old


def describe(progress: RunProgress | None, unit: str = "steps") -> str:
    """Return a progress in words, empty without one."""
    if progress is None or not progress.stage:
        return ""
    parts = [progress.stage]
    if progress.of:
        parts.append(f"{progress.step} of {progress.of} {unit}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    return ", ".join(parts)


def _class_of(failure: AttemptFailure) -> FailureClass:
    try:
        return FailureClass(failure.failure_class)
    except ValueError:
        return FailureClass.UNKNOWN


def _reason_of(cls: FailureClass) -> Reason:
    return {
        FailureClass.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
        FailureClass.DATA: Reason.DATA_REJECTED,
        FailureClass.USER_ERROR: Reason.SPEC_REJECTED,
    }[cls]


def _counts(attempt: Attempt) -> bool:
    return attempt.failure is not None and _class_of(attempt.failure) is not FailureClass.PREEMPTED


def refused(attempt: Attempt, *, reason: Reason, message: str, failure_class: FailureClass) -> Attempt:
    """Return a closed attempt whose result was refused."""
    failure = AttemptFailure(failure_class=failure_class, reason=reason, message=message[:4096])
    return attempt.model_copy(update={"failure": failure})


def superseded(attempt: Attempt, message: str) -> Attempt:
    """Return a closed attempt whose result came too late: something else is asked for by now."""
    return refused(attempt, reason=Reason.SUPERSEDED, message=message, failure_class=FailureClass.PREEMPTED)


def workers_within(facts: Facts[Any], asked: int) -> Objection | None:
    """Check the number of workers against the profile's ceiling."""
    profile = facts.observed.profile
    if profile is None or asked <= profile.max_workers:
        return None
    return Objection(
        reason=Reason.PROFILE_CEILING,
        message=f"spec.workers is {asked}, profile {profile.name!r} allows {profile.max_workers}",
    )
