"""A real Prometheus scrapes a real operator: traces of a worse candidate become an alert, and so does its absence."""

import hashlib

import pytest

from manifests_for_tests import STABLE_DIGEST, rollout, run
from operators import until
from prometheus_server import PrometheusServer
from sluice_operator.monitoring.rules import RuleConfig, rule_groups
from trace_factory import step, trace, write_trace

RULES = RuleConfig(
    interval="1s",
    window="2m",
    min_runs=20,
    escalation_for="2s",
    no_data_for="5m",
    mismatch_for="30s",
    waiting_for="1h",
    rolled_back_for="2s",
    down_for="3s",
)
"""The rules that ship, at the pace of a test."""
WEIGHTS = {"desired": 10, "actual": 10}


@pytest.fixture
def soaking(place):
    """A rollout at its first step, by an operator that runs, whose rule would tolerate anything."""
    place.profiles(real={"FAST_SHADOW": "analyze"})
    place.built()
    place.apply(run(place.uri))
    spec = rollout(place.uri, profile="real")
    del spec["spec"]["scorecardRef"]
    spec["spec"]["steps"][0] |= {"soak": "1h", "minRuns": 100_000}
    spec["spec"]["analysis"] |= {"interval": "2s", "method": "tolerance", "tolerance": 1.0}
    with place.operator() as operator:
        place.apply(spec)
        until(lambda: place.status("shadowrollout", "rollout").get("stepStartedAt"), what="the step begins")
        yield place, operator


def serve(place, arm, runs, escalated):
    """Write an arm's traces, as the agent would: stamped with rollout and weights."""
    found = place.get("shadowrollout", "rollout")
    status = found["status"]
    digest = status["candidateDigest"] if arm == "candidate" else STABLE_DIGEST
    for number in range(runs):
        steps = [step(0), step(1, data="page_blocked by cloudflare")] if number < escalated else [step(0)]
        document = trace(
            f"{arm}-{number}-{hashlib.sha256(arm.encode()).hexdigest()[:6]}",
            steps=steps,
            variant="candidate" if arm == "candidate" else "baseline",
            started_at=status["stepStartedAt"],
            ended_at=status["stepStartedAt"],
            model_digest=digest,
            rollout=found["metadata"]["uid"],
        )
        write_trace(place.root / "traces", document)


def test_a_worse_candidate_raises_the_alert_and_an_operator_that_dies_another(soaking, tmp_path):
    place, operator = soaking
    labels = {"namespace": place.namespace, "name": "rollout"}
    with PrometheusServer(tmp_path / "prometheus", operator.address(), rule_groups(RULES)) as prometheus:
        until(lambda: prometheus.value('sluice_rollout_matured_runs_total{arm="candidate"}') == 0, what="a scrape")
        assert prometheus.firing("SluiceEscalationHigh") == []
        serve(place, "stable", 200, 8)
        serve(place, "candidate", 60, 12)
        (alert,) = until(lambda: prometheus.firing("SluiceEscalationHigh"), timeout_s=60, what="the alert")
        assert {name: alert["labels"][name] for name in labels} == labels
        assert alert["labels"]["severity"] == "critical"
        assert f"{place.namespace}/rollout" in alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"].endswith("/SluiceEscalationHigh.md")
        assert float(alert["value"]) == pytest.approx(5, rel=0.01)
        # The rollout's own rule tolerates everything: the alert is made from the evidence, not from its opinion.
        assert place.status("shadowrollout", "rollout")["weight"] == WEIGHTS
        assert prometheus.firing("SluiceOperatorDownWithCanaryWeight") == []
        for quiet in ("SluiceWeightMismatch", "SluiceNoData", "SluiceRolledBack", "SluiceMetricsAbsent"):
            assert prometheus.firing(quiet) == [], quiet

        operator.kill()
        (down,) = until(lambda: prometheus.firing("SluiceOperatorDownWithCanaryWeight"), timeout_s=60, what="the other")
        assert {name: down["labels"][name] for name in labels} == labels
        assert float(down["value"]) == 10


def test_series_of_a_deleted_rollout_are_gone_from_the_next_scrape(soaking):
    place, operator = soaking
    mine = f'name="rollout",namespace="{place.namespace}"'
    until(lambda: mine in operator.get("/metrics")[1], what="its series")
    place.kubectl("-n", place.namespace, "delete", "shadowrollout", "rollout", "--wait=true")
    until(lambda: mine not in operator.get("/metrics")[1], timeout_s=30, what="no series of it")
