"""Prometheus metrics of the operator: the catalogue's, filled.

Series that name an object are made anew from its figures at every scrape, so they go with it; an object that was
recreated under the same name takes the place of the one before.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_operator.decisions.reasons import Phase
from sluice_operator.figures import RolloutFigures
from sluice_operator.monitoring import catalogue
from sluice_operator.monitoring.catalogue import Metric
from sluice_operator.workqueue import Key

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: from a decision without news to a storage that times out."""
ROLLOUT_PHASES = (
    Phase.PENDING,
    Phase.STALLED,
    Phase.REFUSED,
    Phase.BAKING,
    Phase.SOAKING,
    Phase.AWAITING_SCORECARD,
    Phase.AWAITING_APPROVAL,
    Phase.PAUSED,
    Phase.NO_DATA,
    Phase.INCONCLUSIVE,
    Phase.PROMOTING,
    Phase.ROLLING_BACK,
    Phase.ROLLED_BACK,
    Phase.SUPERSEDED,
    Phase.COMPLETED,
    Phase.DELETING,
)
"""Phases of a ShadowRollout: its state set."""

Family = GaugeMetricFamily | CounterMetricFamily


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """Register every metric; `now` is the wall clock, in seconds since 1970."""
        self.registry = registry = CollectorRegistry()
        self.reconcile_seconds = _histogram(catalogue.RECONCILE_SECONDS, registry)
        self.reconcile_errors = _counter(catalogue.RECONCILE_ERRORS, registry)
        self.queue_depth = _gauge(catalogue.QUEUE_DEPTH, registry)
        self.queue_lag = _gauge(catalogue.QUEUE_LAG, registry)
        self.writes = _counter(catalogue.WRITES, registry)
        self.leader = _gauge(catalogue.LEADER, registry)
        _gauge(catalogue.BUILD, registry).labels(package_version()).set(1)
        self._objects = _Objects(now)
        registry.register(self._objects)

    def render(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)

    def watch_queue(self, depth: Callable[[], int], lag: Callable[[], float]) -> None:
        """Read the queue's gauges at every scrape."""
        self.queue_depth.set_function(depth)
        self.queue_lag.set_function(lag)

    def observe(self, key: Key, status: Mapping[str, Any]) -> None:
        """Take in the status of an object."""
        self._objects.observe(key, status)

    def forget(self, key: Key) -> None:
        """Let every series of an object go that is gone."""
        self._objects.forget(key)


class _Objects(Collector):
    """The series that name an object."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._phases: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._rollouts: dict[tuple[str, str], tuple[str, RolloutFigures]] = {}

    def observe(self, key: Key, status: Mapping[str, Any]) -> None:
        place = (key.namespace, key.name)
        self._phases[key.kind, *place] = (key.uid, str(status.get("phase") or Phase.PENDING))
        if key.kind != "ShadowRollout":
            return
        uid, figures = self._rollouts.get(place, ("", RolloutFigures()))
        if uid != key.uid:
            figures = RolloutFigures()
        figures.observe(status, self._now())
        self._rollouts[place] = (key.uid, figures)

    def forget(self, key: Key) -> None:
        # Another object may have the name by now: its series stay.
        if self._phases.get((key.kind, key.namespace, key.name), ("",))[0] == key.uid:
            del self._phases[key.kind, key.namespace, key.name]
        place = (key.namespace, key.name)
        if key.kind == "ShadowRollout" and self._rollouts.get(place, ("",))[0] == key.uid:
            del self._rollouts[place]

    def collect(self) -> Iterator[Family]:
        families = {metric: _family(metric) for metric in catalogue.OF_OBJECTS}
        for (kind, namespace, name), (_, phase) in self._phases.items():
            families[catalogue.OBJECT_PHASE].add_metric((kind, namespace, name, phase), 1)
        for place, (_, figures) in self._rollouts.items():
            for metric, labels, value in _samples(figures, self._now()):
                families[metric].add_metric((*place, *labels), value)
        yield from families.values()


def _samples(figures: RolloutFigures, now: float) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """Yield metric, labels after namespace and name, and value of every series of a rollout."""
    status = figures.status
    for arm in catalogue.ARMS:
        yield catalogue.MATURED, (arm,), figures.matured[arm]
        yield catalogue.ESCALATED, (arm,), figures.escalated[arm]
    weight = status.get("weight") or {}
    for which in catalogue.WEIGHTS:
        yield catalogue.WEIGHT, (which,), float(weight.get(which) or 0)
    yield catalogue.STEP, (), float(status.get("step") or 0)
    yield from _state_set(catalogue.PHASE, ROLLOUT_PHASES, str(status.get("phase") or Phase.PENDING))
    yield from _state_set(catalogue.VERDICT, tuple(ShadowVerdict), str(status.get("verdict") or ""))
    evidence = status.get("evidence") or {}
    for test, field in zip(catalogue.E_TESTS, ("harm", "nonInferiority"), strict=True):
        if evidence.get(field) is not None:
            yield catalogue.E_VALUE, (test,), float(evidence[field])
    if evidence.get("candidateShare") is not None:
        yield catalogue.SHARE, (), 100.0 * float(evidence["candidateShare"])
    if figures.sampled_at is not None:
        yield catalogue.LAST_SAMPLE, (), figures.sampled_at
    for decision, count in figures.decisions.items():
        yield catalogue.DECIDED, (decision,), count
    yield catalogue.PAUSED, (), figures.paused_seconds(now)
    yield catalogue.INFO, (str(status.get("candidateDigest") or ""), str(status.get("stableDigest") or "")), 1


def _state_set(
    metric: Metric, states: tuple[str, ...], present: str
) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
    """Yield one series for each state, and one for a present state that the list does not know."""
    for state in states:
        yield metric, (str(state),), float(state == present)
    if present and present not in states:
        yield metric, (present,), 1.0


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


def _gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name, metric.help, metric.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(metric.name, metric.help, metric.labels, buckets=BUCKETS, registry=registry)


def package_version() -> str:
    """Return the installed version of Sluice."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "unknown"
