"""What the page shows, as plain JSON: pure, from lineages, analyses and what was seen of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sluice_cli.dashboard.analyses import Point
from sluice_cli.lineage import DATASET, EVALUATION, ROLLOUT, RUN, SCORECARD, Lineage, Link
from sluice_cli.rollout.thresholds import thresholds
from sluice_cli.rollout.view import Mood, missing, mood_of, rollout_view, short
from sluice_evaluator.statistics.binomial import wilson

Json = dict[str, Any]
TITLES = {DATASET: "Traces", RUN: "Training", EVALUATION: "Evaluation", SCORECARD: "Scorecard", ROLLOUT: "Traffic"}
"""Heading of each link of the chain."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The candidate's weights from an instant on, per cent."""

    at: str
    desired: float
    actual: float | None = None


def lineage_state(
    lineage: Lineage, points: Sequence[Point], seen: Sequence[Seen], problems: Sequence[str], now: datetime
) -> Json:
    """Return one lineage."""
    last = lineage.rollout or lineage.scorecard or lineage.run or lineage.dataset
    phase = last.phase if last is not None else "Missing"
    status = last.status if last is not None else {}
    return {
        "id": f"{lineage.namespace}/{last.kind if last else ''}/{lineage.name}",
        "namespace": lineage.namespace,
        "name": lineage.name,
        "phase": phase,
        "mood": mood_of(phase),
        "reason": str(status.get("reason") or ""),
        "message": str(status.get("message") or ""),
        "nodes": [_node(kind, link) for kind, link in _chain(lineage)],
        "gates": _gates(lineage),
        "rollout": None if lineage.rollout is None else _rollout(lineage, points, seen, now),
        "problems": list(problems),
    }


def _chain(lineage: Lineage) -> list[tuple[str, Link | None]]:
    evaluation = lineage.evaluations[-1] if lineage.evaluations else None
    return [
        (DATASET, lineage.dataset),
        (RUN, lineage.run),
        (EVALUATION, evaluation),
        (SCORECARD, lineage.scorecard),
        (ROLLOUT, lineage.rollout),
    ]


def _node(kind: str, link: Link | None) -> Json:
    """Return one link of the chain; a kind that the lineage does not have is shown as such."""
    base = {"kind": kind, "title": TITLES[kind]}
    if link is None:
        return {**base, "name": "", "phase": "", "mood": Mood.QUIET, "facts": [], "message": ""}
    return {
        **base,
        "name": link.name,
        "phase": link.phase,
        "mood": mood_of(link.phase),
        "facts": [[label, text] for label, text in _FACTS[kind](link) if text],
        "message": str(link.status.get("message") or ""),
    }


def _dataset_facts(link: Link) -> list[tuple[str, str]]:
    latest = link.status.get("latest") or {}
    labels = latest.get("labels") or {}
    return [
        ("rows", _count(latest.get("rows"))),
        ("positive", _count(labels.get("positive"))),
        ("negative", _count(labels.get("negative"))),
        ("version", short(latest.get("digest")) if latest else ""),
    ]


def _run_facts(link: Link) -> list[tuple[str, str]]:
    adapter, progress = link.status.get("adapter") or {}, link.status.get("progress") or {}
    step = f"{progress['step']} of {progress.get('of')}" if progress.get("step") and not adapter else ""
    loss = adapter.get("finalLoss", progress.get("loss"))
    return [
        ("step", step),
        ("loss", "" if loss is None else f"{float(loss):.3g}"),
        ("rank", _count(adapter.get("rank"))),
        ("adapter", short(adapter.get("digest")) if adapter else ""),
    ]


def _evaluation_facts(link: Link) -> list[tuple[str, str]]:
    summary, comparison = link.status.get("summary") or {}, link.status.get("comparison") or {}
    rate, interval = summary.get("passRate"), list(summary.get("interval") or [])
    against = ""
    if comparison:
        against = f"{comparison.get('verdict')}, {comparison.get('wins')} : {comparison.get('losses')}"
    return [
        ("tasks", _count(summary.get("tasks"))),
        ("passed", "" if rate is None else f"{100 * float(rate):.1f} %"),
        ("95 % interval", f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f} %" if len(interval) == 2 else ""),
        ("against stable", against),
    ]


def _scorecard_facts(link: Link) -> list[tuple[str, str]]:
    gates = link.status.get("gates") or []
    passed = sum(gate.get("verdict") == "Pass" for gate in gates)
    return [
        ("verdict", str(link.status.get("verdict") or "")),
        ("gates", f"{passed} of {len(gates)} pass" if gates else ""),
        ("tier", str(link.spec.get("tier") or "")),
    ]


def _rollout_facts(link: Link) -> list[tuple[str, str]]:
    weight = link.status.get("weight") or {}
    return [
        ("weight", f"{int(weight.get('actual') or 0)} %"),
        ("step", f"{int(link.status.get('step') or 0)} of {len(link.spec.get('steps') or [])}"),
        ("verdict", str(link.status.get("verdict") or "")),
        ("candidate", short(link.status.get("candidateDigest")) if link.status.get("candidateDigest") else ""),
    ]


