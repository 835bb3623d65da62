"""The alerts that ship, tried by promtool: each fires, stays silent, and does right without data and over a reset."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from debian_tools import program
from sluice_operator.monitoring.__main__ import RULE_FILE
from sluice_operator.monitoring.rules import RuleConfig, alerts

ROOT = Path(__file__).parents[2]
ROLLOUT = 'namespace="shop",name="agent"'
PLACE = {"namespace": "shop", "name": "agent"}
HOURS = 120
"""Scrapes in an hour."""


def series(metric, values, labels="", job="sluice"):
    """Return a series of the rollout under test, one value each 30 s."""
    own = f'{ROLLOUT},job="{job}",instance="a"' + (f",{labels}" if labels else "")
    return {"series": f"{metric}{{{own}}}", "values": values}


def arm(name, runs, escalated):
    """Return an arm's two counters."""
    return [
        series("sluice_rollout_matured_runs_total", runs, f'arm="{name}"'),
        series("sluice_rollout_escalated_runs_total", escalated, f'arm="{name}"'),
    ]


def weight(actual, desired=None, scrapes=10 * HOURS):
    return [
        series("sluice_rollout_weight_percent", f"{value}x{scrapes}", f'type="{kind}"')
        for kind, value in (("actual", actual), ("desired", actual if desired is None else desired))
    ]


def phase(name, values):
    return series("sluice_rollout_phase", values, f'phase="{name}"')


def leader(values, job="sluice", instance="a"):
    return {"series": f'sluice_leader{{job="{job}",instance="{instance}"}}', "values": values}


