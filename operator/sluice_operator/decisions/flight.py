"""The flight of an attempt: submission, observation, end.

An attempt is open from its intent until it ends. Its job's name is fixed with the intent, submission repeats until the
backend is seen to have the job, and a result counts only when it names this run and this attempt. A backend or a store
that does not answer proves nothing: the attempt stays open, and its deadline goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sluice_api.contracts.jobs import FailureClass, JobBase, Result
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1.common import Attempt, AttemptFailure, RunProgress
from sluice_operator.decisions.attempts import Limits, describe
from sluice_operator.decisions.base import Action, AttemptView, JobState, JobView, StopJob, SubmitJob
from sluice_operator.decisions.common import Facts, Mood, Objection, Verdict
from sluice_operator.decisions.duration import format_duration
from sluice_operator.decisions.reasons import Phase, Reason

_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.MISSING})

_OUT_OF_MEMORY_SIGNS = ("oomkilled", "out of memory", "outofmemory", "oom-kill", "oom killer")
_PREEMPTION_SIGNS = ("preempt", "evict", "spot instance", "terminated by kueue")
_NODE_LOST_SIGNS = (
    "head node",
    "head pod",
    "ray head",
    "node died",
    "node lost",
    "nodelost",
    "node failure",
    "raylet died",
    "heartbeat",
    "actor died",
    "supervisor",
)
_INFRASTRUCTURE_SIGNS = ("imagepull", "errimage", "invalidimage", "failedscheduling", "quota", "createcontainer")


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """The attempt is open."""

    attempt: Attempt
    verdict: Verdict
    actions: tuple[Action, ...] = ()
    requeue_after: timedelta


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The attempt has ended with a result; `attempt` is closed."""

    attempt: Attempt
    result: Result


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The attempt has ended with a failure; `attempt` is closed and carries it."""

    attempt: Attempt
    actions: tuple[Action, ...] = ()


Flight = InFlight | Finished | Broken


def observe_attempt(
    facts: Facts[Any],
    attempt: Attempt,
    *,
    limits: Limits,
    job: Callable[[Attempt], JobBase | Objection],
    workers: int = 1,
    shown: RunProgress | None = None,
    unit: str = "steps",
) -> Flight:
    """Return where an open attempt stands, with what to do about it.

    `job` builds the input from the attempt: the same one each time, since a submission may be repeated; where its
    inputs are gone by now it objects, and the attempt ends unsubmitted. `shown` is the progress for the message,
    counted in `unit`.
    """
    view = facts.observed.attempt
    if view is None or view.job.name != attempt.job:
        return _waiting(
            facts, attempt, Reason.BACKEND_UNREACHABLE, facts.observed.profile_problem or "not observed yet"
        )
    attempt = _seen(facts, attempt, view)
    result = view.result
    if result is not None and _is_ours(facts, attempt, result):
        if result.output is not None:
            return Finished(attempt=_closed(facts, attempt, None), result=result)
        overrun = _overrun(facts, attempt, view, limits)
        failure = overrun if overrun is not None and _was_stopped(result) else _reported(result)
        return Broken(attempt=_closed(facts, attempt, failure))
    overrun = _overrun(facts, attempt, view, limits)
    if overrun is not None:
        return _overdue(facts, attempt, view, overrun, limits)
    if view.job.state is JobState.UNKNOWN:
        return _waiting(facts, attempt, Reason.BACKEND_UNREACHABLE, view.job.message)
    if view.job.state is JobState.MISSING and attempt.submitted_at is None:
        return _submission(facts, attempt, job, workers)
    if view.job.state in _ENDED:
        if view.storage_problem:
            return _waiting(facts, attempt, Reason.STORAGE_UNAVAILABLE, view.storage_problem)
        return Broken(attempt=_closed(facts, attempt, _without_result(facts, attempt, view)))
    return _live(facts, attempt, view, describe(shown, unit))


def stop_attempt(
    facts: Facts[Any], attempt: Attempt, *, reason: Reason, message: str, limits: Limits | None = None
) -> Flight:
    """Return how far stopping an open attempt has come: `Broken` once its job is known not to run.

    A result that arrived in the meantime counts. With `limits`, an attempt whose backend does not answer is given up
    once it is past its deadline and the grace.
    """
    view, profile = facts.observed.attempt, facts.observed.profile
    if view is None or view.job.name != attempt.job or profile is None:
        return _waiting(
            facts, attempt, Reason.BACKEND_UNREACHABLE, facts.observed.profile_problem or "not observed yet"
        )
    result = view.result
    if result is not None and _is_ours(facts, attempt, result) and result.output is not None:
        return Finished(attempt=_closed(facts, attempt, None), result=result)
    if view.job.state in _ENDED:
        failure = AttemptFailure(failure_class=FailureClass.PREEMPTED, reason=reason, message=message)
        return Broken(attempt=_closed(facts, attempt, failure))
    if view.job.state is JobState.UNKNOWN:
        overrun = None if limits is None else _overrun(facts, attempt, view, limits)
        if overrun is not None and limits is not None:
            return _overdue(facts, attempt, view, overrun, limits)
        return _waiting(facts, attempt, Reason.BACKEND_UNREACHABLE, view.job.message)
    return InFlight(
        attempt=attempt,
        verdict=Verdict(
            mood=Mood.WORKING,
            phase=Phase.STOPPING,
            reason=Reason.STOPPING,
            message=f"stopping job {attempt.job}: {message}",
        ),
        actions=(StopJob(name=attempt.job, profile=profile),),
        requeue_after=min(facts.observed.settings.poll, timedelta(seconds=2)),
    )


def _is_ours(facts: Facts[Any], attempt: Attempt, result: Result) -> bool:
    return result.run.uid == facts.obj.uid and result.attempt == attempt.number


def _was_stopped(result: Result) -> bool:
    return result.failure is not None and result.failure.failure_class is FailureClass.PREEMPTED


def _reported(result: Result) -> AttemptFailure:
    failure = result.failure
    if failure is None:
        return AttemptFailure(
            failure_class=FailureClass.UNKNOWN, message="the worker wrote a result with neither output nor failure"
        )
    return AttemptFailure(failure_class=failure.failure_class, message=failure.message[:4096])


def _closed(facts: Facts[Any], attempt: Attempt, failure: AttemptFailure | None) -> Attempt:
    return attempt.model_copy(update={"ended_at": facts.now.text, "failure": failure})


def _seen(facts: Facts[Any], attempt: Attempt, view: AttemptView) -> Attempt:
    """Record when the job was first seen, first seen running, and where it resumed."""
    update: dict[str, Any] = {}
    state = view.job.state
    known = state not in (JobState.MISSING, JobState.UNKNOWN) or view.result is not None
    if known and attempt.submitted_at is None:
        update["submitted_at"] = facts.now.text
    if state is JobState.RUNNING and attempt.started_at is None:
        update["started_at"] = facts.now.text
    progress = view.progress
    if progress is not None and progress.attempt == attempt.number and progress.resumed_from_step is not None:
        update["resumed_from_step"] = progress.resumed_from_step
    return attempt.model_copy(update=update) if update else attempt


def _overrun(facts: Facts[Any], attempt: Attempt, view: AttemptView, limits: Limits) -> AttemptFailure | None:
    """Return the failure of an attempt that is past one of its limits."""
    now = facts.now.instant
    if attempt.started_at is None:
        since = attempt.intended_at or attempt.submitted_at
        if since is not None and now >= parse_instant(since) + limits.queued:
            return AttemptFailure(
                failure_class=FailureClass.INFRASTRUCTURE,
                reason=Reason.QUEUE_DEADLINE_EXCEEDED,
                message=f"job {attempt.job} did not start within {format_duration(limits.queued)}: "
                f"profile {attempt.profile!r} has no room, or its backend does not answer",
            )
        return None
    started = parse_instant(attempt.started_at)
    if now >= started + limits.running:
        return AttemptFailure(
            failure_class=FailureClass.USER_ERROR,
            reason=Reason.DEADLINE_EXCEEDED,
            message=f"job {attempt.job} ran for more than {format_duration(limits.running)}: "
            "allow more time, or ask for less",
        )
    if limits.hang is None or view.storage_problem or view.job.state is not JobState.RUNNING:
        return None
    progress = view.progress
    alive = started
    if progress is not None and progress.attempt == attempt.number:
        alive = max(started, parse_instant(progress.updated_at))
    if now < alive + limits.hang:
        return None
    where = f" at {progress.stage}, {progress.step} of {progress.of}" if progress is not None else ""
    return AttemptFailure(
        failure_class=FailureClass.HANG,
        reason=Reason.HANG,
        message=f"job {attempt.job} made no progress for {format_duration(limits.hang)}{where}",
    )


def _overdue(facts: Facts[Any], attempt: Attempt, view: AttemptView, failure: AttemptFailure, limits: Limits) -> Flight:
    """Stop a job that is past a limit; end the attempt once it has stopped, or the grace is over as well."""
    profile, state = facts.observed.profile, view.job.state
    # Storage may hide the end's result, but a job past its limit has had its time.
    stop: tuple[Action, ...] = ()
    if profile is not None and state not in _ENDED:
        stop = (StopJob(name=attempt.job, profile=profile),)
    grace = facts.observed.settings.stop_grace
    later = _overrun(facts_at(facts, -grace), attempt, view, limits)
    if state in _ENDED or later is not None:
        return Broken(attempt=_closed(facts, attempt, failure), actions=stop)
    message = failure.message
    if state is JobState.UNKNOWN:
        until = format_duration(grace)
        message += f". Its backend does not answer ({view.job.message}): it is given up {until} after the deadline"
    return InFlight(
        attempt=attempt,
        verdict=Verdict(mood=Mood.WORKING, phase=Phase.STOPPING, reason=failure.reason, message=message),
        actions=stop,
        requeue_after=min(facts.observed.settings.poll, grace),
    )


def facts_at(facts: Facts[Any], shift: timedelta) -> Facts[Any]:
    """Return the same facts at another instant."""
    moved = type(facts.now)(instant=facts.now.instant + shift)
    return Facts(obj=facts.obj, observed=facts.observed, now=moved)


def _waiting(facts: Facts[Any], attempt: Attempt, reason: Reason, message: str) -> InFlight:
    """Return that nothing can be concluded now; the attempt's deadline goes on."""
    profile = facts.observed.profile
    where = f" at {profile.address}" if profile is not None and profile.address else ""
    what = {
        Reason.BACKEND_UNREACHABLE: f"the compute backend of profile {attempt.profile!r}{where} does not answer; job "
        f"{attempt.job} is left as it is. Check that it runs and that profile and token are right",
        Reason.STORAGE_UNAVAILABLE: f"progress and result of job {attempt.job} cannot be read",
    }[reason]
    return InFlight(
        attempt=attempt,
        verdict=Verdict(
            mood=Mood.WORKING,
            phase=Phase.RUNNING if attempt.started_at else Phase.PENDING,
            reason=reason,
            message=f"{what}: {message}" if message else what,
        ),
        requeue_after=facts.observed.settings.poll,
    )


