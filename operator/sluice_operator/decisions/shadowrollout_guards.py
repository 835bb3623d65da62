"""Guards: fast checks beside the analysis. A value above its maximum takes the candidate out; none at all holds."""

from datetime import timedelta
from typing import Literal

from sluice_api.instants import parse_instant
from sluice_api.v1alpha1.shadowrollout import Guard, GuardStatus, ShadowRolloutStatus
from sluice_operator.decisions.base import GuardView
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.reasons import Reason
from sluice_operator.decisions.shadowrollout_view import Rollout, at

POLL = timedelta(seconds=10)
"""Time between two looks at the guards."""


def with_guards(facts: Rollout, status: ShadowRolloutStatus) -> ShadowRolloutStatus:
    """Return the status with what the guards say now, and since when they have said it."""
    known = {entry.name: entry for entry in status.guards}
    entries = []
    for guard in facts.obj.spec.analysis.guards:
        state = _state(guard, facts.observed.guards.get(guard.name))
        old = known.get(guard.name)
        same = old is not None and old.state == state
        since = old.since if old is not None and same else facts.now.text
        entries.append(GuardStatus(name=guard.name, state=state, since=since))
    return status if entries == status.guards else status.model_copy(update={"guards": entries})


def breach(facts: Rollout, status: ShadowRolloutStatus) -> tuple[Reason, str] | None:
    """Return why a guard takes the candidate out, if one does."""
    entries = {entry.name: entry for entry in status.guards}
    for guard in facts.obj.spec.analysis.guards:
        entry, view = entries.get(guard.name), facts.observed.guards.get(guard.name)
        if entry is None or entry.state != "Breached" or entry.since is None or view is None:
            continue
        if facts.now.instant >= parse_instant(entry.since) + parse_duration(guard.for_):
            return Reason.GUARD_BREACHED, (
                f"{at(status, facts)}: guard {guard.name!r} has been above {guard.max:g} since {entry.since} "
                f"(now {view.value:g}). Find the cause, then set the annotation sluice.dev/retry"
            )
    return None


def open_guard(facts: Rollout, status: ShadowRolloutStatus) -> tuple[Reason, str] | None:
    """Return why the weight may not rise: a guard without an answer, or above its maximum for a short while."""
    for entry in status.guards:
        view = facts.observed.guards.get(entry.name, GuardView(problem="not asked yet"))
        if entry.state == "Unknown":
            return Reason.GUARD_UNKNOWN, f"{at(status, facts)}: guard {entry.name!r} has no answer: {view.problem}"
        if entry.state == "Breached":
            return Reason.GUARD_BREACHED, f"{at(status, facts)}: guard {entry.name!r} is above its maximum"
    return None


def _state(guard: Guard, view: GuardView | None) -> Literal["Ok", "Breached", "Unknown"]:
    if view is None or view.value is None or view.value != view.value:
        return "Unknown"
    return "Breached" if view.value > guard.max else "Ok"
