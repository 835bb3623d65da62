"""The whole loop on the node: traces, dataset, RayJob, evaluation, scorecard, weights at the gateway, promotion.

Then a damaged candidate, forced past its scorecard, is taken back, and the alert fires in a real Prometheus.
"""

import time

import pytest
import yaml

import shop
import shoppers
from installation import ROOT
from prometheus_server import PrometheusServer
from site_view import conditions, reaching
from sluice_api.cohorts import candidate_cohorts, cohort_of

REQUESTS = 3000
"""Requests of one measurement of the share: at 5 % its 99.9 % interval is about 1.3 points either side."""
RATE = 6.0
"""Shoppers per second, a load that two cores serve beside everything else."""
WATCHED_S = 15.0
"""Seconds for which the gateway is asked on after an abort: three times as long as it may take."""
TENANTS = [f"tenant-{number}" for number in range(200)]
"""Keys that must stay with their arm."""
SEEDS = iter(range(200_000, 900_000, 50_000))
"""First seeds of the batches of shoppers."""


@pytest.fixture(scope="module")
def gateway(under_test, sluice):
    """The gateway's URL, once the users' Gateway is programmed."""
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "Same"}}}
    sluice.apply(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": "traefik", "listeners": [listener]},
        }
    )
    sluice.kubectl("wait", "gateway/public", "--for=condition=Programmed", "--timeout=60s", timeout_s=70.0)
    return under_test.gateway


