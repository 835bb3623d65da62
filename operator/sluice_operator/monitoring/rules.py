"""Recording rules and alerts, made from the catalogue's names and a few parameters.

Rates are over matured runs within a window, so that an alert follows the evidence and not the operator's opinion of it.
A rollout of which nothing is known counts as one without data, never as one that is well.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from sluice_operator.decisions.reasons import Phase
from sluice_operator.monitoring import catalogue

RULE_NAME = "sluice"
"""Name of the PrometheusRule."""
MATURED_IN_WINDOW = "sluice:rollout_matured_runs:increase"
"""Recorded: matured runs of an arm within the window."""
ESCALATED_IN_WINDOW = "sluice:rollout_escalated_runs:increase"
"""Recorded: escalated ones among them."""
ESCALATION_RATE = "sluice:rollout_escalation_rate:ratio"
"""Recorded: share of escalated runs, by arm."""
ESCALATION_RATIO = "sluice:rollout_escalation:candidate_over_stable"
"""Recorded: candidate's escalation rate over the stable arm's."""
RECORDED = {
    MATURED_IN_WINDOW: (*catalogue.ROLLOUT, "arm"),
    ESCALATED_IN_WINDOW: (*catalogue.ROLLOUT, "arm"),
    ESCALATION_RATE: (*catalogue.ROLLOUT, "arm"),
    ESCALATION_RATIO: catalogue.ROLLOUT,
}
"""Labels of the recorded series."""
RUNBOOKS = "https://sluice.dev/docs/runbooks"
"""Default place of the runbook pages, which are in `docs/runbooks`."""

BY = "namespace, name"
"""A rollout, in a `by` or `on` clause."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """What the rules ask. Times are Prometheus durations with one unit, like `30s`, `15m`, `1d`."""

    interval: str = "30s"
    """Time between two scrapes, and between two evaluations."""
    window: str = "6h"
    """Window of rates."""
    ratio: float = 1.5
    """Escalation rate of the candidate over the stable arm's from which it is high."""
    floor: float = 0.005
    """Stable rate that is assumed at least: a stable arm without any escalation must not make one of the candidate's
    an alert."""
    min_runs: int = 50
    """Matured candidate runs in the window without which a rate says nothing."""
    min_escalations: int = 5
    """Escalated ones among them: two of fifty are no rate."""
    no_data: str = "30m"
    """Age of the newest sample from which a rollout with traffic is without data."""
    memory: str = "1d"
    """How long is remembered what was last known: weights while the operator is down, and the stable arm's escalation
    rate while it has no runs."""
    escalation_for: str = "5m"
    """How long escalation must be high."""
    no_data_for: str = "30m"
    """How long data must be missing: more than `analysis.maturity` and `analysis.interval` together, since a step
    begins without any."""
    mismatch_for: str = "5m"
    """How long weights must differ."""
    waiting_for: str = "1h"
    """How long a gate must wait."""
    rolled_back_for: str = "1m"
    """How long a rollback must last: long enough for a second scrape."""
    down_for: str = "5m"
    """How long the operator must be down."""
    runbooks: str = RUNBOOKS
    """URL below which the runbook pages are."""

    def __post_init__(self) -> None:
        """Refuse what cannot work: an alert that one missed scrape could raise, thresholds without sense."""
        least = 2 * seconds(self.interval)
        for name, value in vars(self).items():
            if name.endswith("_for") and seconds(value) < least:
                raise ValueError(f"{name} must be at least two scrapes ({least:.0f} s), got {value}")
        if seconds(self.window) < least:
            raise ValueError(f"window must hold two scrapes ({least:.0f} s), got {self.window}")
        if not self.ratio > 1.0:
            raise ValueError(f"ratio must exceed 1, got {self.ratio}")
        if not 0.0 < self.floor < 1.0:
            raise ValueError(f"floor must lie between 0 and 1, got {self.floor}")
        if self.min_runs < 1 or self.min_escalations < 1:
            raise ValueError(f"counts must be at least 1, got {self.min_runs} and {self.min_escalations}")
        for name in ("no_data", "memory"):
            seconds(getattr(self, name))


