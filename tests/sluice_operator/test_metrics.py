"""Metrics: bounded labels, counters that only rise, series that go with their object."""

import re
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

import sluice_operator
from sluice_operator.decisions.reasons import Phase
from sluice_operator.health import HealthServer
from sluice_operator.metrics import ROLLOUT_PHASES, Metrics
from sluice_operator.monitoring import catalogue
from sluice_operator.problems import with_problem
from sluice_operator.workqueue import Key, WorkQueue

KEY = Key(kind="ShadowRollout", namespace="n", name="r", uid="u")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)
PLACE = {"namespace": "n", "name": "r"}


def text(instant):
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def rollout(phase="Soaking", step=1, runs=10, escalations=1, at=NOW, stable=None, **more):
    """A status; `stable` are the stable arm's counts where they differ."""
    arm = {"runs": runs, "escalations": escalations}
    other = {"runs": stable[0], "escalations": stable[1]} if stable else arm
    return {
        "phase": phase,
        "step": step,
        "round": 1,
        "weight": {"desired": 5, "actual": 5},
        "arms": {"candidate": arm, "stable": other},
        "evidence": {"step": step, "at": text(at), "verdict": "Undecided"},
        "candidateDigest": "sha256:c",
        "stableDigest": "sha256:s",
        **more,
    }


def value(metrics, metric, /, **labels):
    return metrics.registry.get_sample_value(metric, labels)


def matured(metrics, arm="candidate"):
    return value(metrics, "sluice_rollout_matured_runs_total", arm=arm, **PLACE)


def decisions(metrics):
    found = {name: value(metrics, "sluice_rollout_decisions_total", decision=name, **PLACE) for name in DECISIONS}
    return {name: count for name, count in found.items() if count}


DECISIONS = catalogue.DECISIONS


def observed(*statuses, metrics=None):
    metrics = metrics or Metrics()
    for status in statuses:
        metrics.observe(KEY, status)
    return metrics


def test_an_object_has_one_phase():
    metrics = observed(rollout("Soaking"), rollout("RolledBack"))
    place = {"kind": "ShadowRollout", **PLACE}
    assert value(metrics, "sluice_object_phase", phase="RolledBack", **place) == 1
    assert value(metrics, "sluice_object_phase", phase="Soaking", **place) is None


def test_the_registry_has_what_the_catalogue_says_and_nothing_else():
    metrics = observed(rollout(evidence={"step": 1, "at": text(NOW), "harm": 1.0, "candidateShare": 0.1}))
    metrics.reconcile_seconds.labels("ShadowRollout").observe(0.1)
    metrics.reconcile_errors.labels("ShadowRollout", "Forbidden").inc()
    metrics.writes.labels("ShadowRollout").inc()
    found = {}
    for family in metrics.registry.collect():
        kinds = [set(sample.labels) - {"le"} for sample in family.samples if not sample.name.endswith("_created")]
        found[family.name] = (family.type, kinds[0], family.documentation)
        assert all(labels == kinds[0] for labels in kinds), family.name
    assert found == {each.name: (each.kind, set(each.labels), each.help) for each in catalogue.ALL}


def test_no_label_is_without_bound():
    allowed = {"namespace", "name", "arm", "type", "phase", "verdict", "test", "decision", "kind", "reason", "version"}
    allowed |= {"candidate", "stable"}
    for metric in catalogue.ALL:
        assert set(metric.labels) <= allowed, metric.name
    assert {each.name for each in catalogue.ALL if {"candidate", "stable"} & set(each.labels)} == {
        "sluice_rollout_info"
    }