@pytest.fixture(scope="module")
def prometheus(sluice, system, tmp_path_factory):
    """A Prometheus that scrapes the operator's pod and evaluates the chart's rules."""
    rules = yaml.safe_load((ROOT / "charts" / "sluice" / "monitoring" / "prometheusrule.yaml").read_text())["spec"]
    (pod,) = system.list("pods", labels="app.kubernetes.io/component=operator")
    with (
        reaching(system, pod, 8080) as target,
        PrometheusServer(tmp_path_factory.mktemp("prometheus"), target, rules) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def evaluated(trained, sluice):
    """Status of the evaluation of the trained candidate."""
    sluice.apply(*shop.example("evalrun.yaml"))
    status = sluice.until_phase("evalrun", "storefront-e1", "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert status["phase"] == "Succeeded", status
    return status


@pytest.fixture(scope="module")
def passed(evaluated, sluice):
    """Status of the offline scorecard."""
    sluice.apply(*shop.example("promotionscorecard.yaml"))
    sluice.until(
        lambda: sluice.status("promotionscorecard", "storefront-offline").get("verdict"),
        wish="a verdict",
        timeout_s=120,
    )
    return sluice.status("promotionscorecard", "storefront-offline")


def serve_candidate(sluice, storage, base, adapter):
    """Let the candidate's deployment serve an adapter."""
    shop.point("candidate", base, adapter)
    sluice.apply(*shop.agent(storage, "candidate", "candidate", replicas=1))
    sluice.kubectl("rollout", "restart", "deployment/agent-candidate")
    shop.await_ready(sluice, "agent-candidate")


def pause(sluice, name, paused):
    """Hold a rollout where it is, or let it go on."""
    sluice.patch("shadowrollout", name, {"spec": {"paused": paused}})


def until_weight(sluice, name, weight, *, timeout_s=900):
    """Wait until the gateway has accepted a weight."""

    def told():
        status = sluice.status("shadowrollout", name)
        return f"{status.get('phase')} {status.get('reason')}: {status.get('message')}"

    def there():
        status = sluice.status("shadowrollout", name)
        assert not status.get("outcome") or weight == 100, told()
        return (status.get("weight") or {}).get("actual") == weight

    sluice.until(there, wish=f"{name} has weight {weight}", timeout_s=timeout_s, told=told)


def assert_keys_stick(gateway, sluice, weight):
    """Check that each key is served by the arm of its cohort, however often it comes."""
    rollout = sluice.get("shadowrollout", "storefront")
    served = candidate_cohorts(weight, rollout["metadata"]["uid"])
    expected = {key: "candidate" if cohort_of(key) in served else "baseline" for key in TENANTS}
    for _ in range(3):
        assert shoppers.arms_of(gateway, TENANTS, header=rollout["spec"]["traffic"]["cohortHeader"]) == expected


def test_the_candidate_is_better_than_the_champion_on_the_same_tasks(evaluated):
    assert evaluated["comparison"]["verdict"] == "Better", evaluated
    assert evaluated["summary"]["passRate"] > evaluated["baselineSummary"]["passRate"]


def test_the_scorecard_passes_it(passed):
    assert passed["verdict"] == "Pass", passed


def test_traffic_climbs_at_the_gateway_as_measured_and_the_candidate_is_promoted(
    gateway, passed, trained, sluice, storage, base
):
    sluice.delete("shadowrollout", "storefront")
    shop.point("stable", base, None)
    serve_candidate(sluice, storage, base, trained["adapter"])
    sluice.apply(*shop.example("shadowrollout.yaml"))
    with shoppers.shopping(gateway, per_second=RATE, first_seed=next(SEEDS)):
        for weight in (5, 25, 100):
            until_weight(sluice, "storefront", weight)
            pause(sluice, "storefront", True)
            sluice.until_phase("shadowrollout", "storefront", "Paused", timeout_s=60)
            if weight == 100:
                # Of all requests not one may be missing, so not those either that the data plane had not heard in time.
                sluice.until(
                    lambda: shoppers.measure(gateway, requests=50).candidate == 50,
                    wish="the gateway has taken up the weight",
                    timeout_s=30,
                )
            share = shoppers.measure(gateway, requests=REQUESTS)
            assert share.failed == 0
            assert share.fits(weight), (weight, share.interval)
            assert_keys_stick(gateway, sluice, weight)
            pause(sluice, "storefront", False)
        status = sluice.until_phase("shadowrollout", "storefront", "Completed", "RolledBack", "Stalled", timeout_s=900)
    assert status["phase"] == "Completed", status
    assert shop.stable_digest() == trained["adapter"]["digest"]
    # Promoted is what the stable arm serves: the route rests with it, as it did before.
    assert status["weight"] == {"desired": 0, "actual": 0}
    share = shoppers.measure(gateway, requests=500)
    assert (share.candidate, share.failed) == (0, 0)
    sluice.until(
        lambda: shoppers.served_by(gateway, seed=next(SEEDS)) == trained["adapter"]["digest"],
        wish="the stable arm serves the promoted adapter",
        timeout_s=60,
    )


def test_an_aborted_rollout_is_at_zero_within_five_seconds_and_no_request_fails(
    gateway, trained, sluice, storage, base
):
    (manifest,) = shop.example("shadowrollout-forced.yaml")
    manifest["metadata"]["name"] = "aborted"
    manifest["spec"]["candidate"] = {"fineTuneRunRef": {"name": "storefront-a1"}}
    manifest["spec"]["stable"] = {"channel": "first", "root": shop.URI}
    shop.point("first", base, None)
    sluice.delete("shadowrollout", "storefront")
    sluice.apply(manifest)
    until_weight(sluice, "aborted", 5, timeout_s=60)
    with shoppers.streaming(gateway) as stream:
        sluice.until(lambda: stream.last("candidate"), wish="the candidate answers", timeout_s=60)
        asked = time.monotonic()
        sluice.kubectl("annotate", "shadowrollout", "aborted", "sluice.dev/abort=now")
        sluice.until_phase("shadowrollout", "aborted", "RolledBack", timeout_s=30)
        sluice.until(lambda: time.monotonic() > asked + WATCHED_S, wish="the gateway was watched for long enough")
    assert stream.failed() == 0
    assert stream.last("candidate") - asked < 5.0
    assert sum(at > asked + 5.0 for at, _ in stream.seen) > 100
    sluice.delete("shadowrollout", "aborted")


def test_a_damaged_candidate_is_taken_back_and_the_alert_fires(gateway, prometheus, trained, sluice, storage, base):
    status = sluice.until_phase("finetunerun", "storefront-damaged", "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert status["phase"] == "Succeeded", status
    before = shop.stable_digest()
    sluice.delete("shadowrollout", "storefront-forced")
    serve_candidate(sluice, storage, base, status["adapter"])
    sluice.apply(*shop.example("shadowrollout-forced.yaml"))
    with (
        shoppers.shopping(gateway, per_second=RATE, first_seed=next(SEEDS)),
        shoppers.streaming(gateway, every_s=0.05) as stream,
    ):
        status = sluice.until_phase(
            "shadowrollout", "storefront-forced", "RolledBack", "Completed", "Stalled", timeout_s=900
        )
    assert status["phase"] == "RolledBack", status
    assert conditions(status)["RolledBack"]["status"] == "True"
    assert stream.failed() == 0
    assert shop.stable_digest() == before
    share = shoppers.measure(gateway, requests=300)
    assert (share.candidate, share.failed) == (0, 0)
    sluice.until(
        lambda: [
            each for each in prometheus.firing("SluiceRolledBack") if each["labels"]["name"] == "storefront-forced"
        ],
        wish="the alert SluiceRolledBack fires",
        timeout_s=150,
        told=lambda: str(prometheus.query("sluice_rollout_phase == 1")),
    )


def test_the_operators_rollouts_show_in_its_metrics(prometheus, sluice):
    sluice.until(lambda: prometheus.value('max(up{job="sluice-operator"})') == 1, wish="the operator is scraped")

    def names():
        return {each["metric"]["name"] for each in prometheus.query("sluice_rollout_phase")}

    sluice.until(lambda: "storefront-forced" in names(), wish="the rollout shows", timeout_s=60, told=names)
