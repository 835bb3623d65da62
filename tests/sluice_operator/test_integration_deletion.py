"""Deleting each kind in each phase: gone within 30 seconds, its job stopped, traffic back, no orphan."""

import json
import socket
import time
from contextlib import contextmanager

import pytest

from manifests_for_tests import chain, dataset, evaluation, rollout, run, scorecard
from operators import until

BUDGET_S = 30.0
"""Seconds until a deleted object must be gone."""
NAMES = {
    "tracedataset": "data",
    "finetunerun": "run",
    "evalrun": "eval",
    "promotionscorecard": "card",
    "shadowrollout": "rollout",
}


@pytest.fixture(scope="module")
def operator(site):
    """The operator of this module."""
    with site.operator() as process:
        yield process


def delete(place, kind, name):
    """Delete an object and return the seconds until it is gone."""
    started = time.monotonic()
    place.kubectl("-n", place.namespace, "delete", kind, name, f"--timeout={BUDGET_S:.0f}s")
    assert place.get(kind, name) is None
    return time.monotonic() - started


def no_orphans(place, uid):
    """No job of this owner runs any more."""
    until(lambda: not [name for name in place.head.running() if owner_of(place, name) == uid], timeout_s=15)


def owner_of(place, job):
    return place.head.jobs[job]["metadata"]["sluice.dev/owner-uid"]


def waiting_for_references(place):
    """Each kind where what it refers to is missing."""
    place.apply(
        run(place.uri, datasetRef={"name": "absent"}),
        evaluation(place.uri, candidate={"fineTuneRunRef": {"name": "absent"}}),
        scorecard(place.uri, candidate={"fineTuneRunRef": {"name": "absent"}}),
        rollout(place.uri, candidate={"fineTuneRunRef": {"name": "absent"}}),
    )
    for kind in ("finetunerun", "evalrun", "promotionscorecard", "shadowrollout"):
        until(lambda kind=kind: place.status(kind, NAMES[kind]).get("reason"), what=f"{kind} waits")


def test_objects_that_wait(site, operator):
    waiting_for_references(site)
    for kind in ("finetunerun", "evalrun", "promotionscorecard", "shadowrollout"):
        assert delete(site, kind, NAMES[kind]) < BUDGET_S


def test_objects_whose_job_runs(site, operator):
    site.profiles(slow={"FAST_SLEEP": "600"})
    site.apply(*chain(site.uri)[:4])
    site.wait_phase("promotionscorecard", "card", "Passed")
    site.apply(
        dataset(site.uri, "data-slow", profile="slow"),
        run(site.uri, "run-slow", profile="slow"),
        evaluation(site.uri, "eval-slow", profile="slow"),
        scorecard(site.uri, "card-slow", profile="slow"),
    )
    slow = {kind: f"{name}-slow" for kind, name in NAMES.items() if kind != "shadowrollout"}
    for kind, name in slow.items():
        site.wait_phase(kind, name, "Running")
    uids = {kind: site.get(kind, name)["metadata"]["uid"] for kind, name in slow.items()}
    for kind, name in slow.items():
        assert delete(site, kind, name) < BUDGET_S
        no_orphans(site, uids[kind])


def route(place):
    return json.loads(place.get("configmap", "rollout-router")["data"]["rollout.json"])


def test_a_rollout_under_way_gives_the_traffic_back_before_it_goes(site, operator):
    site.wait_phase("promotionscorecard", "card", "Passed")
    steps = [{"weight": 25, "soak": "10m", "minRuns": 5}, {"weight": 100}]
    site.apply(rollout(site.uri, steps=steps))
    until(lambda: site.status("shadowrollout", "rollout").get("weight", {}).get("actual") == 25)
    assert route(site)["candidate_pct"] == 25.0
    seen = []

    def watch():
        raw = site.get("configmap", "rollout-router")
        if raw is not None:
            seen.append(json.loads(raw["data"]["rollout.json"])["candidate_pct"])
        return site.get("shadowrollout", "rollout") is None

    uid = site.get("shadowrollout", "rollout")["metadata"]["uid"]
    site.kubectl("-n", site.namespace, "delete", "shadowrollout", "rollout", "--wait=false")
    until(watch, timeout_s=BUDGET_S, every_s=0.02, what="the rollout is gone")
    assert seen[-1] == 0.0
    no_orphans(site, uid)


def test_finished_objects(site, operator):
    site.wait_phase("promotionscorecard", "card", "Passed")
    for kind in ("promotionscorecard", "evalrun", "finetunerun", "tracedataset"):
        assert delete(site, kind, NAMES[kind]) < BUDGET_S


def test_a_dataset_does_not_take_its_history_along(site, operator):
    site.apply(dataset(site.uri, "source"), run(site.uri, "child", datasetRef={"name": "source"}))
    site.wait_phase("finetunerun", "child", "Succeeded")
    assert delete(site, "tracedataset", "source") < BUDGET_S
    assert site.phase("finetunerun", "child") == "Succeeded"


def test_an_unreachable_backend_does_not_hold_a_deletion_for_ever(site, operator):
    site.profiles(slow={"FAST_SLEEP": "600"})
    site.apply(dataset(site.uri, "stuck", profile="slow"))
    site.wait_phase("tracedataset", "stuck", "Running")
    nowhere = site.profile() | {"address": "http://127.0.0.1:9"}
    site.patch("configmap", "sluice-profiles", {"data": {"slow": json.dumps(nowhere)}})
    assert delete(site, "tracedataset", "stuck") < BUDGET_S
    events = site.admin.get(site.namespace, "Event")["items"]
    assert [event for event in events if event["type"] == "Warning" and event["involvedObject"]["name"] == "stuck"]


def test_what_was_deleted_while_the_operator_was_away_goes_when_it_is_back(place):
    place.profiles(slow={"FAST_SLEEP": "600"})
    with place.operator() as operator:
        place.apply(dataset(place.uri, profile="slow"))
        place.wait_phase("tracedataset", "data", "Running")
        uid = place.get("tracedataset", "data")["metadata"]["uid"]
        operator.kill()
        place.kubectl("-n", place.namespace, "delete", "tracedataset", "data", "--wait=false")
        assert place.get("tracedataset", "data")["metadata"]["deletionTimestamp"]
        operator.start()
        until(lambda: place.get("tracedataset", "data") is None, timeout_s=BUDGET_S)
        no_orphans(place, uid)


def test_storage_that_swallows_requests_holds_up_no_rollback_and_no_deletion(place):
    steps = [{"weight": 25, "soak": "10m", "minRuns": 5}, {"weight": 100}]
    with place.operator():
        place.apply(*chain(place.uri)[:4])
        place.wait_phase("promotionscorecard", "card", "Passed")
        place.apply(rollout(place.uri, steps=steps))
        until(lambda: place.status("shadowrollout", "rollout").get("stepStartedAt"), what="the first weight")
    # From now on everything that the rollout asks of storage is swallowed.
    swallowed = {"stable": {"root": "s3://bucket/agent/", "channel": "stable"}, "output": "s3://bucket/agent/"}
    place.patch("shadowrollout", "rollout", {"spec": swallowed})
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with black_hole() as endpoint, place.operator("behind", env=keys | {"AWS_ENDPOINT_URL_S3": endpoint}):
        place.patch("shadowrollout", "rollout", {"metadata": {"annotations": {"sluice.dev/abort": "now"}}})
        until(lambda: route(place)["candidate_pct"] == 0, timeout_s=20, what="the rollback needs no storage")
        assert delete(place, "shadowrollout", "rollout") < BUDGET_S


@contextmanager
def black_hole():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
