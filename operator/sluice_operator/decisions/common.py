"""What the decisions of all kinds share: conditions, named checks, references, commands, finalizer and suspension."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from sluice_api.instants import parse_instant
from sluice_api.v1alpha1.common import (
    ANNOTATION_ABORT,
    ANNOTATION_PROMOTE,
    ANNOTATION_REFRESH,
    ANNOTATION_RETRY,
    FINALIZER,
    BaseStatus,
    Condition,
    ConditionStatus,
    SluiceObject,
)
from sluice_operator.decisions.base import Action, Decision, Now, Observed, Profile, SetFinalizer
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason

K = TypeVar("K", bound=SluiceObject)
R = TypeVar("R", bound=SluiceObject)
S = TypeVar("S", bound=BaseStatus)

MESSAGE_LIMIT = 4096
"""Longest message of a condition."""
AT_ONCE = timedelta(0)
"""Look again at once: an intent was recorded and its action follows."""
WAITING = timedelta(seconds=30)
"""Look again at what other objects or people must do first; their events usually come earlier."""


@dataclass(frozen=True, kw_only=True)
class Facts(Generic[K]):
    """One object, what was observed, and the instant."""

    obj: K
    observed: Observed
    now: Now


class Mood(StrEnum):
    """Which of kstatus' three conditions holds."""

    DONE = "Done"
    """Nothing is left to do."""
    WORKING = "Working"
    """It goes on by itself."""
    STUCK = "Stuck"
    """A person is needed."""
    RESTING = "Resting"
    """A person wants it to rest: suspended or paused."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a decision says about an object."""

    mood: Mood
    phase: Phase
    reason: Reason | str
    message: str
    ready: bool | None = None
    """Overrides `Ready`, which otherwise holds when done."""
    more: Mapping[ConditionType, tuple[ConditionStatus, Reason | str, str]] = field(default_factory=dict)
    """The kind's own conditions: status, reason, message."""


@dataclass(frozen=True, kw_only=True)
class Objection:
    """Why a check does not let the object go on."""

    reason: Reason
    message: str
    mood: Mood = Mood.STUCK
    phase: Phase | None = None
    """None: `Stalled` when stuck, `Pending` otherwise."""
    requeue_after: timedelta = WAITING

    def verdict(self, **options: Any) -> Verdict:
        """Return it as what to say; `options` as in `Verdict`."""
        phase = self.phase or (Phase.STALLED if self.mood is Mood.STUCK else Phase.PENDING)
        return Verdict(mood=self.mood, phase=phase, reason=self.reason, message=self.message, **options)


Check = Callable[[Facts[K]], Objection | None]


def first_objection(facts: Facts[K], checks: Iterable[Check[K]]) -> Objection | None:
    """Return the objection of the first check that has one. The order of the checks is the order of importance."""
    for check in checks:
        objection = check(facts)
        if objection is not None:
            return objection
    return None


def as_status(truth: bool | None) -> ConditionStatus:
    """Return a truth as a condition's status; None is Unknown."""
    if truth is None:
        return ConditionStatus.UNKNOWN
    return ConditionStatus.TRUE if truth else ConditionStatus.FALSE


def with_condition(
    conditions: Iterable[Condition],
    *,
    kind: ConditionType,
    status: ConditionStatus,
    reason: str,
    message: str,
    now: Now,
    generation: int,
) -> list[Condition]:
    """Return `conditions` with one replaced or added; its transition time changes with its status only."""
    result = list(conditions)
    place = next((place for place, old in enumerate(result) if old.type == kind), len(result))
    since = now.text
    if place < len(result) and result[place].status is status:
        since = result[place].last_transition_time
    result[place : place + 1] = [
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message[:MESSAGE_LIMIT],
            last_transition_time=since,
            observed_generation=generation,
        )
    ]
    return result


def condition(status: BaseStatus, kind: ConditionType) -> Condition | None:
    """Return a condition of a status, if it is there."""
    return next((entry for entry in status.conditions if entry.type == kind), None)


def holds(status: BaseStatus, kind: ConditionType) -> bool:
    """Return whether a condition is there and True."""
    entry = condition(status, kind)
    return entry is not None and entry.status is ConditionStatus.TRUE


def conclude(facts: Facts[Any], status: S, verdict: Verdict) -> S:
    """Return `status` with phase, reason, message and conditions of a verdict, for the present generation."""
    ready = verdict.ready if verdict.ready is not None else verdict.mood is Mood.DONE
    wanted: dict[ConditionType, tuple[ConditionStatus, str, str]] = {
        ConditionType.READY: (as_status(ready), verdict.reason, verdict.message),
        ConditionType.RECONCILING: (as_status(verdict.mood is Mood.WORKING), verdict.reason, verdict.message),
        ConditionType.STALLED: (as_status(verdict.mood is Mood.STUCK), verdict.reason, verdict.message),
        **verdict.more,
    }
    conditions: list[Condition] = list(status.conditions)
    for kind, (truth, reason, message) in wanted.items():
        conditions = with_condition(
            conditions,
            kind=kind,
            status=truth,
            reason=reason,
            message=message,
            now=facts.now,
            generation=facts.obj.generation,
        )
    return status.model_copy(
        update={
            "observed_generation": facts.obj.generation,
            "phase": str(verdict.phase),
            "reason": str(verdict.reason),
            "message": verdict.message[:MESSAGE_LIMIT],
            "conditions": conditions,
        }
    )


