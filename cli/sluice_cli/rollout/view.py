"""What a person is told of a rollout: pure, from raw objects to words. How that looks is `tree`'s affair."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sluice_cli.lineage import EVALUATION, RUN, SCORECARD, Lineage, Link
from sluice_cli.rollout.thresholds import thresholds

GOOD_PHASES = frozenset({"Completed", "Succeeded", "Ready", "Passed"})
"""Phases of what is done and well."""
BAD_PHASES = frozenset({"RolledBack", "Superseded", "Failed", "Stalled", "Refused", "Missing"})
"""Phases of what went wrong or needs a person to correct it."""
HELD_PHASES = frozenset({"Paused", "AwaitingApproval", "Inconclusive", "Suspended"})
"""Phases that wait for a person's word."""
WARN_PHASES = frozenset({"NoData", "RollingBack", "Expired", "Retrying", "Stopping", "Deleting"})
"""Phases that deserve a look."""


class Mood(StrEnum):
    """How a line looks."""

    GOOD = "good"
    BAD = "bad"
    HELD = "held"
    WARN = "warn"
    BUSY = "busy"
    QUIET = "quiet"


SYMBOLS = {Mood.GOOD: "✔", Mood.BAD: "✖", Mood.HELD: "॥", Mood.WARN: "⚠", Mood.BUSY: "◌", Mood.QUIET: "·"}
"""Symbol of each mood: nothing is told by colour alone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the tree."""

    depth: int
    name: str
    kind: str
    phase: str
    mood: Mood
    age: str = ""
    info: str = ""


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm's matured runs of the present step."""

    name: str
    runs: int
    escalated: int

    @property
    def rate(self) -> float | None:
        """Share of escalated runs; None without runs."""
        return self.escalated / self.runs if self.runs else None


@dataclass(frozen=True, kw_only=True)
class RolloutView:
    """Everything that `get` shows."""

    name: str
    namespace: str
    phase: str
    mood: Mood
    reason: str
    message: str
    facts: tuple[tuple[str, str], ...]
    """Label and text, in order."""
    arms: tuple[ArmRow, ...]
    rows: tuple[Row, ...]


def mood_of(phase: str) -> Mood:
    """Return how a phase looks."""
    for phases, mood in (
        (GOOD_PHASES, Mood.GOOD),
        (BAD_PHASES, Mood.BAD),
        (HELD_PHASES, Mood.HELD),
        (WARN_PHASES, Mood.WARN),
    ):
        if phase in phases:
            return mood
    return Mood.BUSY


def short(digest: object) -> str:
    """Return the first twelve hexadecimal digits of a digest; a dash without one."""
    return str(digest).removeprefix("sha256:")[:12] if digest else "-"


