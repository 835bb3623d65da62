"""The panels of the Grafana dashboard."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sluice_operator.monitoring import catalogue
from sluice_operator.monitoring.rules import (
    ESCALATED_IN_WINDOW,
    ESCALATION_RATE,
    ESCALATION_RATIO,
    MATURED_IN_WINDOW,
    RuleConfig,
)

WIDTH = 24
"""Columns of Grafana's grid."""
PICK = 'namespace=~"$namespace", name=~"$name"'
"""Selector of the chosen rollouts."""
STABLE, CANDIDATE, BAD, GOOD = "#3274D9", "#E0752D", "#C4162A", "#37872D"
"""Colours; legends and line ends say the same."""


Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    """PromQL and legend."""
    width: int = 8
    height: int = 8
    kind: str = "timeseries"
    unit: str = "short"
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    """Colour by a regular expression over the series' name."""
    instant: bool = False


def selected(metric: catalogue.Metric, more: str = "") -> str:
    """Return a metric of the chosen rollouts."""
    return f"{metric.series}{{{PICK}{', ' + more if more else ''}}}"


def _latest(metric: catalogue.Metric, by: str, more: str = "") -> str:
    """Return one series for each rollout, whichever process reported it."""
    return f"max by (namespace, name{', ' + by if by else ''}) ({selected(metric, more)})"


def _steps(minimum: float | None, limit: float, colour: str) -> Json:
    return {
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": "transparent", "value": minimum}, {"color": colour, "value": limit}],
        }
    }


ARM_COLOURS = {".*stable.*": STABLE, ".*candidate.*": CANDIDATE}
WEIGHT_COLOURS = {".*desired.*": STABLE, ".*actual.*": CANDIDATE}
LEGEND = "{{namespace}}/{{name}}"
"""Name of a rollout in a legend."""
STEPPED = {"lineInterpolation": "stepAfter", "lineWidth": 2, "fillOpacity": 10}