def seconds(duration: str) -> float:
    """Return a duration like `30s` in seconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([smhd])", duration)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"not a duration like 30s, 15m, 6h or 1d: {duration!r}")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert."""

    name: str
    """Name; its runbook is `docs/runbooks/<name>.md`."""
    expression: str
    """PromQL."""
    lasting: str
    """`for`."""
    severity: str
    """`critical` pages, `warning` tells."""
    summary: str
    """One line."""
    description: str
    """What it means and what happens by itself."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of alerts whose expression has none."""


def recording_rules(config: RuleConfig) -> list[dict[str, Any]]:
    """Return the recording rules."""

    def increase(metric: catalogue.Metric) -> str:
        return f"sum by ({BY}, arm) (increase({metric.series}[{config.window}]))"

    # At 100 % no stable run comes any more: what the arm was last known to do is the measure then.
    stable = f'clamp_min(last_over_time({ESCALATION_RATE}{{arm="stable"}}[{config.memory}]), {config.floor:g})'
    return [
        {"record": MATURED_IN_WINDOW, "expr": increase(catalogue.MATURED)},
        {"record": ESCALATED_IN_WINDOW, "expr": increase(catalogue.ESCALATED)},
        # Without runs there is no rate: the comparison leaves nothing instead of NaN.
        {"record": ESCALATION_RATE, "expr": f"{ESCALATED_IN_WINDOW} / ({MATURED_IN_WINDOW} > 0)"},
        {
            "record": ESCALATION_RATIO,
            "expr": f'sum by ({BY}) ({ESCALATION_RATE}{{arm="candidate"}}) / on ({BY}) sum by ({BY}) ({stable})',
        },
    ]


def _weight(kind: str) -> str:
    """Return a candidate's weight, whichever process reported it."""
    return f'max by ({BY}) ({catalogue.WEIGHT.series}{{type="{kind}"}})'


def _in_phase(*phases: Phase) -> str:
    names = "|".join(phases)
    return f'max by ({BY}, phase) ({catalogue.PHASE.series}{{phase=~"{names}"}}) == 1'


def _escalation_high(config: RuleConfig) -> Alert:
    def at_least(series: str, count: int) -> str:
        return f'sum by ({BY}) ({series}{{arm="candidate"}}) >= {count}'

    return Alert(
        name="SluiceEscalationHigh",
        expression=(
            f"{ESCALATION_RATIO} > {config.ratio:g}\n"
            f"and on ({BY}) ({at_least(MATURED_IN_WINDOW, config.min_runs)})\n"
            f"and on ({BY}) ({at_least(ESCALATED_IN_WINDOW, config.min_escalations)})"
        ),
        lasting=config.escalation_for,
        severity="critical",
        summary="The candidate of {{ $labels.namespace }}/{{ $labels.name }} escalates more often than stable",
        description=(
            "Its escalation rate is {{ $value | humanize }} times the stable arm's over the last "
            f"{config.window}, from at least {config.min_runs} matured runs. The rollout takes the candidate out by "
            "itself once its own test shows harm; abort it where you cannot wait."
        ),
    )


def _no_data(config: RuleConfig) -> Alert:
    age = f"time() - max by ({BY}) ({catalogue.LAST_SAMPLE.series})"
    armless = f'max by ({BY}) ({catalogue.PHASE.series}{{phase="{Phase.NO_DATA}"}}) == 1'
    return Alert(
        name="SluiceNoData",
        expression=(
            f"({_weight('desired')} > 0)\n"
            f"unless on ({BY}) (({age} < {seconds(config.no_data):.0f}) unless on ({BY}) ({armless}))"
        ),
        lasting=config.no_data_for,
        severity="warning",
        summary="{{ $labels.namespace }}/{{ $labels.name }} has traffic on a candidate and no evidence about it",
        description=(
            f"No newly matured candidate run for {config.no_data}, or an arm has none at all, at "
            "{{ $value | humanize }} % weight. The weight holds: harm would go unseen until evidence comes again."
        ),
    )


