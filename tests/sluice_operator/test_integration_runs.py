"""FineTuneRuns of every fate side by side: a real API server, a real Ray, an operator with exactly its role."""

import json

import pytest

from manifests_for_tests import VERSION_DIGEST, run
from operators import until
from sluice_api.v1alpha1.common import FINALIZER


@pytest.fixture(scope="module")
def operator(stage):
    """The operator of this module; every run of it is applied here, so that they wait for Ray together."""
    nowhere = stage.profile() | {"address": "http://127.0.0.1:9"}
    fates = {
        "cpu": stage.profile(),
        "infra": stage.profile(FAST_FAIL="Infrastructure"),
        "data": stage.profile(FAST_FAIL="Data"),
        "vanish": stage.profile(FAST_EXIT="9"),
        "slow": stage.profile(FAST_SLEEP="300"),
        "nowhere": nowhere,
        "broken": {"backend": "ray"},
    }
    stage.write(fates)
    stage.built()
    with stage.operator() as process:
        stage.apply(
            run(stage.uri, "good"),
            run(stage.uri, "infra", profile="infra", retry={"maxAttempts": 2}),
            run(stage.uri, "data", profile="data"),
            run(stage.uri, "vanish", profile="vanish", retry={"maxAttempts": 1}),
            run(stage.uri, "slow", profile="slow"),
            run(stage.uri, "nowhere", profile="nowhere"),
            run(stage.uri, "broken", profile="broken"),
            run(stage.uri, "waits", datasetRef={"name": "later"}),
        )
        yield process


def reason(stage, name):
    return stage.status("finetunerun", name).get("reason")


def jobs_of(stage, name):
    return [job for job in stage.jobs() if job.startswith(f"FineTuneRun--{name}--")]


def test_a_run_trains_and_is_recorded(stage, operator):
    status = stage.wait_phase("finetunerun", "good", "Succeeded")
    assert status["adapter"]["digest"].startswith("sha256:")
    assert status["inputs"]["dataset"] == VERSION_DIGEST
    assert len(jobs_of(stage, "good")) == 1


def test_infrastructure_failures_are_retried_and_given_up_with_numbers(stage, operator):
    status = stage.wait_phase("finetunerun", "infra", "Failed", "Stalled")
    assert status["reason"] == "BackoffLimitExceeded"
    assert "2 of 2" in status["message"]
    assert len(jobs_of(stage, "infra")) == 2


def test_rejected_data_waits_for_a_corrected_spec_and_then_succeeds(stage, operator):
    until(lambda: reason(stage, "data") == "DataRejected")
    assert len(jobs_of(stage, "data")) == 1
    stage.apply(run(stage.uri, "data", profile="cpu"))
    stage.wait_phase("finetunerun", "data", "Succeeded")
    assert len(jobs_of(stage, "data")) == 2


def test_a_job_that_vanishes_without_a_result_says_how(stage, operator):
    status = stage.wait_phase("finetunerun", "vanish", "Failed", "Stalled")
    assert "exit code 9" in status["attempts"][0]["failure"]["message"]


def test_an_unreachable_ray_says_what_to_do_and_recovers(stage, operator):
    until(lambda: reason(stage, "nowhere") == "BackendUnreachable")
    message = stage.status("finetunerun", "nowhere")["message"]
    assert "http://127.0.0.1:9" in message
    assert "check that the cluster runs" in message
    stage.apply(run(stage.uri, "nowhere", profile="cpu"))
    data = {"data": {"nowhere": json.dumps(stage.profile())}}
    stage.patch("configmap", "sluice-profiles", data)
    stage.wait_phase("finetunerun", "nowhere", "Succeeded")
    assert len(jobs_of(stage, "nowhere")) == 1


def test_a_broken_profile_is_named_and_a_corrected_one_counts(stage, operator):
    until(lambda: "profile broken in ConfigMap sluice-profiles: address" in str(stage.status("finetunerun", "broken")))
    stage.patch("configmap", "sluice-profiles", {"data": {"broken": json.dumps(stage.profile())}})
    stage.wait_phase("finetunerun", "broken", "Succeeded")


def test_a_run_waits_for_its_dataset_and_goes_on_when_it_is_there(stage, operator):
    until(lambda: reason(stage, "waits") == "ReferenceNotFound")
    stage.built("later")
    stage.wait_phase("finetunerun", "waits", "Succeeded")