def age_of(instant: object, now: datetime) -> str:
    """Return the time since an RFC 3339 instant in one unit, as kubectl does; empty where there is none."""
    try:
        then = datetime.fromisoformat(str(instant))
    except ValueError:
        return ""
    seconds = max(0, int((now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def rollout_view(lineage: Lineage, now: datetime) -> RolloutView:
    """Return what to tell of the lineage's rollout, which must be there."""
    rollout = lineage.rollout
    if rollout is None or rollout.found is None:
        raise ValueError("a lineage without a rollout has no view")
    status = rollout.status
    arms = tuple(
        ArmRow(name=name, runs=int(arm.get("runs") or 0), escalated=int(arm.get("escalations") or 0))
        for name in ("stable", "candidate")
        for arm in ((status.get("arms") or {}).get(name) or {},)
    )
    return RolloutView(
        name=rollout.name,
        namespace=lineage.namespace,
        phase=rollout.phase,
        mood=mood_of(rollout.phase),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        facts=tuple(_facts(rollout, now)),
        arms=arms,
        rows=tuple(_rows(lineage, now)),
    )


def _facts(rollout: Link, now: datetime) -> list[tuple[str, str]]:
    status, spec = rollout.status, rollout.spec
    weight, steps = status.get("weight") or {}, spec.get("steps") or []
    evidence = status.get("evidence") or {}
    desired, actual = int(weight.get("desired") or 0), int(weight.get("actual") or 0)
    text = f"{desired} % desired, {actual} % actual"
    if evidence.get("candidateShare") is not None:
        text += f", {100 * float(evidence['candidateShare']):.1f} % measured"
    facts = [
        ("Step", f"{int(status.get('step') or 0)} of {len(steps)}" + _started(status, now)),
        ("Weight", text),
        ("Candidate", f"{short(status.get('candidateDigest'))} ({RUN} {_ref(spec)})"),
        ("Stable", f"{short(status.get('stableDigest'))} (channel {(spec.get('stable') or {}).get('channel')})"),
    ]
    if status.get("lastGood"):
        facts.append(("Last good", short(status["lastGood"])))
    if evidence:
        facts.append(("Evidence", _evidence(rollout, now)))
    for guard in status.get("guards") or ():
        facts.append(("Guard", f"{guard.get('name')}: {guard.get('state')} {age_of(guard.get('since'), now)}".rstrip()))
    for approval in status.get("approvals") or ():
        facts.append(
            ("Approved", f"step {approval.get('step')} by {approval.get('by') or '?'} at {approval.get('at')}")
        )
    return facts


def _started(status: Mapping[str, Any], now: datetime) -> str:
    age = age_of(status.get("stepStartedAt"), now)
    return f", for {age}" if age else ""


def _ref(spec: Mapping[str, Any]) -> str:
    return str(((spec.get("candidate") or {}).get("fineTuneRunRef") or {}).get("name") or "?")


def _evidence(rollout: Link, now: datetime) -> str:
    evidence = rollout.status.get("evidence") or {}
    text = f"{evidence.get('verdict')}, {age_of(evidence.get('at'), now)} old"
    if evidence.get("harm") is not None and evidence.get("nonInferiority") is not None:
        limits = thresholds(rollout.found or {})
        harm, safe = (f" of {limits[0]:.0f}", f" of {limits[1]:.0f}") if limits is not None else ("", "")
        text += f"; e-values: harm {float(evidence['harm']):.3g}{harm}, "
        text += f"non-inferiority {float(evidence['nonInferiority']):.3g}{safe}"
    return text


def _rows(lineage: Lineage, now: datetime) -> list[Row]:
    """Return the tree: the rollout, its steps with their scorecards, then what stands behind the candidate."""
    if lineage.rollout is None:
        return []
    rows = [_row(lineage.rollout, 0, now, _rollout_info(lineage.rollout))]
    rows += _step_rows(lineage, now)
    if lineage.scorecard is not None:
        rows.append(_row(lineage.scorecard, 1, now, _scorecard_info(lineage.scorecard, "offline")))
    rows += [_row(each, 2, now, _evaluation_info(each)) for each in lineage.evaluations]
    if lineage.run is not None:
        rows.append(_row(lineage.run, 1, now, _run_info(lineage.run)))
    if lineage.dataset is not None:
        rows.append(_row(lineage.dataset, 2, now, _dataset_info(lineage.dataset)))
    return rows


def _row(link: Link, depth: int, now: datetime, info: str) -> Row:
    created = ((link.found or {}).get("metadata") or {}).get("creationTimestamp")
    return Row(
        depth=depth,
        name=link.name,
        kind=link.kind,
        phase=link.phase,
        mood=mood_of(link.phase),
        age=age_of(created, now),
        info=info,
    )


def _step_rows(lineage: Lineage, now: datetime) -> list[Row]:
    rollout = lineage.rollout
    if rollout is None:
        return []
    status, steps = rollout.status, rollout.spec.get("steps") or []
    present, completed = int(status.get("step") or 0), status.get("outcome") == "Completed"
    cards = {link.name: link for link in lineage.steps}
    rows = []
    for number, step in enumerate(steps, 1):
        weight = int(step.get("weight") or 0)
        shadow = (step.get("shadow") or {}).get("mirror")
        name = f"step {number}: {weight} %" + (f", mirrors {shadow} %" if shadow else "")
        if completed or number < present:
            phase, mood, info = "done", Mood.GOOD, ""
        elif number == present:
            phase, mood, info = rollout.phase, mood_of(rollout.phase), missing(rollout)
        else:
            phase, mood, info = "to come", Mood.QUIET, f"soak {step.get('soak')}, {step.get('minRuns')} runs"
        rows.append(Row(depth=1, name=name, kind="", phase=phase, mood=mood, info=info))
        for entry in status.get("scorecards") or ():
            if entry.get("step") == number and entry.get("round") == status.get("round"):
                link = cards.get(str(entry.get("name"))) or Link(SCORECARD, str(entry.get("name")), None)
                rows.append(_row(link, 2, now, _scorecard_info(link, str(entry.get("verdict") or "no verdict yet"))))
    return rows


def missing(rollout: Link) -> str:
    """Return what the present step still lacks, with numbers; empty where the rollout's message says it better."""
    status, steps = rollout.status, rollout.spec.get("steps") or []
    step = int(status.get("step") or 0)
    if not 1 <= step <= len(steps):
        return ""
    runs = int(((status.get("arms") or {}).get("candidate") or {}).get("runs") or 0)
    asked = int(steps[step - 1].get("minRuns") or 0)
    return f"{runs} of {asked} matured runs"


def _rollout_info(link: Link) -> str:
    return str(link.status.get("reason") or "")


def _scorecard_info(link: Link, what: str) -> str:
    failed = [str(g.get("name")) for g in link.status.get("gates") or () if g.get("verdict") == "Fail"]
    return what + (f"; failed: {', '.join(failed)}" if failed else "")


def _evaluation_info(link: Link) -> str:
    summary, comparison = link.status.get("summary") or {}, link.status.get("comparison") or {}
    if link.kind != EVALUATION or not summary:
        return ""
    text = f"{summary.get('passed')} of {summary.get('tasks')} tasks"
    return text + (f", {comparison['verdict']}" if comparison.get("verdict") else "")


def _run_info(link: Link) -> str:
    adapter, progress = link.status.get("adapter") or {}, link.status.get("progress") or {}
    if adapter:
        loss = adapter.get("finalLoss")
        return short(adapter.get("digest")) + (f", loss {float(loss):.3g}" if loss is not None else "")
    return f"step {progress['step']} of {progress.get('of')}" if progress.get("step") else ""


def _dataset_info(link: Link) -> str:
    latest = link.status.get("latest") or {}
    return f"{short(latest.get('digest'))}, {latest.get('rows')} rows" if latest else ""
