"""Metrics: bounded labels, counters that only rise, series that go with their object."""

from datetime import UTC, datetime

import aiohttp

from sluice_operator.health import HealthServer
from sluice_operator.metrics import Metrics
from sluice_operator.problems import with_problem
from sluice_operator.workqueue import Key, WorkQueue

KEY = Key(kind="ShadowRollout", namespace="n", name="r", uid="u")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)


def rollout(phase="Soaking", step=1, runs=10, escalations=1, **more):
    arm = {"runs": runs, "escalations": escalations}
    return {
        "phase": phase,
        "step": step,
        "round": 1,
        "weight": {"desired": 5, "actual": 5},
        "arms": {"candidate": arm, "stable": arm},
        "candidateDigest": "sha256:c",
        "stableDigest": "sha256:s",
        **more,
    }


def value(metrics, metric, /, **labels):
    return metrics.registry.get_sample_value(metric, labels)


def test_an_object_has_one_phase():
    metrics = Metrics()
    metrics.observe(KEY, rollout("Soaking"))
    metrics.observe(KEY, rollout("RolledBack"))
    place = {"kind": "ShadowRollout", "namespace": "n", "name": "r"}
    assert value(metrics, "sluice_object_phase", phase="RolledBack", **place) == 1
    assert value(metrics, "sluice_object_phase", phase="Soaking", **place) is None


def test_runs_are_counters_over_all_steps():
    metrics = Metrics()
    arm = {"namespace": "n", "name": "r", "arm": "candidate"}
    for status in (
        rollout(runs=10),
        rollout(runs=10),
        rollout(runs=25),
        rollout(step=2, runs=4),
        rollout(step=2, runs=6),
    ):
        metrics.observe(KEY, status)
    assert value(metrics, "sluice_rollout_matured_runs_total", **arm) == 31
    assert value(metrics, "sluice_rollout_escalated_runs_total", **arm) == 2


def test_a_rollouts_figures_are_exported():
    metrics = Metrics()
    metrics.observe(KEY, rollout(verdict="Harm", evidence={"at": "2026-01-02T03:04:05Z"}))
    place = {"namespace": "n", "name": "r"}
    assert value(metrics, "sluice_rollout_weight_percent", type="actual", **place) == 5
    assert value(metrics, "sluice_rollout_step", **place) == 1
    assert value(metrics, "sluice_rollout_verdict", verdict="Harm", **place) == 1
    assert value(metrics, "sluice_rollout_last_sample_timestamp_seconds", **place) == NOW.timestamp()
    assert value(metrics, "sluice_rollout_info", candidate="sha256:c", stable="sha256:s", **place) == 1


def test_series_go_with_their_object():
    metrics = Metrics()
    metrics.observe(KEY, rollout(verdict="Harm"))
    assert b'name="r"' in metrics.render()
    metrics.forget(KEY)
    assert b'name="r"' not in metrics.render()
    metrics.observe(KEY, rollout(runs=3))
    assert value(metrics, "sluice_rollout_matured_runs_total", namespace="n", name="r", arm="stable") == 3


async def test_health_turns_red_when_due_work_waits_too_long():
    now = [0.0]
    queue, metrics = WorkQueue(clock=lambda: now[0]), Metrics()
    metrics.watch_queue(queue.depth, queue.lag)
    server = HealthServer(queue, metrics, host="127.0.0.1", port=0, max_lag_s=60)
    url = f"http://127.0.0.1:{await server.start()}"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "/healthz") as response:
                assert response.status == 200
            queue.add(KEY)
            now[0] = 61.0
            async with session.get(url + "/healthz") as response:
                assert response.status == 500
                assert (await response.json())["lagSeconds"] == 61.0
            async with session.get(url + "/metrics") as response:
                text = await response.text()
        assert "sluice_workqueue_lag_seconds 61.0" in text
        assert "sluice_build_info{" in text
    finally:
        await server.stop()


def problem(status, **changes):
    arguments = {"generation": 2, "reason": "NameConflict", "message": "taken", "instant": NOW, "stalled": True}
    return with_problem(status, **arguments | changes)


def by_type(status):
    return {condition["type"]: condition for condition in status["conditions"]}


def test_a_problem_stalls_and_claims_nothing_else():
    old = {"phase": "Running", "adapter": {"digest": "x"}, "conditions": [{"type": "Succeeded", "status": "Unknown"}]}
    new = problem(old)
    conditions = by_type(new)
    assert (new["phase"], new["adapter"], new["reason"]) == ("Running", {"digest": "x"}, "NameConflict")
    assert [conditions[name]["status"] for name in ("Ready", "Reconciling", "Stalled")] == ["False", "False", "True"]
    assert conditions["Succeeded"] == {"type": "Succeeded", "status": "Unknown"}


def test_the_same_problem_again_is_the_same_status():
    once = problem({})
    assert problem(once, instant=LATER) == once
    moved = problem(once, instant=LATER, stalled=False)
    assert by_type(moved)["Stalled"]["lastTransitionTime"] == "2026-01-02T04:04:05Z"
    assert by_type(moved)["Ready"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_what_was_made_stays_good():
    ready = {"type": "Ready", "status": "True", "reason": "Published", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert by_type(problem({"conditions": [ready]}))["Ready"] == ready