def test_suspending_stops_the_job_and_resuming_starts_another_attempt(stage, operator):
    stage.wait_phase("finetunerun", "slow", "Running")
    stage.patch("finetunerun", "slow", {"spec": {"suspend": True}})
    stage.wait_phase("finetunerun", "slow", "Suspended")
    stage.patch("configmap", "sluice-profiles", {"data": {"slow": json.dumps(stage.profile())}})
    stage.patch("finetunerun", "slow", {"spec": {"suspend": False}})
    status = stage.wait_phase("finetunerun", "slow", "Succeeded")
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2]


def test_a_recreated_object_of_the_same_name_gets_a_job_of_its_own(stage, operator):
    first = stage.wait_phase("finetunerun", "good", "Succeeded")
    stage.kubectl("-n", stage.namespace, "delete", "finetunerun", "good", "--timeout=30s")
    stage.apply(run(stage.uri, "good"))
    second = stage.wait_phase("finetunerun", "good", "Succeeded")
    assert first["attempts"][0]["job"] != second["attempts"][0]["job"]
    assert len(set(jobs_of(stage, "good"))) == 2


def test_figures_and_health_are_served_and_go_with_their_object(stage, operator):
    stage.wait_phase("finetunerun", "good", "Succeeded")
    code, text = operator.get("/metrics")
    labels = f'kind="FineTuneRun",name="good",namespace="{stage.namespace}",phase="Succeeded"'
    assert code == 200
    assert f"sluice_object_phase{{{labels}}} 1.0" in text
    assert "sluice_leader 1.0" in text
    code, health = operator.get("/healthz")
    assert code == 200
    assert json.loads(health)["healthy"]
    stage.kubectl("-n", stage.namespace, "delete", "finetunerun", "good", "--timeout=30s")
    until(lambda: 'name="good"' not in operator.get("/metrics")[1], what="series go with the object")


def test_an_object_without_news_is_not_written(stage, operator):
    raw = stage.get("tracedataset", "data")
    assert raw["status"]["phase"] == "Suspended"
    assert "kopf" not in json.dumps(raw["metadata"])
    seen = float(metric(operator, 'sluice_reconcile_duration_seconds_count{kind="TraceDataset"}'))
    # Somebody's annotation makes the operator look again, and it writes nothing.
    stage.kubectl("-n", stage.namespace, "annotate", "tracedataset", "data", "example.com/note=x")
    until(lambda: float(metric(operator, 'sluice_reconcile_duration_seconds_count{kind="TraceDataset"}')) > seen)
    annotated = int(raw["metadata"]["generation"]), raw["status"]
    after = stage.get("tracedataset", "data")
    assert (int(after["metadata"]["generation"]), after["status"]) == annotated


def metric(operator, name):
    return next(line.rpartition(" ")[2] for line in operator.get("/metrics")[1].splitlines() if line.startswith(name))


def test_a_spec_that_slipped_past_the_crd_is_named_and_may_be_deleted(stage, operator, kubectl):
    stage.apply(run(stage.uri, "slipped", suspend=True))
    stage.wait_phase("finetunerun", "slipped", "Suspended")
    crd = json.loads(kubectl("get", "crd", "finetuneruns.sluice.dev", "-o", "json").stdout)
    version = crd["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    saved = properties["workers"]
    operation = [{"op": "replace", "path": "/spec/versions", "value": [version]}]

    def slip():
        change = '{"spec":{"workers":-3}}'
        target = ("-n", stage.namespace, "patch", "finetunerun", "slipped", "--type=merge", "-p", change)
        return kubectl(*target, check=False).returncode == 0

    properties["workers"] = {"type": "integer"}
    kubectl("patch", "crd", "finetuneruns.sluice.dev", "--type=json", "-p", json.dumps(operation))
    try:
        until(slip)
    finally:
        properties["workers"] = saved
        kubectl("patch", "crd", "finetuneruns.sluice.dev", "--type=json", "-p", json.dumps(operation))
    until(lambda: reason(stage, "slipped") == "InvalidSpec")
    status = stage.status("finetunerun", "slipped")
    assert "spec.workers" in status["message"]
    stalled = next(condition for condition in status["conditions"] if condition["type"] == "Stalled")
    assert stalled["status"] == "True"
    assert FINALIZER in stage.get("finetunerun", "slipped")["metadata"]["finalizers"]
    kubectl("-n", stage.namespace, "delete", "finetunerun", "slipped", "--timeout=20s")