ALIVE = leader(f"1x{10 * HOURS}")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series, and whether an alert fires at some instants."""

    alert: str
    given: list
    fires: list = field(default_factory=list)
    silent: list = field(default_factory=list)
    labels: dict = field(default_factory=lambda: dict(PLACE))


CASES = {
    # Escalation: 100 candidate runs an hour at 12 % against 500 stable ones at 4 %.
    "SluiceEscalationHigh fires for a candidate three times as bad": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "0+5x600", "0+0.6x600"), *arm("stable", "0+25x600", "0+1x600")],
        fires=["2h", "4h"],
    ),
    "SluiceEscalationHigh is silent for an equal candidate": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "0+5x600", "0+0.2x600"), *arm("stable", "0+25x600", "0+1x600")],
        silent=["2h", "4h"],
    ),
    "SluiceEscalationHigh is silent below the minimum of runs, however bad they are": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "0+0.06x600", "0+0.06x600"), *arm("stable", "0+25x600", "0+1x600")],
        silent=["2h", "4h"],
    ),
    "SluiceEscalationHigh is silent below the minimum of escalations": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "0+2x600", "0 0 0 1x598"), *arm("stable", "0+25x600", "0+0.01x600")],
        silent=["30m", "1h", "2h"],
    ),
    "SluiceEscalationHigh fires where the stable arm has no escalation at all": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "0+5x600", "0+0.6x600"), *arm("stable", "0+25x600", "0x600")],
        fires=["2h"],
    ),
    "SluiceEscalationHigh is silent without data, and when no run comes any more": Case(
        alert="SluiceEscalationHigh",
        given=[*arm("candidate", "_x600", "_x600"), *arm("stable", "5x600", "1x600")],
        silent=["1h", "4h"],
    ),
    "SluiceEscalationHigh is silent without a stable arm to compare with": Case(
        alert="SluiceEscalationHigh",
        given=arm("candidate", "0+5x600", "0+0.6x600"),
        silent=["2h"],
    ),
    "SluiceEscalationHigh measures a candidate at 100 % by what the stable arm was last known to do": Case(
        alert="SluiceEscalationHigh",
        given=[
            *arm("candidate", "0+5x1320", "0+0.2x240 48+0.9x1080"),
            *arm("stable", "0+25x240 6000x1080", "0+1x240 240x1080"),
        ],
        silent=["2h"],
        fires=["9h", "10h30m"],
    ),
    "SluiceEscalationHigh goes on over a restart that sets the counters back": Case(
        alert="SluiceEscalationHigh",
        given=[
            *arm("candidate", "0+5x200 400+5x400", "0+0.6x200 48+0.6x400"),
            *arm("stable", "0+25x200 2000+25x400", "0+1x200 80+1x400"),
        ],
        fires=["99m", "101m", "2h", "4h"],
    ),
    "SluiceEscalationHigh: a restart is no escalation for an equal candidate": Case(
        alert="SluiceEscalationHigh",
        given=[
            *arm("candidate", "0+5x200 400+5x400", "0+0.2x200 16+0.2x400"),
            *arm("stable", "0+25x200 2000+25x400", "0+1x200 80+1x400"),
        ],
        silent=["99m", "101m", "2h", "4h"],
    ),
    "SluiceEscalationHigh fades when the window has passed the rollback": Case(
        alert="SluiceEscalationHigh",
        given=[
            *arm("candidate", "0+5x120 600x1200", "0+0.6x120 72x1200"),
            *arm("stable", "0+25x1320", "0+1x1320"),
        ],
        fires=["1h", "3h"],
        silent=["7h30m"],
    ),
    # Data
    "SluiceNoData fires where the newest sample grows old": Case(
        alert="SluiceNoData",
        given=[*weight(5), series("sluice_rollout_last_sample_timestamp_seconds", "600x1200")],
        silent=["30m", "1h"],
        fires=["1h12m", "3h"],
    ),
    "SluiceNoData fires without any sample": Case(
        alert="SluiceNoData", given=weight(5), silent=["29m"], fires=["31m", "2h"]
    ),
    "SluiceNoData fires where an arm has no runs, in spite of fresh samples of the other": Case(
        alert="SluiceNoData",
        given=[
            *weight(5),
            series("sluice_rollout_last_sample_timestamp_seconds", "0+30x1200"),
            phase("NoData", "0x20 1x1180"),
        ],
        silent=["30m"],
        fires=["41m"],
    ),
    "SluiceNoData is silent while samples come": Case(
        alert="SluiceNoData",
        given=[
            *weight(5),
            series("sluice_rollout_last_sample_timestamp_seconds", "0+30x1200"),
            phase("NoData", "0x1200"),
        ],
        silent=["1h", "4h"],
    ),
    "SluiceNoData is silent without traffic": Case(alert="SluiceNoData", given=weight(0), silent=["2h", "4h"]),
    "SluiceNoData starts again after a gap that samples filled": Case(
        alert="SluiceNoData",
        given=[
            *weight(5),
            series("sluice_rollout_last_sample_timestamp_seconds", "0x100 3000x1100"),
        ],
        silent=["50m", "1h15m"],
        fires=["1h55m"],
    ),
    # Weights
    "SluiceWeightMismatch fires where the route keeps another weight": Case(
        alert="SluiceWeightMismatch", given=weight(25, 5), silent=["4m"], fires=["6m", "2h"]
    ),
    "SluiceWeightMismatch is silent where they agree": Case(
        alert="SluiceWeightMismatch", given=weight(25), silent=["6m", "2h"]
    ),
    "SluiceWeightMismatch is silent while a change is on its way": Case(
        alert="SluiceWeightMismatch",
        given=[
            series("sluice_rollout_weight_percent", "1x60 5x60", 'type="desired"'),
            series("sluice_rollout_weight_percent", "1x63 5x57", 'type="actual"'),
        ],
        silent=["30m", "31m", "36m"],
    ),
    "SluiceWeightMismatch is silent without data": Case(
        alert="SluiceWeightMismatch",
        given=[series("sluice_rollout_weight_percent", "5x60", 'type="actual"')],
        silent=["20m"],
    ),
    # Gates
    "SluiceGateWaiting fires for an approval that nobody gives": Case(
        alert="SluiceGateWaiting",
        given=[phase("AwaitingApproval", "1x600")],
        silent=["59m"],
        fires=["61m"],
        labels={**PLACE, "phase": "AwaitingApproval"},
    ),
    "SluiceGateWaiting is silent while it soaks": Case(
        alert="SluiceGateWaiting", given=[phase("Soaking", "1x600"), phase("AwaitingApproval", "0x600")], silent=["2h"]
    ),
    "SluiceGateWaiting starts again with another wait": Case(
        alert="SluiceGateWaiting",
        given=[phase("AwaitingScorecard", "1x100 0x20 1x300")],
        silent=["49m", "1h30m"],
        fires=["2h5m"],
        labels={**PLACE, "phase": "AwaitingScorecard"},
    ),
    "SluiceGateWaiting is silent without data": Case(
        alert="SluiceGateWaiting", given=[phase("Paused", "_x600")], silent=["2h"]
    ),
    # Rollback
    "SluiceRolledBack fires once a second scrape confirms it": Case(
        alert="SluiceRolledBack",
        given=[phase("RolledBack", "0x20 1x200")],
        silent=["10m", "10m30s"],
        fires=["12m", "1h"],
        labels={**PLACE, "phase": "RolledBack"},
    ),
    "SluiceRolledBack ends with a retry": Case(
        alert="SluiceRolledBack",
        given=[phase("RolledBack", "1x20 0x200"), phase("Baking", "0x20 1x200")],
        silent=["11m"],
    ),
    "SluiceRolledBack is silent for a rollout that completes": Case(
        alert="SluiceRolledBack", given=[phase("RolledBack", "0x220"), phase("Completed", "1x220")], silent=["1h"]
    ),
    "SluiceRolledBack is silent without data, and when the rollout is deleted": Case(
        alert="SluiceRolledBack", given=[phase("RolledBack", "1x4 stale")], silent=["10m"]
    ),
    # The operator
    "SluiceOperatorDownWithCanaryWeight fires when the scrape fails": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[
            series("sluice_rollout_weight_percent", "5x20 stale", 'type="actual"'),
            leader("1x20 stale"),
        ],
        silent=["10m", "14m"],
        fires=["17m", "3h"],
        labels={**PLACE, "job": "sluice"},
    ),
    "SluiceOperatorDownWithCanaryWeight fires where a process runs that does not act": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[*weight(5), leader("0x1200")],
        fires=["10m"],
        labels={**PLACE, "job": "sluice"},
    ),
    "SluiceOperatorDownWithCanaryWeight fires though another operator acts elsewhere": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[
            series("sluice_rollout_weight_percent", "5x20 stale", 'type="actual"'),
            leader("1x20 stale"),
            leader("1x1200", job="other"),
        ],
        fires=["20m"],
        labels={**PLACE, "job": "sluice"},
    ),
    "SluiceOperatorDownWithCanaryWeight is silent while a second process acts": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[*weight(5), leader("0x1200"), leader("1x1200", instance="b")],
        silent=["10m", "2h"],
    ),
    "SluiceOperatorDownWithCanaryWeight is silent without a canary": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[series("sluice_rollout_weight_percent", "0x20 stale", 'type="actual"'), leader("1x20 stale")],
        silent=["20m", "2h"],
    ),
    "SluiceOperatorDownWithCanaryWeight ends when the operator is back": Case(
        alert="SluiceOperatorDownWithCanaryWeight",
        given=[
            series("sluice_rollout_weight_percent", "5x20 _x40 5x200", 'type="actual"'),
            leader("1x20 stale _x39 1x200"),
        ],
        fires=["29m"],
        silent=["31m"],
        labels={**PLACE, "job": "sluice"},
    ),
    "SluiceMetricsAbsent fires where nothing was ever scraped": Case(
        alert="SluiceMetricsAbsent", given=[], silent=["4m"], fires=["6m"], labels={}
    ),
    "SluiceMetricsAbsent fires when the last operator goes": Case(
        alert="SluiceMetricsAbsent", given=[leader("1x20 stale")], silent=["10m", "14m"], fires=["17m"], labels={}
    ),
    "SluiceMetricsAbsent is silent while one is scraped, and starts again after a gap": Case(
        alert="SluiceMetricsAbsent",
        given=[leader("1x20 stale _x5 1x20 stale")],
        silent=["14m", "25m"],
        fires=["31m"],
        labels={},
    ),
}


def severity(rules, name):
    return next(rule["labels"]["severity"] for rule in rules if rule.get("alert") == name)


def as_test(case: Case, rules: list) -> dict:
    """Return a case in promtool's form."""
    wanted = {"exp_labels": {"severity": severity(rules, case.alert), **case.labels}}
    instants = [(instant, [wanted]) for instant in case.fires] + [(instant, []) for instant in case.silent]
    return {
        "interval": "30s",
        "input_series": case.given,
        "alert_rule_test": [
            {"eval_time": instant, "alertname": case.alert, "exp_alerts": expected} for instant, expected in instants
        ],
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Folder with the shipped rules without their texts, which promtool would compare letter by letter."""
    folder = tmp_path_factory.mktemp("rules")
    groups = yaml.safe_load((ROOT / RULE_FILE).read_text())["spec"]
    for rule in groups["groups"][0]["rules"]:
        rule.pop("annotations", None)
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    return folder, groups["groups"][0]["rules"]


def run(folder, tests):
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document, sort_keys=False, width=1000))
    command = [program("promtool"), "test", "rules", "tests.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("alert", sorted({case.alert for case in CASES.values()}))
def test_alerts(alert, bare):
    folder, rules = bare
    tests = [{"name": name, **as_test(case, rules)} for name, case in CASES.items() if case.alert == alert]
    result = run(folder, tests)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tried_both_ways():
    names = {alert.name for alert in alerts(RuleConfig())}
    assert {case.alert for case in CASES.values() if case.fires} == names
    assert {case.alert for case in CASES.values() if case.silent} == names


def test_promtool_would_notice_an_alert_that_does_not_fire(bare):
    folder, rules = bare
    case = CASES["SluiceRolledBack is silent for a rollout that completes"]
    wrong = Case(alert=case.alert, given=case.given, fires=["1h"], labels={**PLACE, "phase": "RolledBack"})
    assert run(folder, [as_test(wrong, rules)]).returncode != 0


def test_recorded_rates_are_those_of_the_counters(bare):
    folder, _ = bare
    given = [*arm("candidate", "0+5x600", "0+0.6x600"), *arm("stable", "0+25x600", "0+1x600")]
    label = 'namespace="shop",name="agent"'
    expected = {
        'sluice:rollout_escalation_rate:ratio{arm="candidate"}': (f'{{arm="candidate",{label}}}', 0.12),
        'sluice:rollout_escalation_rate:ratio{arm="stable"}': (f'{{arm="stable",{label}}}', 0.04),
        "sluice:rollout_escalation:candidate_over_stable": (f"{{{label}}}", 3),
    }
    tests = [
        {
            "expr": f"round({expression}, 0.001)",
            "eval_time": "4h",
            "exp_samples": [{"labels": labels, "value": value}],
        }
        for expression, (labels, value) in expected.items()
    ]
    result = run(folder, [{"interval": "30s", "input_series": given, "promql_expr_test": tests}])
    assert result.returncode == 0, result.stdout + result.stderr
