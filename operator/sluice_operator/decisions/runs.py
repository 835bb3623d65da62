"""The loop that FineTuneRun, EvalRun and PromotionScorecard share: one request, one result, attempts in between.

Deleting, finalizer, done, suspended, in flight, next attempt: the first that applies decides. A kind says what its
request needs, which job it is and what its result means (`RunRules`); this module says when.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from sluice_api.contracts.jobs import JobBase, Result
from sluice_api.v1alpha1.common import Attempt, BaseStatus, ConditionStatus, RunProgress, SluiceObject
from sluice_operator.decisions.attempts import (
    Again,
    BackOff,
    Limits,
    after_failure,
    current,
    intend,
    newest,
    replaced,
    superseded,
    throttled,
)
from sluice_operator.decisions.base import Action, Decision, EmitEvent, Now, Observed, SetFinalizer
from sluice_operator.decisions.common import (
    AT_ONCE,
    Command,
    Facts,
    Mood,
    Objection,
    Verdict,
    acknowledge,
    add_finalizer,
    decided,
    deletion_overdue,
    forget_withdrawn,
    has_finalizer,
    holds,
    pending_command,
)
from sluice_operator.decisions.flight import Broken, Finished, InFlight, observe_attempt, stop_attempt
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason

K = TypeVar("K", bound=SluiceObject)
S = TypeVar("S", bound=BaseStatus)


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[S]):
    """A request whose inputs are pinned in `status`."""

    status: S
    inputs: Mapping[str, str | None] = field(default_factory=dict)


class RunRules(Protocol[K, S]):
    """What a run kind adds to the loop. All methods are pure."""

    outcome: ConditionType
    """Condition that tells success."""
    again: str
    """What to do after a final failure, e.g. `create a new FineTuneRun`."""
    unit: str
    """What progress counts."""

    def limits(self, facts: Facts[K]) -> Limits:
        """Return the limits of an attempt."""

    def workers(self, facts: Facts[K]) -> int:
        """Return the number of workers of the job."""

    def output(self, facts: Facts[K]) -> str:
        """Return the prefix that holds the attempts."""

    def suspended(self, facts: Facts[K]) -> bool:
        """Return whether the spec asks for rest."""

    def pinned(self, facts: Facts[K], status: S) -> bool:
        """Return whether the spec can no longer be corrected."""

    def prepare(self, facts: Facts[K], status: S, *, fresh: bool) -> Prepared[S] | Objection:
        """Validate, resolve and pin the inputs; `fresh` where a new request may resolve them anew."""

    def job(self, facts: Facts[K], status: S, attempt: Attempt) -> JobBase | Objection:
        """Return the job's input, or why its inputs are no longer those of the intent."""

    def track(self, facts: Facts[K], status: S, attempt: Attempt) -> S:
        """Return the status with what an open attempt has told."""

    def finish(self, facts: Facts[K], status: S, attempt: Attempt, result: Result) -> S | Attempt:
        """Return the status with the result, or the attempt closed as failed where the result must be refused."""

    def settled(self, facts: Facts[K], status: S) -> Decision | None:
        """Return the decision for an object that has its result; None while it has not."""


def decide_run(rules: RunRules[K, S], obj: K, status: S, observed: Observed, now: Now) -> Decision:
    """Return what to do about a run."""
    facts = Facts(obj=obj, observed=observed, now=now)
    if obj.deleting:
        return decide_deletion(facts, status)
    if not has_finalizer(obj):
        return add_finalizer(status)
    status = forget_withdrawn(obj, status)
    done = rules.settled(facts, status)
    if done is not None:
        return done
    attempt = current(status)
    if rules.suspended(facts):
        return _suspend(rules, facts, status, attempt)
    if attempt is not None:
        return _in_flight(rules, facts, status, attempt)
    return _next(rules, facts, status)


