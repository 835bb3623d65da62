"""What happens to a cluster, to a route or to an operator must not change what the objects come to."""

import json
import os
import signal

import pytest

from faultproxy import FaultProxy
from manifests_for_tests import chain, dataset, rollout, run
from operators import proxied, until
from sluice_devcluster.kubeconfig import read_ca, read_cluster


@pytest.fixture
def proxy(cluster):
    """A proxy in front of the API server."""
    _, entry = read_cluster(cluster.kubeconfig)
    with FaultProxy(entry["server"], read_ca(cluster.kubeconfig, entry)) as result:
        yield result


def behind(place, proxy, tmp_path, **options):
    """Return an operator that talks through the proxy."""
    return place.operator(kubeconfig=proxied(place.kubeconfig, proxy.url, tmp_path / "proxied"), **options)


def test_of_two_operators_one_acts_and_the_other_takes_over(place):
    flags = ("--lease-duration", "3")
    first, second = place.operator("first", flags=flags), place.operator("second", flags=flags)
    with first, second.waiting():
        second.wait_for("held by first")
        place.apply(dataset(place.uri))
        place.wait_phase("tracedataset", "data", "Ready")
        assert "sluice_leader 1.0" in first.get("/metrics")[1]
        assert "sluice_leader 0.0" in second.get("/metrics")[1]
        assert second.get("/healthz")[0] == 200
        first.kill()
        second.wait_for("holding lease")
        place.patch("tracedataset", "data", {"metadata": {"annotations": {"sluice.dev/refresh": "again"}}})
        until(lambda: place.status("tracedataset", "data").get("attemptsTotal") == 2)
        assert len(place.jobs()) == len(set(place.jobs()))


def test_a_clean_exit_hands_the_lease_over_at_once(place):
    flags = ("--lease-duration", "60")
    first, second = place.operator("first", flags=flags), place.operator("second", flags=flags)
    with first, second.waiting():
        second.wait_for("held by first")
        assert first.stop() == 0
        second.wait_for("holding lease", timeout_s=30)


def test_an_operator_that_slept_past_its_lease_ends_without_a_write(place):
    flags = ("--lease-duration", "3")
    first, second = place.operator("first", flags=flags), place.operator("second", flags=flags)
    with first, second.waiting():
        second.wait_for("held by first")
        os.kill(first.pid, signal.SIGSTOP)
        second.wait_for("holding lease")
        place.apply(dataset(place.uri))
        place.wait_phase("tracedataset", "data", "Ready")
        before = place.get("tracedataset", "data")["metadata"]["resourceVersion"]
        os.kill(first.pid, signal.SIGCONT)
        until(lambda: not first.running(), what="the one that slept ends")
        assert first.stop() == 3
        assert place.get("tracedataset", "data")["metadata"]["resourceVersion"] == before


def test_an_api_server_that_fails_for_a_while_costs_time_only(place, proxy, tmp_path):
    with behind(place, proxy, tmp_path, flags=("--lease-duration", "600")) as operator:
        place.apply(dataset(place.uri))
        until(lambda: place.status("tracedataset", "data").get("attemptsTotal"))
        proxy.plan.down = True
        operator.wait_for("plays dead")
        place.apply(run(place.uri))
        proxy.plan.down = False
        place.wait_phase("finetunerun", "run", "Succeeded")
        assert operator.running()
        assert operator.starts == 1
        assert len(place.jobs()) == 2


@pytest.mark.parametrize("status", [409, 422, 500])
def test_a_refused_status_is_written_later_without_any_event(place, proxy, tmp_path, status):
    refused = []

    def refuse(write):
        if write.path.split("?")[0].endswith("/status") and len(refused) < 3:
            refused.append(write)
            return status
        return None

    proxy.plan.before = refuse
    with behind(place, proxy, tmp_path):
        place.apply(dataset(place.uri))
        place.wait_phase("tracedataset", "data", "Ready")
    assert len(refused) == 3
    assert len(place.jobs()) == 1


def test_a_lost_role_is_a_setback_and_no_end(place):
    with place.operator(flags=("--lease-duration", "600")) as operator:
        place.apply(dataset(place.uri))
        place.wait_phase("tracedataset", "data", "Ready")
        place.kubectl("-n", place.namespace, "delete", "rolebinding", "sluice-workload")
        place.apply(dataset(place.uri, historyLimit=3))
        operator.wait_for("check the operator's Role")
        assert operator.running()
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "sluice-workload", "namespace": place.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sluice-workload"},
            "subjects": [{"kind": "ServiceAccount", "name": "sluice-operator", "namespace": place.namespace}],
        }
        place.kubectl("apply", "-f", "-", input=json.dumps(binding))
        generation = place.get("tracedataset", "data")["metadata"]["generation"]
        until(lambda: place.status("tracedataset", "data").get("observedGeneration") == generation)
        place.wait_phase("tracedataset", "data", "Ready")


def promoted(place):
    """Bring a candidate to a passing scorecard."""
    place.apply(*chain(place.uri)[:4])
    place.wait_phase("promotionscorecard", "card", "Passed")


STEPS = [{"weight": 25, "soak": "10m", "minRuns": 5}, {"weight": 100}]


def weight(place, name="rollout"):
    return place.status("shadowrollout", name).get("weight", {}).get("actual")


def document(place, name):
    return json.loads(place.get("configmap", name)["data"]["rollout.json"])


def test_routes_are_defended_but_never_taken(place):
    with place.operator():
        promoted(place)
        stranger = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "taken", "namespace": place.namespace},
            "data": {"rollout.json": "mine"},
        }
        place.kubectl("apply", "-f", "-", input=json.dumps(stranger))
        taken = rollout(place.uri, "other", steps=STEPS, traffic={"router": "configMap", "configMap": "taken"})
        place.apply(taken)
        until(lambda: "taken" in place.status("shadowrollout", "other").get("message", ""), what="the conflict is told")
        assert place.get("configmap", "taken")["data"] == {"rollout.json": "mine"}
        assert weight(place, "other") in (0, None)
        place.kubectl("-n", place.namespace, "delete", "shadowrollout", "other", "--timeout=30s")
        assert place.get("configmap", "taken")["data"] == {"rollout.json": "mine"}

        place.apply(rollout(place.uri, steps=STEPS))
        until(lambda: weight(place) == 25)
        edited = document(place, "rollout-router") | {"candidate_pct": 90.0}
        place.patch("configmap", "rollout-router", {"data": {"rollout.json": json.dumps(edited)}})
        until(lambda: document(place, "rollout-router")["candidate_pct"] == 25.0, what="the foreign edit is undone")
        place.kubectl("-n", place.namespace, "delete", "configmap", "rollout-router")
        until(lambda: place.get("configmap", "rollout-router"), what="the deleted route comes back")
        assert document(place, "rollout-router")["candidate_pct"] == 25.0


def test_harm_brings_the_traffic_back(place):
    place.profiles()
    with place.operator():
        promoted(place)
        place.apply(rollout(place.uri, steps=STEPS))
        until(lambda: weight(place) == 25)
        place.patch("configmap", "sluice-profiles", {"data": {"cpu": json.dumps(place.profile(FAST_SHADOW="Harm"))}})
        status = place.wait_phase("shadowrollout", "rollout", "RolledBack")
        assert status["weight"] == {"desired": 0, "actual": 0}
        assert document(place, "rollout-router")["candidate_pct"] == 0.0
        events = place.admin.get(place.namespace, "Event")["items"]
        assert [
            event for event in events if event["type"] == "Warning" and event["involvedObject"]["name"] == "rollout"
        ]