def decided(
    facts: Facts[Any],
    status: BaseStatus,
    verdict: Verdict,
    *,
    actions: tuple[Action, ...] = (),
    requeue_after: timedelta | None = None,
) -> Decision:
    """Return the decision that says `verdict` and does `actions`."""
    return Decision(status=conclude(facts, status, verdict).to_wire(), actions=actions, requeue_after=requeue_after)


def objected(facts: Facts[Any], status: BaseStatus, objection: Objection, **options: Any) -> Decision:
    """Return the decision that waits for what a check objected to; `options` as in `Verdict`."""
    return decided(facts, status, objection.verdict(**options), requeue_after=objection.requeue_after)


# Finalizer


def has_finalizer(obj: SluiceObject) -> bool:
    """Return whether our finalizer is on the object."""
    return FINALIZER in (obj.metadata.get("finalizers") or ())


def add_finalizer(status: BaseStatus) -> Decision:
    """Return the decision that adds our finalizer before anything else is done."""
    return Decision(status=status.to_wire(), actions=(SetFinalizer(present=True),), requeue_after=AT_ONCE)


def deletion_overdue(facts: Facts[Any], status: BaseStatus) -> bool:
    """Return whether the deletion has waited long enough for what does not answer.

    Counts from when the deletion was first noticed: an operator that was away when it was asked for still tries.
    """
    noticed = condition(status, ConditionType.DELETING)
    if noticed is None or noticed.status is not ConditionStatus.TRUE:
        return False
    return facts.now.instant >= parse_instant(noticed.last_transition_time) + facts.observed.settings.stop_grace


# References


def reference(facts: Facts[Any], kind: type[R], name: str) -> R | Objection:
    """Return an object that the spec names, parsed, or the objection that it is missing or unreadable."""
    key = f"{kind.crd.kind}/{name}"
    if key not in facts.observed.references:
        return Objection(reason=Reason.REFERENCE_NOT_FOUND, message=f"{key} has not been read yet", mood=Mood.WORKING)
    raw = facts.observed.references[key]
    if raw is None:
        return Objection(
            reason=Reason.REFERENCE_NOT_FOUND,
            message=f"{key} does not exist in namespace {facts.obj.namespace}: create it or correct the reference",
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        return Objection(reason=Reason.REFERENCE_NOT_FOUND, message=f"{key} is invalid at {place}: {problem['msg']}")


def profile_known(facts: Facts[Any]) -> Objection | None:
    """Check that the profile exists and is valid."""
    if facts.observed.profile is not None:
        return None
    name = facts.obj.spec.profile
    return Objection(
        reason=Reason.PROFILE_NOT_FOUND,
        message=facts.observed.profile_problem
        or f"spec.profile: the operator's ConfigMap sluice-profiles has no profile {name!r}; add it or name another",
    )


def the_profile(facts: Facts[Any]) -> Profile:
    """Return the profile, once `profile_known` has not objected."""
    profile = facts.observed.profile
    if profile is None:
        raise LookupError(f"profile {facts.obj.spec.profile!r} is not known")
    return profile


# Commands


class Command(StrEnum):
    """Commands that arrive as annotations."""

    PROMOTE = "promote"
    ABORT = "abort"
    RETRY = "retry"
    REFRESH = "refresh"


_ANNOTATIONS = {
    Command.PROMOTE: ANNOTATION_PROMOTE,
    Command.ABORT: ANNOTATION_ABORT,
    Command.RETRY: ANNOTATION_RETRY,
    Command.REFRESH: ANNOTATION_REFRESH,
}
_VALUE_LIMIT = 253


def pending_command(obj: SluiceObject, status: BaseStatus, command: Command) -> str | None:
    """Return the value of a command that was not acted on yet; None when there is none."""
    value = obj.annotations.get(_ANNOTATIONS[command])
    if value is None:
        return None
    value = value[:_VALUE_LIMIT]
    return None if status.acknowledged.get(command) == value else value


def acknowledge(status: S, command: Command, value: str) -> S:
    """Return `status` with a command marked as acted on."""
    return status.model_copy(update={"acknowledged": {**status.acknowledged, str(command): value[:_VALUE_LIMIT]}})


def forget_withdrawn(obj: SluiceObject, status: S) -> S:
    """Return `status` without acknowledgements whose annotation is gone, so that the same value may be given again."""
    kept = {
        name: value
        for name, value in status.acknowledged.items()
        if name not in list(Command) or _ANNOTATIONS[Command(name)] in obj.annotations
    }
    return status if kept == status.acknowledged else status.model_copy(update={"acknowledged": kept})