def _submission(
    facts: Facts[Any], attempt: Attempt, job: Callable[[Attempt], JobBase | Objection], workers: int
) -> Flight:
    profile = facts.observed.profile
    if profile is None:
        return _waiting(facts, attempt, Reason.BACKEND_UNREACHABLE, facts.observed.profile_problem)
    job_input = job(attempt)
    if isinstance(job_input, Objection):
        failure = AttemptFailure(
            failure_class=FailureClass.PREEMPTED,
            reason=Reason.SUPERSEDED,
            message=f"its inputs changed before it was submitted: {job_input.message}"[:4096],
        )
        return Broken(attempt=_closed(facts, attempt, failure))
    return InFlight(
        attempt=attempt,
        verdict=Verdict(
            mood=Mood.WORKING,
            phase=Phase.PENDING,
            reason=Reason.SUBMITTING,
            message=f"submitting job {attempt.job}, attempt {attempt.number}, to profile {profile.name}",
        ),
        actions=(SubmitJob(name=attempt.job, profile=profile, job_input=job_input, workers=workers),),
        requeue_after=min(facts.observed.settings.poll, timedelta(seconds=1)),
    )


def _live(facts: Facts[Any], attempt: Attempt, view: AttemptView, text: str) -> InFlight:
    poll = facts.observed.settings.poll
    if view.job.state is JobState.PENDING:
        note = " ".join(part for part in (view.job.reason, view.job.message) if part)
        message = f"job {attempt.job} waits for resources of profile {attempt.profile!r}"
        verdict = Verdict(
            mood=Mood.WORKING,
            phase=Phase.QUEUED,
            reason=Reason.QUEUED,
            message=f"{message}: {note}" if note else message,
        )
        return InFlight(attempt=attempt, verdict=verdict, requeue_after=poll)
    message = f"attempt {attempt.number} runs as job {attempt.job}"
    text = "; ".join(part for part in (view.storage_problem or text, view.job.message) if part)
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.RUNNING,
        reason=Reason.STORAGE_UNAVAILABLE if view.storage_problem else Reason.RUNNING,
        message=f"{message}: {text}" if text else message,
    )
    return InFlight(attempt=attempt, verdict=verdict, requeue_after=poll)