def traffic_panels() -> list[Panel]:
    """Return the panels about where rollouts stand and what the candidate serves."""
    return [
        Panel(
            title="Where they stand",
            description="Phase of every rollout.",
            queries=[(f"{_latest(catalogue.PHASE, 'phase')} == 1", f"{LEGEND}: {{{{phase}}}}")],
            kind="stat",
            options={"textMode": "name", "colorMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
            width=8,
            instant=True,
        ),
        Panel(
            title="Candidate's share of the traffic",
            description="What the rollout wants, and what the router was last seen to have. They differ for moments.",
            queries=[(_latest(catalogue.WEIGHT, "type"), f"{LEGEND} {{{{type}}}}")],
            unit="percent",
            custom=STEPPED,
            defaults={"min": 0, "max": 100},
            colours=WEIGHT_COLOURS,
        ),
        Panel(
            title="Candidate's share, measured",
            description="Share of the runs of the present step that the candidate served.",
            queries=[(_latest(catalogue.SHARE, ""), LEGEND)],
            unit="percent",
            defaults={"min": 0, "max": 100},
        ),
    ]


def evidence_panels(config: RuleConfig) -> list[Panel]:
    """Return the panels about what the arms did."""
    return [
        Panel(
            title="Escalation rate by arm",
            description=f"Share of matured runs that escalated, over {config.window}.",
            queries=[(f"{ESCALATION_RATE}{{{PICK}}}", f"{LEGEND} {{{{arm}}}}")],
            unit="percentunit",
            defaults={"min": 0},
            colours=ARM_COLOURS,
        ),
        Panel(
            title="Candidate over stable",
            description=f"Ratio of the escalation rates; the alert asks for more than {config.ratio:g}.",
            queries=[(f"{ESCALATION_RATIO}{{{PICK}}}", LEGEND)],
            defaults={"min": 0, **_steps(None, config.ratio, BAD)},
            custom={"thresholdsStyle": {"mode": "line"}},
        ),
        Panel(
            title="E-values",
            description="Evidence for harm and for non-inferiority. The latter decides at 1 / alpha, 20 by default; "
            "harm at twice as much at the first step, and twice as much again at each further one.",
            queries=[(_latest(catalogue.E_VALUE, "test"), f"{LEGEND} {{{{test}}}}")],
            custom={"scaleDistribution": {"type": "log", "log": 10}, "thresholdsStyle": {"mode": "line"}},
            defaults=_steps(None, 20, GOOD),
            colours={".*harm.*": BAD, ".*non_inferiority.*": GOOD},
        ),
        Panel(
            title="Matured runs in the window",
            description=f"Matured runs over {config.window}; the escalated ones below.",
            queries=[
                (f"{MATURED_IN_WINDOW}{{{PICK}}}", f"{LEGEND} {{{{arm}}}}"),
                (f"{ESCALATED_IN_WINDOW}{{{PICK}}}", f"{LEGEND} {{{{arm}}}} escalated"),
            ],
            defaults={"min": 0},
            colours=ARM_COLOURS,
        ),
        Panel(
            title="Age of the newest sample",
            description=f"Time since an analysis found more candidate runs; an alert asks for less than "
            f"{config.no_data}.",
            queries=[(f"time() - {_latest(catalogue.LAST_SAMPLE, '')}", LEGEND)],
            unit="s",
            defaults={"min": 0},
        ),
    ]


def history_panels() -> list[Panel]:
    """Return the panels about verdicts and decisions."""
    return [
        Panel(
            title="Verdict of the newest analysis",
            description="What the evidence of the present step shows.",
            queries=[(f"{_latest(catalogue.VERDICT, 'verdict')} == 1", f"{LEGEND}: {{{{verdict}}}}")],
            kind="stat",
            options={"textMode": "name", "colorMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
            instant=True,
        ),
        Panel(
            title="Step",
            description="From 1; 0 before and after the climb.",
            queries=[(_latest(catalogue.STEP, ""), LEGEND)],
            custom=STEPPED,
            defaults={"min": 0, "decimals": 0},
        ),
        Panel(
            title="Decisions",
            description="Starts, advances, promotions and rollbacks.",
            queries=[
                (
                    f"sum by (decision) (increase({selected(catalogue.DECIDED)}[$__rate_interval]))",
                    "{{decision}}",
                )
            ],
            custom={"drawStyle": "bars", "fillOpacity": 60},
            defaults={"min": 0, "decimals": 0},
        ),
        Panel(
            title="Held for a person",
            description="Time that rollouts were paused, awaited approval or stayed inconclusive.",
            queries=[(_latest(catalogue.PAUSED, ""), LEGEND)],
            unit="s",
            defaults={"min": 0},
        ),
        Panel(
            title="What the arms serve",
            description="Digests of the candidate and of the stable arm.",
            queries=[(_latest(catalogue.INFO, "candidate, stable"), "")],
            kind="table",
            width=WIDTH,
            height=6,
            instant=True,
        ),
    ]


def operator_panels() -> list[Panel]:
    """Return the panels about the operator."""
    slow = f"histogram_quantile(0.99, sum by (le, kind) (rate({catalogue.RECONCILE_SECONDS.series}[$__rate_interval])))"
    return [
        Panel(
            title="Acting",
            description="1 while a process holds the Lease. 0 or nothing: the weights hold and nobody decides.",
            queries=[(f"max by (job) ({catalogue.LEADER.series})", "{{job}}")],
            custom=STEPPED,
            defaults={"min": 0, "max": 1, "decimals": 0},
            width=6,
        ),
        Panel(
            title="Queue",
            description="Objects that are due, and how late the most overdue one is.",
            queries=[(catalogue.QUEUE_DEPTH.series, "due"), (catalogue.QUEUE_LAG.series, "lag, seconds")],
            defaults={"min": 0},
            width=6,
        ),
        Panel(
            title="Reconciliation, 99th percentile",
            description="Time of one look at an object, by kind.",
            queries=[(slow, "{{kind}}")],
            unit="s",
            defaults={"min": 0},
            width=6,
        ),
        Panel(
            title="Errors and writes",
            description="Failed reconciliations by reason, and status patches by kind.",
            queries=[
                (
                    f"sum by (reason) (rate({catalogue.RECONCILE_ERRORS.series}[$__rate_interval]))",
                    "error: {{reason}}",
                ),
                (f"sum by (kind) (rate({catalogue.WRITES.series}[$__rate_interval]))", "writes: {{kind}}"),
            ],
            unit="ops",
            defaults={"min": 0},
            width=6,
        ),
        Panel(
            title="Objects by phase",
            description="How many objects of each kind are in each phase.",
            queries=[(f"count by (kind, phase) ({catalogue.OBJECT_PHASE.series} == 1)", "{{kind}} {{phase}}")],
            custom={"stacking": {"mode": "normal"}, "fillOpacity": 20},
            defaults={"min": 0, "decimals": 0},
            width=18,
        ),
        Panel(
            title="Version",
            description="Version of the operator.",
            queries=[(f"max by (version) ({catalogue.BUILD.series})", "{{version}}")],
            kind="stat",
            options={"textMode": "name", "colorMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
            width=6,
            instant=True,
        ),
    ]
