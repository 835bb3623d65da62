"""A ShadowRollout's figures for Prometheus, derived from its status alone.

Gauges are what the newest status says. Counters start at what the first status that this process sees says, and rise
with every later one: a restarted operator needs no memory. After a restart `increase()` therefore counts the present
step's runs, of both arms alike, once more; a ratio of the arms is not affected.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sluice_operator.monitoring.catalogue import ARMS, DECISIONS

HELD_PHASES = frozenset({"Paused", "AwaitingApproval", "Inconclusive"})
"""Phases in which a rollout waits for a person."""

Status = Mapping[str, Any]


@dataclass
class RolloutFigures:
    """One rollout, from the first status that was seen of it."""

    matured: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARMS, 0))
    """Matured runs, by arm."""
    escalated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARMS, 0))
    """Escalated ones among them."""
    decisions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DECISIONS, 0))
    """Decisions, by name."""
    status: Status = field(default_factory=dict)
    """The newest status."""
    sampled_at: float | None = None
    """Instant of the newest analysis that found more runs of the candidate than the one before, in seconds since 1970;
    None before the first. A restarted operator starts from the newest analysis."""
    _known: dict[tuple[str, str], int] = field(default_factory=dict)
    _period: tuple[int, int] = (0, 0)
    _held_before: float = 0.0
    _held_since: float | None = None

    def observe(self, status: Status, now: float) -> None:
        """Take in a newer status at the instant `now`, in seconds since 1970."""
        before, self.status = self.status, status
        if before:
            self._count_transition(before, status)
        else:
            self._count_first(status)
        self._count_runs(status)
        self._count_pause(status, now)

    def paused_seconds(self, now: float) -> float:
        """Return the time held for a person so far, in seconds."""
        running = 0.0 if self._held_since is None else max(0.0, now - self._held_since)
        return self._held_before + running

    def _count_first(self, status: Status) -> None:
        """Count the decisions that a status tells of."""
        self.decisions["Started"] = _number(status, "round")
        self.decisions["Advanced"] = max(0, _number(status, "step") - 1)
        self._count_outcome("", str(status.get("outcome") or ""))

    def _count_transition(self, before: Status, after: Status) -> None:
        """Count the decisions between two statuses; steps that were missed in between count too."""
        rounds = _number(after, "round") - _number(before, "round")
        self.decisions["Started"] += max(0, rounds)
        old, new = _number(before, "step"), _number(after, "step")
        self.decisions["Advanced"] += max(0, new - max(1, old) if rounds <= 0 else new - 1)
        outcome = str(after.get("outcome") or "")
        self._count_outcome(str(before.get("outcome") or ""), outcome)
        if old > 0 and new == 0 and not outcome:
            self.decisions["StartedOver"] += 1

    def _count_outcome(self, before: str, after: str) -> None:
        decision = "Promoted" if after == "Completed" else after
        if after != before and decision in self.decisions:
            self.decisions[decision] += 1

    def _count_runs(self, status: Status) -> None:
        """Count what the newest evidence has beyond what was counted of its step."""
        evidence = status.get("evidence")
        if not evidence:
            return
        period = (_number(status, "round"), _number(evidence, "step"))
        if period != self._period:
            # At 100 % no stable run is new: its evidence reaches back into the step before.
            last = _number(status.get("weight") or {}, "desired") == 100 and period[0] == self._period[0]
            self._known = {key: count for key, count in self._known.items() if last and key[0] == "stable"}
            self._period = period
        for arm in ARMS:
            for name, counter in (("runs", self.matured), ("escalations", self.escalated)):
                count, known = _arm(status, arm, name), self._known.get((arm, name), 0)
                counter[arm] += max(0, count - known)
                self._known[arm, name] = max(count, known)
                if (arm, name) == ("candidate", "runs") and count > known:
                    self.sampled_at = _instant(evidence.get("at")) or self.sampled_at

    def _count_pause(self, status: Status, now: float) -> None:
        if status.get("phase") in HELD_PHASES:
            if self._held_since is None:
                self._held_since = min(now, _held_since(status) or now)
        elif self._held_since is not None:
            self._held_before += max(0.0, now - self._held_since)
            self._held_since = None


def _held_since(status: Status) -> float | None:
    """Return when a rollout that does not progress stopped doing so."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Progressing" and condition.get("status") == "False":
            return _instant(condition.get("lastTransitionTime"))
    return None


def _number(status: Status, name: str) -> int:
    return int(status.get(name) or 0)


def _arm(status: Status, arm: str, name: str) -> int:
    return _number((status.get("arms") or {}).get(arm) or {}, name)


def _instant(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else None
    except ValueError:
        return None