def decide_deletion(facts: Facts[Any], status: BaseStatus) -> Decision:
    """Stop the job, then let go; what does not answer is left behind, with an event, once the grace is over."""
    if not has_finalizer(facts.obj):
        return Decision(status=status.to_wire())
    attempt = current(status)
    release = SetFinalizer(present=False)
    if attempt is None:
        return Decision(status=status.to_wire(), actions=(release,))
    flight = stop_attempt(facts, attempt, reason=Reason.DELETING, message="the object is being deleted")
    if not isinstance(flight, InFlight):
        return Decision(status=replaced(status, flight.attempt).to_wire(), actions=(release,))
    noticed = notice_deletion(facts, status, flight.verdict.message)
    if noticed is not None:
        return noticed
    if deletion_overdue(facts, status):
        warning = EmitEvent(
            reason=Reason.DELETING,
            message=f"job {attempt.job} did not stop in time and is left behind: {flight.verdict.message}"[:1024],
            warning=True,
        )
        return Decision(status=status.to_wire(), actions=(warning, release))
    verdict = Verdict(mood=Mood.WORKING, phase=Phase.DELETING, reason=Reason.DELETING, message=flight.verdict.message)
    return decided(
        facts,
        replaced(status, flight.attempt),
        verdict,
        actions=flight.actions,
        requeue_after=flight.requeue_after,
    )


def notice_deletion(facts: Facts[Any], status: BaseStatus, message: str) -> Decision | None:
    """Return the decision that writes down that a deletion was noticed; None once it was."""
    if holds(status, ConditionType.DELETING):
        return None
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.DELETING,
        reason=Reason.DELETING,
        message=message,
        more={ConditionType.DELETING: (ConditionStatus.TRUE, Reason.DELETING, message)},
    )
    return decided(facts, status, verdict, requeue_after=AT_ONCE)


def failed_event(attempt: Attempt) -> EmitEvent:
    """Return the event of a failed attempt."""
    failure = attempt.failure
    cls, message = (failure.failure_class, failure.message) if failure is not None else ("Unknown", "")
    return EmitEvent(reason="AttemptFailed", message=f"attempt {attempt.number}: {cls}: {message}"[:1024], warning=True)


def new_progress(facts: Facts[Any], attempt: Attempt, shown: RunProgress | None) -> RunProgress | None:
    """Return the progress of an open attempt to show."""
    view = facts.observed.attempt
    return shown if view is None else throttled(shown, attempt, view.progress)


def _in_flight(rules: RunRules[K, S], facts: Facts[K], status: S, attempt: Attempt) -> Decision:
    if not rules.pinned(facts, status) and attempt.generation != facts.obj.generation:
        text = f"generation {facts.obj.generation} of the spec replaces {attempt.generation}"
        flight = stop_attempt(facts, attempt, reason=Reason.SUPERSEDED, message=text)
        if isinstance(flight, Finished):
            # The result answers a spec that is no longer asked for.
            flight = Broken(attempt=superseded(flight.attempt, text))
    else:
        status = rules.track(facts, status, attempt)
        flight = observe_attempt(
            facts,
            attempt,
            limits=rules.limits(facts),
            job=lambda known: rules.job(facts, status, known),
            workers=rules.workers(facts),
            shown=getattr(status, "progress", None),
            unit=rules.unit,
        )
    return _landed(rules, facts, status, flight)


def _landed(rules: RunRules[K, S], facts: Facts[K], status: S, flight: InFlight | Finished | Broken) -> Decision:
    status = replaced(status, flight.attempt)
    if isinstance(flight, InFlight):
        verdict = flight.verdict
        return decided(
            facts,
            status,
            _with_more(verdict, rules),
            actions=flight.actions,
            requeue_after=flight.requeue_after,
        )
    if isinstance(flight, Finished):
        finished = rules.finish(facts, status, flight.attempt, flight.result)
        if not isinstance(finished, Attempt):
            done = rules.settled(facts, finished)
            if done is None:
                raise ValueError(f"{facts.obj.crd.kind}: a finished run must be settled")
            return Decision(
                status=done.status,
                actions=(*done.actions, EmitEvent(reason=Reason.SUCCEEDED, message=str(done.status["message"])[:1024])),
                requeue_after=done.requeue_after,
            )
        flight = Broken(attempt=finished)
        status = replaced(status, finished)
    return _next(rules, facts, status, (*flight.actions, failed_event(flight.attempt)))