def _without_result(facts: Facts[Any], attempt: Attempt, view: AttemptView) -> AttemptFailure:
    """Return the failure of a job that ended and left no result of ours."""
    if view.result is not None:
        run = view.result.run
        return AttemptFailure(
            failure_class=FailureClass.UNKNOWN,
            reason=Reason.RESULT_MISMATCH,
            message=f"result.json is about {run.kind} {run.namespace}/{run.name} uid {run.uid} attempt "
            f"{view.result.attempt}, not about uid {facts.obj.uid} attempt {attempt.number}: it does not count",
        )
    cls = classify(view.job)
    told = ": ".join(part for part in (view.job.reason, view.job.message) if part)
    what = {
        JobState.MISSING: "vanished from its backend",
        JobState.STOPPED: "was stopped",
        JobState.SUCCEEDED: "ended without a result",
    }.get(view.job.state, "failed without a result")
    advice = (
        ". Give the profile's workers more memory; a FineTuneRun needs less with a lower spec.sequence.maxLength, or "
        "with spec.sequence.activationCheckpointing 'on', in quotes"
        if cls is FailureClass.OUT_OF_MEMORY
        else ""
    )
    message = f"job {attempt.job} {what}" + (f": {told}" if told else "") + advice
    return AttemptFailure(failure_class=cls, message=message[:4096])


def classify(job: JobView) -> FailureClass:
    """Return the class of a job that ended without a result, from what its backend says."""
    if job.state is JobState.MISSING:
        return FailureClass.NODE_LOST
    text = f"{job.reason} {job.message}".lower()
    for cls, signs in (
        (FailureClass.OUT_OF_MEMORY, _OUT_OF_MEMORY_SIGNS),
        (FailureClass.PREEMPTED, _PREEMPTION_SIGNS),
        (FailureClass.NODE_LOST, _NODE_LOST_SIGNS),
        (FailureClass.INFRASTRUCTURE, _INFRASTRUCTURE_SIGNS),
    ):
        if any(sign in text for sign in signs):
            return cls
    return FailureClass.PREEMPTED if job.state is JobState.STOPPED else FailureClass.UNKNOWN
