"""Every metric of the operator: the one place where a name is written.

The registry is built from these, and so are the alerting rules, the dashboard and the table in `docs/monitoring.md`:
a query that names anything else fails `make verify`. Labels are bounded: namespace, name, arm and closed lists; never a
run, a tenant or a text.
"""

from dataclasses import dataclass
from typing import Literal

ROLLOUT = ("namespace", "name")
"""Labels of a rollout."""
ARMS = ("stable", "candidate")
"""Values of `arm`."""
WEIGHTS = ("desired", "actual")
"""Values of `type` of a weight."""
E_TESTS = ("harm", "non_inferiority")
"""Values of `test`: the two sequential tests."""
DECISIONS = ("Started", "Advanced", "Promoted", "RolledBack", "Superseded", "StartedOver")
"""Values of `decision`."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
"""What the exposition format appends to the name of a metric of each type."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """Name, of a counter without `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    """Type."""
    labels: tuple[str, ...] = ()
    """Labels, in order."""
    help: str
    """What it says, in one line."""

    @property
    def series(self) -> str:
        """Name that a query uses; of a histogram the buckets'."""
        return self.name + SUFFIXES[self.kind][0]

    @property
    def all_series(self) -> tuple[str, ...]:
        """Every name that the exposition format has of it."""
        return tuple(self.name + suffix for suffix in SUFFIXES[self.kind])


MATURED = Metric(
    name="sluice_rollout_matured_runs",
    kind="counter",
    labels=(*ROLLOUT, "arm"),
    help="Matured runs of an arm, over all steps; restarts at the present step's count",
)
ESCALATED = Metric(
    name="sluice_rollout_escalated_runs",
    kind="counter",
    labels=(*ROLLOUT, "arm"),
    help="Matured runs with an escalation; restarts at the present step's count",
)
WEIGHT = Metric(
    name="sluice_rollout_weight_percent",
    kind="gauge",
    labels=(*ROLLOUT, "type"),
    help="Candidate's share of the traffic: desired by the rollout, actual as the router was last seen to have it",
)
SHARE = Metric(
    name="sluice_rollout_candidate_share_percent",
    kind="gauge",
    labels=ROLLOUT,
    help="Candidate's share of the runs of the present step, as measured; absent until measured",
)
STEP = Metric(
    name="sluice_rollout_step", kind="gauge", labels=ROLLOUT, help="Present step, from 1; 0 before and after the climb"
)
PHASE = Metric(
    name="sluice_rollout_phase", kind="gauge", labels=(*ROLLOUT, "phase"), help="State set: 1 for the present phase"
)
VERDICT = Metric(
    name="sluice_rollout_verdict",
    kind="gauge",
    labels=(*ROLLOUT, "verdict"),
    help="State set: 1 for what the newest analysis shows; all 0 before the first",
)
E_VALUE = Metric(
    name="sluice_rollout_e_value",
    kind="gauge",
    labels=(*ROLLOUT, "test"),
    help="E-values of the newest analysis; non_inferiority decides at 1 / alpha, harm at its part of it for the step",
)
LAST_SAMPLE = Metric(
    name="sluice_rollout_last_sample_timestamp_seconds",
    kind="gauge",
    labels=ROLLOUT,
    help="Instant of the newest analysis that found more candidate runs; absent before the first",
)
DECIDED = Metric(
    name="sluice_rollout_decisions",
    kind="counter",
    labels=(*ROLLOUT, "decision"),
    help="Decisions about the rollout; restarts at what the status tells",
)
PAUSED = Metric(
    name="sluice_rollout_paused_seconds",
    kind="counter",
    labels=ROLLOUT,
    help="Time held for a person: paused, awaiting approval or inconclusive; restarts at the present pause",
)
INFO = Metric(
    name="sluice_rollout_info",
    kind="gauge",
    labels=(*ROLLOUT, "candidate", "stable"),
    help="1, labelled with the digests that the arms serve",
)
OBJECT_PHASE = Metric(
    name="sluice_object_phase",
    kind="gauge",
    labels=("kind", *ROLLOUT, "phase"),
    help="1 for the present phase of an object, of any kind",
)
LEADER = Metric(name="sluice_leader", kind="gauge", help="1 while this process holds the Lease and acts")
BUILD = Metric(name="sluice_build_info", kind="gauge", labels=("version",), help="1, labelled with the version")
RECONCILE_SECONDS = Metric(
    name="sluice_reconcile_duration_seconds", kind="histogram", labels=("kind",), help="Time of one reconciliation"
)
RECONCILE_ERRORS = Metric(
    name="sluice_reconcile_errors", kind="counter", labels=("kind", "reason"), help="Reconciliations that failed"
)
QUEUE_DEPTH = Metric(name="sluice_workqueue_depth", kind="gauge", help="Objects that are due")
QUEUE_LAG = Metric(name="sluice_workqueue_lag_seconds", kind="gauge", help="Age of the most overdue object")
WRITES = Metric(name="sluice_status_writes", kind="counter", labels=("kind",), help="Status patches")

OF_OBJECTS = (
    MATURED,
    ESCALATED,
    WEIGHT,
    SHARE,
    STEP,
    PHASE,
    VERDICT,
    E_VALUE,
    LAST_SAMPLE,
    DECIDED,
    PAUSED,
    INFO,
    OBJECT_PHASE,
)
"""Metrics whose series go with their object."""
OF_PROCESS = (
    LEADER,
    BUILD,
    RECONCILE_SECONDS,
    RECONCILE_ERRORS,
    QUEUE_DEPTH,
    QUEUE_LAG,
    WRITES,
)
"""Metrics of the process."""
ALL = (*OF_OBJECTS, *OF_PROCESS)
"""All metrics."""