def _next(rules: RunRules[K, S], facts: Facts[K], status: S, actions: tuple[Action, ...] = ()) -> Decision:
    last = newest(status)
    key = f"generation/{facts.obj.generation}"
    if last is not None and rules.pinned(facts, status):
        key = last.key
    if last is not None and last.failure is not None and last.key == key:
        follows = after_failure(facts, status, last, max_attempts=rules.limits(facts).max_attempts)
        if isinstance(follows, BackOff):
            return decided(
                facts,
                status,
                _with_more(follows.verdict, rules),
                actions=actions,
                requeue_after=follows.requeue_after,
            )
        if not isinstance(follows, Again):
            retry = pending_command(facts.obj, status, Command.RETRY)
            if retry is None:
                return _given_up(rules, facts, status, follows.reason, follows.message, follows.correctable, actions)
            status, key = acknowledge(status, Command.RETRY, retry), f"retry/{retry}"[:253]
    prepared = rules.prepare(facts, status, fresh=last is None or last.key != key)
    if isinstance(prepared, Objection):
        verdict = _with_more(prepared.verdict(), rules)
        return decided(facts, status, verdict, actions=actions, requeue_after=prepared.requeue_after)
    intended = intend(facts, prepared.status, key=key, output=rules.output(facts), inputs=prepared.inputs)
    number = intended.attempts_total
    verdict = Verdict(
        mood=Mood.WORKING,
        phase=Phase.PENDING,
        reason=Reason.SUBMITTING,
        message=f"attempt {number} is decided on",
    )
    return decided(facts, intended, _with_more(verdict, rules), actions=actions, requeue_after=AT_ONCE)


def _given_up(
    rules: RunRules[K, S],
    facts: Facts[K],
    status: S,
    reason: Reason | str,
    message: str,
    correctable: bool,
    actions: tuple[Action, ...],
) -> Decision:
    final = rules.pinned(facts, status)
    if final:
        remedy = f"The inputs are pinned: {rules.again}"
        if correctable:
            remedy += ", or remove the cause and set the annotation sluice.dev/retry"
    else:
        remedy = "Correct the spec, or what it names and set the annotation sluice.dev/retry"
    verdict = Verdict(
        mood=Mood.STUCK,
        phase=Phase.FAILED if final else Phase.STALLED,
        reason=reason,
        message=f"{message.rstrip('.')}. {remedy}",
        more={rules.outcome: (ConditionStatus.FALSE, reason, message)},
    )
    return decided(facts, status, verdict, actions=actions)


def _suspend(rules: RunRules[K, S], facts: Facts[K], status: S, attempt: Attempt | None) -> Decision:
    actions: tuple[Action, ...] = ()
    if attempt is not None:
        flight = stop_attempt(facts, attempt, reason=Reason.SUSPENDED, message="spec.suspend is true")
        if not isinstance(flight, Broken):
            return _landed(rules, facts, rules.track(facts, status, attempt), flight)
        status = replaced(status, flight.attempt)
    verdict = Verdict(
        mood=Mood.RESTING,
        phase=Phase.SUSPENDED,
        reason=Reason.SUSPENDED,
        message="spec.suspend is true: nothing runs; checkpoints are kept",
    )
    return decided(facts, status, _with_more(verdict, rules), actions=actions)


def _with_more(verdict: Verdict, rules: RunRules[Any, Any]) -> Verdict:
    return Verdict(
        mood=verdict.mood,
        phase=verdict.phase,
        reason=verdict.reason,
        message=verdict.message,
        ready=verdict.ready,
        more={rules.outcome: (ConditionStatus.UNKNOWN, verdict.reason, verdict.message), **verdict.more},
    )