class TestCounters:
    def test_runs_count_over_all_steps(self):
        metrics = observed(rollout(runs=10), rollout(runs=10), rollout(runs=25))
        observed(rollout(step=2, runs=4), rollout(step=2, runs=6), metrics=metrics)
        assert matured(metrics) == 31
        assert value(metrics, "sluice_rollout_escalated_runs_total", arm="candidate", **PLACE) == 2

    def test_both_arms_are_there_before_the_first_run(self):
        metrics = observed({})
        assert (matured(metrics), matured(metrics, "stable")) == (0, 0)

    def test_a_step_without_evidence_counts_nothing_and_forgets_nothing(self):
        between = rollout(step=2, runs=0, evidence=None)
        metrics = observed(rollout(runs=10), between, rollout(step=2, runs=3))
        assert matured(metrics) == 13

    def test_a_rollback_keeps_the_evidence_and_counts_it_once(self):
        ended = rollout("RolledBack", step=0, runs=12, outcome="RolledBack")
        ended["evidence"]["step"] = 1
        metrics = observed(rollout(runs=10), ended, ended)
        assert matured(metrics) == 12

    def test_stable_runs_of_the_step_before_count_once_at_100_percent(self):
        full = {"weight": {"desired": 100, "actual": 100}}
        metrics = observed(
            rollout(runs=10, stable=(90, 3)),
            rollout(step=2, runs=0, evidence=None, **full),
            rollout(step=2, runs=7, stable=(90, 3), **full),
            rollout(step=2, runs=9, stable=(91, 3), **full),
        )
        assert (matured(metrics), matured(metrics, "stable")) == (19, 91)

    def test_a_restarted_operator_starts_at_what_the_status_says(self):
        before = observed(rollout(runs=10), rollout(step=2, runs=4))
        after = observed(rollout(step=2, runs=4))
        assert (matured(before), matured(after)) == (14, 4)
        assert decisions(before) == decisions(after) == {"Started": 1, "Advanced": 1}

    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            ([{}, rollout(), rollout(step=2)], {"Started": 1, "Advanced": 1}),
            ([rollout(), rollout(step=3)], {"Started": 1, "Advanced": 2}),
            ([rollout(), rollout(step=0, outcome="RolledBack")], {"Started": 1, "RolledBack": 1}),
            ([rollout(step=2), rollout(step=2, outcome="Completed")], {"Started": 1, "Advanced": 1, "Promoted": 1}),
            ([rollout(), rollout(step=0, evidence=None), rollout(round=2)], {"Started": 2, "StartedOver": 1}),
            ([rollout(), rollout(step=0, outcome="Superseded")], {"Started": 1, "Superseded": 1}),
            ([rollout(outcome="Unheard")], {"Started": 1}),
        ],
        ids=[
            "an advance",
            "a missed one",
            "a rollback",
            "a promotion",
            "a retry",
            "a foreign move",
            "a newer operator's",
        ],
    )
    def test_decisions_are_counted(self, statuses, expected):
        assert decisions(observed(*statuses)) == expected

    def test_time_held_for_a_person_goes_on_between_statuses_and_over_a_restart(self):
        now = [NOW.timestamp() + 100]
        condition = {"type": "Progressing", "status": "False", "lastTransitionTime": text(NOW)}
        held = rollout("AwaitingApproval", conditions=[condition])
        metrics = observed(rollout(), held, metrics=Metrics(now=lambda: now[0]))
        assert value(metrics, "sluice_rollout_paused_seconds_total", **PLACE) == 100
        now[0] += 50
        assert value(metrics, "sluice_rollout_paused_seconds_total", **PLACE) == 150
        restarted = observed(held, metrics=Metrics(now=lambda: now[0]))
        assert value(restarted, "sluice_rollout_paused_seconds_total", **PLACE) == 150
        observed(rollout(), metrics=metrics)
        now[0] += 1000
        assert value(metrics, "sluice_rollout_paused_seconds_total", **PLACE) == 150