def _weight_mismatch(config: RuleConfig) -> Alert:
    return Alert(
        name="SluiceWeightMismatch",
        expression=f"{_weight('actual')}\n!= on ({BY}) {_weight('desired')}",
        lasting=config.mismatch_for,
        severity="critical",
        summary="The route of {{ $labels.namespace }}/{{ $labels.name }} has another weight than the rollout wants",
        description=(
            "The candidate serves {{ $value | humanize }} % of the traffic, and that is not what was decided. Either "
            "the route cannot be written, or somebody else writes it."
        ),
    )


def _gate_waiting(config: RuleConfig) -> Alert:
    return Alert(
        name="SluiceGateWaiting",
        expression=_in_phase(Phase.AWAITING_APPROVAL, Phase.AWAITING_SCORECARD, Phase.INCONCLUSIVE, Phase.PAUSED),
        lasting=config.waiting_for,
        severity="warning",
        summary="{{ $labels.namespace }}/{{ $labels.name }} has waited in {{ $labels.phase }}",
        description=(
            f"A gate has not opened for {config.waiting_for}. The weight holds meanwhile; the rollout's message says "
            "what it waits for."
        ),
    )


def _rolled_back(config: RuleConfig) -> Alert:
    return Alert(
        name="SluiceRolledBack",
        expression=_in_phase(Phase.ROLLING_BACK, Phase.ROLLED_BACK),
        lasting=config.rolled_back_for,
        severity="warning",
        summary="{{ $labels.namespace }}/{{ $labels.name }} took its candidate out",
        description=(
            "All traffic is, or is on its way, back on the stable arm. It stays there until somebody retries the "
            "rollout, names another candidate or deletes it."
        ),
    )


def _operator_down(config: RuleConfig) -> Alert:
    weight = f'{catalogue.WEIGHT.series}{{type="actual"}}'
    return Alert(
        name="SluiceOperatorDownWithCanaryWeight",
        expression=(
            f"max by (job, {BY}) (last_over_time({weight}[{config.memory}])) > 0\n"
            f"unless on (job) (max by (job) ({catalogue.LEADER.series}) == 1)"
        ),
        lasting=config.down_for,
        severity="critical",
        summary="Nobody watches the candidate of {{ $labels.namespace }}/{{ $labels.name }}",
        description=(
            "No operator process acts, and the candidate had {{ $value | humanize }} % of the traffic when last seen. "
            "The weights hold, so harm is not taken back until the operator runs again."
        ),
    )


def _metrics_absent(config: RuleConfig) -> Alert:
    return Alert(
        name="SluiceMetricsAbsent",
        expression=f"absent({catalogue.LEADER.series})",
        lasting=config.down_for,
        severity="warning",
        summary="Prometheus has no metrics of the Sluice operator",
        description="Every other alert of Sluice is silent without them: silence is no good news now.",
    )


def alerts(config: RuleConfig) -> list[Alert]:
    """Return all alerts."""
    return [
        _escalation_high(config),
        _no_data(config),
        _weight_mismatch(config),
        _gate_waiting(config),
        _rolled_back(config),
        _operator_down(config),
        _metrics_absent(config),
    ]


def _as_rule(alert: Alert, config: RuleConfig) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.lasting,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{config.runbooks.rstrip('/')}/{alert.name}.md",
        },
    }


def rule_groups(config: RuleConfig) -> dict[str, Any]:
    """Return the rule groups: a Prometheus rule file, and the `spec` of a PrometheusRule.

    Alerts stand in the group of what they are made from: a group's rules are evaluated in order, at one instant.
    """
    return {
        "groups": [
            {
                "name": "sluice.rollouts",
                "interval": config.interval,
                "rules": [*recording_rules(config), *(_as_rule(alert, config) for alert in alerts(config))],
            }
        ]
    }


def prometheus_rule(config: RuleConfig) -> dict[str, Any]:
    """Return the PrometheusRule, for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": RULE_NAME, "labels": {"app.kubernetes.io/name": "sluice"}},
        "spec": rule_groups(config),
    }
