"""Gathers what the page shows, from the Kubernetes API and artifact storage, at most once a second for all pages."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from sluice_api.instants import format_instant
from sluice_cli.dashboard.analyses import Analyses
from sluice_cli.dashboard.state import Seen, lineage_state
from sluice_cli.kube import KubeError
from sluice_cli.lineage import DATASET, EVALUATION, ROLLOUT, RUN, SCORECARD, Lineage, Objects, lineages

FRESH_S = 1.0
"""Age up to which a look is shared, in seconds."""
KEPT = 2000
"""Changes of weight remembered for each rollout."""
KINDS = (DATASET, RUN, EVALUATION, SCORECARD, ROLLOUT)

Raw = dict[str, Any]


class Reader(Protocol):
    """What is asked of the Kubernetes API."""

    server: str

    def list(self, kind: str, namespace: str | None) -> list[Raw]: ...


class Source:
    """The state of the page. Safe to ask from several threads."""

    def __init__(
        self,
        reader: Reader,
        namespace: str | None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show one namespace, or all (None)."""
        self._reader, self._namespace, self._now, self._clock = reader, namespace, now, clock
        self._analyses = Analyses()
        self._seen: dict[str, list[Seen]] = {}
        self._lock = threading.Lock()
        self._state: Raw = {}
        self._at = float("-inf")

    def state(self) -> Raw:
        """Return the present state. An API server that does not answer is a problem told on the page, with the last
        state that was seen."""
        with self._lock:
            if self._clock() - self._at >= FRESH_S:
                self._state = self._look()
                self._at = self._clock()
            return self._state

    def _look(self) -> Raw:
        now = self._now()
        head = {
            "namespace": self._namespace or "all namespaces",
            "server": self._reader.server,
            "at": format_instant(now),
        }
        try:
            items = [item for kind in KINDS for item in self._reader.list(kind, self._namespace)]
        except KubeError as error:
            return {**head, "problem": str(error), "lineages": self._state.get("lineages", [])}
        found = lineages(Objects.of(items))
        self._forget({_uid(each) for each in found if each.rollout is not None})
        return {**head, "problem": "", "lineages": [self._tell(each, now) for each in found]}

    def _tell(self, lineage: Lineage, now: datetime) -> Raw:
        if lineage.rollout is None:
            return lineage_state(lineage, (), (), (), now)
        points, problems = self._analyses.points(lineage)
        return lineage_state(lineage, points, self._note(lineage, now), problems, now)

    def _note(self, lineage: Lineage, now: datetime) -> list[Seen]:
        """Remember a rollout's weights where they changed; return all that were seen, the present ones last."""
        weight = (lineage.rollout.status.get("weight") if lineage.rollout else None) or {}
        present = Seen(
            at=format_instant(now),
            desired=float(weight.get("desired") or 0),
            actual=float(weight.get("actual") or 0),
        )
        seen = self._seen.setdefault(_uid(lineage), [])
        if not seen or (seen[-1].desired, seen[-1].actual) != (present.desired, present.actual):
            seen.append(present)
            del seen[:-KEPT]
        return [*seen, present]

    def _forget(self, present: set[str]) -> None:
        for uid in self._seen.keys() - present:
            del self._seen[uid]


def _uid(lineage: Lineage) -> str:
    found = (lineage.rollout.found if lineage.rollout is not None else None) or {}
    return str((found.get("metadata") or {}).get("uid") or lineage.name)