class TestGauges:
    def test_a_rollouts_figures_are_exported(self):
        evidence = {"step": 1, "at": text(NOW), "harm": 3.5, "nonInferiority": 0.5, "candidateShare": 0.06}
        metrics = observed(rollout(verdict="Harm", evidence=evidence))
        assert value(metrics, "sluice_rollout_weight_percent", type="actual", **PLACE) == 5
        assert value(metrics, "sluice_rollout_step", **PLACE) == 1
        assert value(metrics, "sluice_rollout_verdict", verdict="Harm", **PLACE) == 1
        assert value(metrics, "sluice_rollout_verdict", verdict="NonInferior", **PLACE) == 0
        assert value(metrics, "sluice_rollout_e_value", test="harm", **PLACE) == 3.5
        assert value(metrics, "sluice_rollout_candidate_share_percent", **PLACE) == 6
        assert value(metrics, "sluice_rollout_last_sample_timestamp_seconds", **PLACE) == NOW.timestamp()
        assert value(metrics, "sluice_rollout_info", candidate="sha256:c", stable="sha256:s", **PLACE) == 1

    def test_an_analysis_that_finds_no_more_runs_is_no_newer_sample(self):
        name = "sluice_rollout_last_sample_timestamp_seconds"
        metrics = observed(rollout(runs=10), rollout(runs=10, at=LATER))
        assert value(metrics, name, **PLACE) == NOW.timestamp()
        observed(rollout(runs=11, at=LATER), rollout(step=2, runs=0, evidence=None), metrics=metrics)
        assert value(metrics, name, **PLACE) == LATER.timestamp()
        assert value(observed(rollout(runs=0)), name, **PLACE) is None

    def test_what_was_not_measured_is_absent_not_zero(self):
        metrics = observed({"phase": "Pending"})
        for name, labels in (
            ("sluice_rollout_e_value", {"test": "harm"}),
            ("sluice_rollout_candidate_share_percent", {}),
            ("sluice_rollout_last_sample_timestamp_seconds", {}),
        ):
            assert value(metrics, name, **labels, **PLACE) is None

    def test_one_phase_of_the_state_set_holds(self):
        metrics = observed(rollout("Soaking"), rollout("NoData"))
        states = {phase: value(metrics, "sluice_rollout_phase", phase=phase, **PLACE) for phase in ROLLOUT_PHASES}
        assert {phase for phase, held in states.items() if held} == {"NoData"}
        assert set(states.values()) == {0, 1}
        assert value(observed(rollout("Novel")), "sluice_rollout_phase", phase="Novel", **PLACE) == 1

    def test_the_state_set_has_every_phase_that_a_decision_gives_a_rollout(self):
        folder = Path(sluice_operator.__file__).parent / "decisions"
        source = "".join(path.read_text() for path in folder.glob("shadowrollout*.py"))
        used = {Phase[name] for name in re.findall(r"\bPhase\.([A-Z_]+)", source)}
        assert used <= {*ROLLOUT_PHASES, Phase.FAILED}, "FAILED is a scorecard's"


class TestLife:
    def test_series_go_with_their_object(self):
        metrics = observed(rollout(verdict="Harm"))
        assert b'name="r"' in metrics.render()
        metrics.forget(KEY)
        assert b'name="r"' not in metrics.render()
        observed(rollout(runs=3), metrics=metrics)
        assert matured(metrics, "stable") == 3

    def test_a_recreated_object_starts_anew_and_survives_the_farewell_of_the_old_one(self):
        metrics = observed(rollout(runs=10))
        new = Key(kind=KEY.kind, namespace=KEY.namespace, name=KEY.name, uid="another")
        metrics.observe(new, rollout(runs=2))
        metrics.forget(KEY)
        assert matured(metrics) == 2
        lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
        assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)

    def test_other_kinds_have_a_phase_and_nothing_of_a_rollout(self):
        metrics, key = Metrics(), Key(kind="EvalRun", namespace="n", name="e", uid="v")
        metrics.observe(key, {"phase": "Running"})
        shown = [line for line in metrics.render().decode().splitlines() if 'name="e"' in line]
        assert shown == ['sluice_object_phase{kind="EvalRun",name="e",namespace="n",phase="Running"} 1.0']
        metrics.forget(key)
        assert b'name="e"' not in metrics.render()


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
