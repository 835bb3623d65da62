"""A user's FineTuneRun trains on a Ray cluster of its own and ends with an adapter in the bucket."""

import json

import runs
import shop
from installation import WORKER_ACCOUNT
from site_view import conditions
from sluice_artifacts import MANIFEST_FILE, join, open_store


def test_traces_in_the_bucket_become_a_dataset_version(sluice, dataset):
    latest = sluice.status("tracedataset", "storefront")["latest"]
    assert latest["uri"].startswith(shop.URI)
    assert latest["rows"] > 100
    assert open_store(shop.URI).exists(join(latest["uri"], MANIFEST_FILE))


def test_the_example_run_trains_on_a_rayjob_and_publishes_its_adapter(sluice, trained):
    adapter = trained["adapter"]
    assert adapter["uri"].startswith(shop.URI)
    manifest = json.loads(open_store(shop.URI).read(join(adapter["uri"], MANIFEST_FILE)))
    assert {file["path"] for file in manifest["files"]} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert conditions(trained)["Succeeded"]["status"] == "True"
    assert trained["inputs"]["dataset"] == sluice.status("tracedataset", "storefront")["latest"]["digest"]
    (attempt,) = trained["attempts"]
    assert attempt["startedAt"] and not attempt.get("failure")


def test_two_workers_train_one_adapter_together(sluice, dataset):
    name = "two-workers"
    sluice.apply(runs.run(name, workers=2))
    sluice.until(lambda: len(runs.pods_of(sluice, name)) == 3, wish="a head and two workers", timeout_s=300)
    pods = runs.pods_of(sluice, name)
    assert sorted(pod["metadata"]["labels"]["ray.io/node-type"] for pod in pods) == ["head", "worker", "worker"]
    for pod in pods:
        assert pod["spec"]["serviceAccountName"] == WORKER_ACCOUNT
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert all(each["securityContext"]["readOnlyRootFilesystem"] for each in pod["spec"]["containers"])
    status = sluice.until_phase("finetunerun", name, "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert (status["phase"], len(status["attempts"])) == ("Succeeded", 1), status
    assert status["adapter"]["steps"] == runs.QUICK["maxSteps"]
    runs.remove(sluice, name)


def test_a_suspended_run_frees_its_pods_and_resumes_from_its_checkpoint(sluice, dataset):
    name = "suspended"
    sluice.apply(runs.run(name, optimizer=runs.LONG))
    runs.until_step(sluice, name, 50)
    sluice.patch("finetunerun", name, {"spec": {"suspend": True}})
    sluice.until_phase("finetunerun", name, "Suspended")
    sluice.until(lambda: not runs.pods_of(sluice, name), wish="its pods are gone", timeout_s=90)
    sluice.patch("finetunerun", name, {"spec": {"suspend": False}})
    status = sluice.until_phase("finetunerun", name, "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert status["phase"] == "Succeeded", status
    assert [each.get("failure", {}).get("class") for each in status["attempts"]] == ["Preempted", None]
    assert status["attempts"][1]["resumedFromStep"] >= 40
    runs.remove(sluice, name)


def test_a_deleted_run_leaves_no_rayjob_and_no_pod(sluice, dataset):
    name = "deleted"
    sluice.apply(runs.run(name, optimizer=runs.LONG))
    runs.until_step(sluice, name, 1)
    job = runs.job_of(sluice, name)
    cluster = sluice.status("rayjob", job)["rayClusterName"]
    sluice.delete("finetunerun", name)
    sluice.until_gone("rayjob", job)
    sluice.until(
        lambda: not sluice.list("pods", labels=f"ray.io/cluster={cluster}"), wish="no pod of it is left", timeout_s=90
    )
