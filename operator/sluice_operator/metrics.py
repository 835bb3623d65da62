"""Prometheus metrics of the operator. Labels are bounded: namespace, name, arm, phase; never a run, a tenant or a text.

Every series that names an object is deleted with it.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sluice_operator.workqueue import Key

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from a decision without news to a storage that times out."""
ARMS = ("stable", "candidate")
"""Arms of a rollout."""
OBJECT = ("kind", "namespace", "name")
"""Labels of an object."""
ROLLOUT = ("namespace", "name")
"""Labels of a rollout."""


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Register every metric."""
        self.registry = registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "sluice_reconcile_duration_seconds",
            "Time of one reconciliation",
            ("kind",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.reconcile_errors = Counter(
            "sluice_reconcile_errors", "Reconciliations that failed", ("kind", "reason"), registry=registry
        )
        self.queue_wait = Histogram(
            "sluice_workqueue_wait_seconds", "Time a due object waited", buckets=BUCKETS, registry=registry
        )
        self.queue_depth = Gauge("sluice_workqueue_depth", "Objects that are due", registry=registry)
        self.queue_lag = Gauge("sluice_workqueue_lag_seconds", "Age of the most overdue object", registry=registry)
        self.writes = Counter("sluice_status_writes", "Status patches", ("kind",), registry=registry)
        self.phase = Gauge("sluice_object_phase", "1 for the present phase", (*OBJECT, "phase"), registry=registry)
        self.weight = Gauge(
            "sluice_rollout_weight_percent", "Candidate's share of the traffic", (*ROLLOUT, "type"), registry=registry
        )
        self.step = Gauge("sluice_rollout_step", "Present step, from 1", ROLLOUT, registry=registry)
        self.verdict = Gauge(
            "sluice_rollout_verdict", "1 for the newest verdict", (*ROLLOUT, "verdict"), registry=registry
        )
        self.matured = Counter("sluice_rollout_matured_runs", "Matured runs", (*ROLLOUT, "arm"), registry=registry)
        self.escalated = Counter(
            "sluice_rollout_escalated_runs", "Escalated runs", (*ROLLOUT, "arm"), registry=registry
        )
        self.evidence_at = Gauge(
            "sluice_rollout_last_sample_timestamp_seconds", "Instant of the newest evidence", ROLLOUT, registry=registry
        )
        self.rollout_info = Gauge(
            "sluice_rollout_info", "Digests of a rollout", (*ROLLOUT, "candidate", "stable"), registry=registry
        )
        self.leader = Gauge("sluice_leader", "1 while this process holds the Lease", registry=registry)
        build = Gauge("sluice_build_info", "1, labelled with the version", ("version",), registry=registry)
        build.labels(package_version()).set(1)
        self._series: dict[Key, list[tuple[Gauge | Counter, tuple[str, ...]]]] = {}
        self._counted: dict[Key, tuple[str, dict[tuple[str, str], int]]] = {}

    def render(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)

    def watch_queue(self, depth: Callable[[], int], lag: Callable[[], float]) -> None:
        """Read the queue's gauges at every scrape."""
        self.queue_depth.set_function(depth)
        self.queue_lag.set_function(lag)

    def observe(self, key: Key, status: Mapping[str, Any]) -> None:
        """Set the series of an object from its status; those that no longer hold are removed."""
        old = self._series.pop(key, [])
        new: list[tuple[Gauge | Counter, tuple[str, ...]]] = []

        def gauge(metric: Gauge, labels: tuple[str, ...], value: float) -> None:
            metric.labels(*labels).set(value)
            new.append((metric, labels))

        place = (key.namespace, key.name)
        gauge(self.phase, (key.kind, *place, str(status.get("phase") or "Pending")), 1)
        if key.kind == "ShadowRollout":
            weight = status.get("weight") or {}
            for type_ in ("desired", "actual"):
                gauge(self.weight, (*place, type_), float(weight.get(type_) or 0))
            gauge(self.step, place, float(status.get("step") or 0))
            if status.get("verdict"):
                gauge(self.verdict, (*place, str(status["verdict"])), 1)
            evidence_at = (status.get("evidence") or {}).get("at")
            if evidence_at:
                gauge(self.evidence_at, place, datetime.fromisoformat(str(evidence_at)).timestamp())
            digests = (str(status.get("candidateDigest") or ""), str(status.get("stableDigest") or ""))
            gauge(self.rollout_info, (*place, *digests), 1)
            new += self._count_arms(key, status)
        kept = {(id(metric), labels) for metric, labels in new}
        for metric, labels in old:
            if (id(metric), labels) not in kept:
                metric.remove(*labels)
        self._series[key] = new

    def forget(self, key: Key) -> None:
        """Delete every series of an object that is gone."""
        for metric, labels in self._series.pop(key, []):
            metric.remove(*labels)
        self._counted.pop(key, None)

    def _count_arms(self, key: Key, status: Mapping[str, Any]) -> list[tuple[Gauge | Counter, tuple[str, ...]]]:
        """Turn the arms' counts of the present step into counters that only rise."""
        period = f"{status.get('round')}/{status.get('step')}"
        before_period, before = self._counted.get(key, ("", {}))
        counts: dict[tuple[str, str], int] = {}
        series: list[tuple[Gauge | Counter, tuple[str, ...]]] = []
        for arm in ARMS:
            figures = (status.get("arms") or {}).get(arm) or {}
            labels = (key.namespace, key.name, arm)
            for name, metric in (("runs", self.matured), ("escalations", self.escalated)):
                count = int(figures.get(name) or 0)
                # Another step counts from zero again: all of its runs are new.
                known = before.get((arm, name), 0) if before_period == period else 0
                metric.labels(*labels).inc(max(0, count - known))
                counts[arm, name] = max(count, known)
                series.append((metric, labels))
        self._counted[key] = (period, counts)
        return series


def package_version() -> str:
    """Return the installed version of Sluice."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "unknown"
