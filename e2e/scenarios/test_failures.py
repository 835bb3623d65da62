"""What goes wrong below a run is told in its conditions in the words of who saw it, and a run resumes where it can."""

import pytest

import runs
from site_view import conditions

ROLES = ("head", "worker")


@pytest.fixture(scope="module")
def killed(sluice, dataset):
    """Names of two runs, of which one lost its head's pod half-way and the other its worker's."""
    names = {role: f"killed-{role}" for role in ROLES}
    sluice.apply(*(runs.run(name, optimizer=runs.LONG) for name in names.values()))
    for role, name in names.items():
        runs.until_step(sluice, name, 50)
        (pod,) = runs.pods_of(sluice, name, role)
        sluice.kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
    yield names
    runs.remove(sluice, *names.values())


@pytest.mark.parametrize("role", ROLES)
def test_a_run_whose_pod_is_killed_resumes_from_its_checkpoint(sluice, killed, role):
    status = sluice.until_phase("finetunerun", killed[role], "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert status["phase"] == "Succeeded", status
    # KubeRay makes a lost pod anew, and submits a job again that a new head does not know: then one attempt is enough.
    classes = {each["failure"]["class"] for each in status["attempts"] if each.get("failure")}
    assert classes <= {"NodeLost", "Preempted", "Infrastructure", "Unknown"}, status["attempts"]
    assert status["attempts"][-1]["resumedFromStep"] >= 20, status["attempts"]


def test_an_image_that_cannot_be_pulled_is_named(sluice, dataset):
    name = "unpullable"
    sluice.apply(runs.run(name, profile="unpullable"))
    status = sluice.until_message("finetunerun", name, "registry.invalid/sluice/trainer:none", timeout_s=300)
    assert "ImagePull" in status["message"]
    assert conditions(status)["Succeeded"]["status"] == "Unknown"
    runs.remove(sluice, name)


def test_a_profile_without_nodes_is_told_with_the_schedulers_words(sluice, dataset):
    name = "unschedulable"
    sluice.apply(runs.run(name, profile="a100"))
    status = sluice.until_message("finetunerun", name, "FailedScheduling", "nodes are available", timeout_s=300)
    assert status["phase"] == "Queued"
    runs.remove(sluice, name)


def test_a_run_that_waits_too_long_for_a_node_fails_with_its_deadline(sluice, dataset):
    name = "impatient"
    sluice.apply(runs.run(name, profile="a100", deadlines={"queued": "10s"}, retry={"maxAttempts": 1}))
    status = sluice.until_phase("finetunerun", name, "Failed", "Stalled", timeout_s=300)
    assert status["attempts"][0]["failure"]["reason"] == "QueueDeadlineExceeded"
    runs.remove(sluice, name)


def test_a_rayjob_that_kuberay_refuses_is_told_with_kuberays_words(sluice, dataset):
    name = "refused"
    sluice.apply(runs.run(name, profile="old-ray", retry={"maxAttempts": 1}))
    status = sluice.until_phase("finetunerun", name, "Failed", "Stalled", timeout_s=300)
    failure = status["attempts"][0]["failure"]
    assert "ValidationFailed" in failure["message"], failure
    assert "2.40.0" in failure["message"] or "version" in failure["message"], failure
    runs.remove(sluice, name)


def test_a_queue_gets_its_label_and_its_suspension_is_respected(sluice, dataset):
    """Kueue itself is not here: what it does to a RayJob, suspending and resuming it, is done by hand."""
    name = "queued"
    sluice.apply(runs.run(name, profile="queued"))
    job = sluice.until(lambda: runs.job_of(sluice, name), wish="an attempt")
    sluice.until(lambda: sluice.get("rayjob", job), wish="its RayJob")
    labels = sluice.get("rayjob", job)["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "research"
    sluice.patch("rayjob", job, {"spec": {"suspend": True}})
    status = sluice.until_message("finetunerun", name, "Suspended", timeout_s=300)
    assert status["phase"] == "Queued"
    assert sluice.get("rayjob", job)["spec"]["suspend"] is True
    sluice.patch("rayjob", job, {"spec": {"suspend": False}})
    status = sluice.until_phase("finetunerun", name, "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert (status["phase"], len(status["attempts"])) == ("Succeeded", 1), status
    runs.remove(sluice, name)
