"""An agent under traffic: it follows its rollout's ConfigMap, serves runs by arm and exports their traces.

Follower, assignment and exporter are the real ones; what the weights do is a rate of escalation that a test chooses.
"""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sluice_api.contracts.rollout import RouterDocument
from sluice_api.contracts.trace import TraceStep, Variant
from sluice_runtime import FinishedRun, KubernetesSource, RolloutFollower, TraceExporter

Rate = Callable[[RouterDocument], float | None]
"""Share of the candidate's runs that escalate; None: it leaves no trace at all."""


class Agent(threading.Thread):
    """One agent; use as a context manager."""

    def __init__(
        self, kubeconfig: Path, namespace: str, config_map: str, traces: str, candidate: Rate, *, per_s: float = 25.0
    ) -> None:
        super().__init__(daemon=True)
        self.seen: list[float] = []
        """Every share that was followed, in order."""
        self._follower = RolloutFollower(KubernetesSource(namespace, config_map, kubeconfig=kubeconfig), poll_s=0.2)
        self._exporter = TraceExporter(traces)
        self._candidate = candidate
        self._stable = 0.1
        self._pause = 1 / per_s
        self._random = random.Random(config_map)
        self._end = threading.Event()

    def __enter__(self) -> "Agent":
        self._follower.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
        self._follower.stop()

    def run(self) -> None:
        number = 0
        while not self._end.wait(self._pause):
            number += 1
            document = self._follower.current
            if not self.seen or self.seen[-1] != document.candidate_pct:
                self.seen.append(document.candidate_pct)
            placed = document.place(tenant_id="acme", run_id=f"run-{number}")
            rate = self._candidate(document) if placed.variant == Variant.CANDIDATE else self._stable
            if rate is not None and placed.rollout:
                self._exporter.export(self._served(number, placed, self._random.random() < rate))

    def _served(self, number: int, placed, escalated: bool) -> FinishedRun:
        now = datetime.now(UTC)
        step = TraceStep(step_index=0, intent="buy", success=not escalated, data="page_blocked" if escalated else "")
        return FinishedRun(
            status="completed",
            run_id=f"run-{number}",
            tenant_id="acme",
            started_at=now - timedelta(milliseconds=20),
            ended_at=now,
            variant=placed.variant,
            rollout=placed.rollout,
            model_digest=placed.model.digest if placed.model else "",
            steps=[step],
        )