_FACTS = {
    DATASET: _dataset_facts,
    RUN: _run_facts,
    EVALUATION: _evaluation_facts,
    SCORECARD: _scorecard_facts,
    ROLLOUT: _rollout_facts,
}


def _count(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else ""


def _gates(lineage: Lineage) -> list[Json]:
    """Return the gates of the newest scorecard that has any: the present step's, else the offline one's."""
    for link in (*reversed(lineage.steps), lineage.scorecard):
        if link is not None and link.status.get("gates"):
            return [{"scorecard": link.name, **_gate(gate)} for gate in link.status["gates"]]
    return []


def _gate(gate: Mapping[str, Any]) -> Json:
    interval = gate.get("interval")
    return {
        "name": str(gate.get("name") or ""),
        "value": None if gate.get("verdict") == "Missing" else gate.get("value"),
        "threshold": gate.get("threshold"),
        "direction": str(gate.get("direction") or "min"),
        "n": gate.get("n"),
        "interval": list(interval) if isinstance(interval, Sequence) and len(interval) == 2 else None,
        "verdict": str(gate.get("verdict") or ""),
        "note": str(gate.get("note") or ""),
    }


def _rollout(lineage: Lineage, points: Sequence[Point], seen: Sequence[Seen], now: datetime) -> Json:
    rollout = lineage.rollout
    if rollout is None:
        raise ValueError("this lineage has no rollout")
    status, spec = rollout.status, rollout.spec
    weight, evidence = status.get("weight") or {}, status.get("evidence") or {}
    limits = thresholds(rollout.found or {})
    share = evidence.get("candidateShare")
    return {
        "step": int(status.get("step") or 0),
        "round": int(status.get("round") or 0),
        "outcome": str(status.get("outcome") or ""),
        "waiting": missing(rollout),
        "weight": {
            "desired": int(weight.get("desired") or 0),
            "actual": int(weight.get("actual") or 0),
            "measured": None if share is None else 100.0 * float(share),
        },
        "steps": _steps(rollout),
        "arms": [_arm(arm.name, arm.runs, arm.escalated) for arm in rollout_view(lineage, now).arms],
        "method": str((spec.get("analysis") or {}).get("method") or ""),
        "evidence": {
            "verdict": str(evidence.get("verdict") or ""),
            "at": str(evidence.get("at") or ""),
            "harm": evidence.get("harm"),
            "nonInferiority": evidence.get("nonInferiority"),
        },
        "thresholds": {"harm": limits[0], "nonInferiority": limits[1]} if limits is not None else None,
        "points": [asdict(point) for point in points],
        "weights": [asdict(each) for each in _weights(rollout, points, seen)],
        "approvals": [dict(each) for each in status.get("approvals") or ()],
        "guards": [dict(each) for each in status.get("guards") or ()],
        "facts": [[label, text] for label, text in rollout_view(lineage, now).facts],
    }


def _steps(rollout: Link) -> list[Json]:
    status = rollout.status
    present, done = int(status.get("step") or 0), status.get("outcome") == "Completed"
    result = []
    for number, step in enumerate(rollout.spec.get("steps") or (), 1):
        state = "done" if done or number < present else "present" if number == present else "to come"
        result.append(
            {
                "number": number,
                "weight": int(step.get("weight") or 0),
                "mirror": (step.get("shadow") or {}).get("mirror"),
                "soak": str(step.get("soak") or ""),
                "minRuns": step.get("minRuns"),
                "state": state,
                "waiting": missing(rollout) if state == "present" else "",
            }
        )
    return result


def _arm(name: str, runs: int, escalated: int) -> Json:
    interval = None
    if runs and 0 <= escalated <= runs:
        found = wilson(escalated, runs)
        interval = [found.low, found.high]
    return {
        "name": name,
        "runs": runs,
        "escalated": escalated,
        "rate": escalated / runs if runs else None,
        "interval": interval,
    }


def _weights(rollout: Link, points: Sequence[Point], seen: Sequence[Seen]) -> list[Seen]:
    """Return the weights over time: what the status and the analyses tell, then what was seen since the page is open.

    The status has no history of weights. Every analysis was made at its step's weight, and the end of a rollout has an
    instant; in between, the weight is that of the step.
    """
    steps = rollout.spec.get("steps") or []
    first_seen = seen[0].at if seen else "~"

    def of(step: int) -> float | None:
        return float(steps[step - 1].get("weight") or 0) if 1 <= step <= len(steps) else None

    told = [Seen(at=point.at, desired=weight) for point in points if (weight := of(point.step)) is not None]
    status = rollout.status
    for field, step in (("previousStepStartedAt", -1), ("stepStartedAt", 0)):
        weight = of(int(status.get("step") or 0) + step)
        if status.get(field) and weight is not None:
            told.append(Seen(at=str(status[field]), desired=weight, actual=weight))
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("RolledBack", "Completed") and condition.get("status") == "True":
            told.append(Seen(at=str(condition.get("lastTransitionTime")), desired=0.0, actual=0.0))
    earlier = [each for each in told if each.at < first_seen]
    return sorted([*earlier, *seen], key=lambda each: each.at)
