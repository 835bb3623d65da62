"""Rollouts of real traffic on a real API server: each kind of candidate ends as it should, whatever happens on the way.

The agent, its traces, the analysis, the routers and the operator are the real ones. Nobody's edit and no crash may ever
leave weight on a candidate that has not earned it.
"""

import json
import random
import re
import threading
from contextlib import ExitStack

import pytest

from agent_traffic import Agent
from faultproxy import FaultProxy
from manifests_for_tests import STABLE_DIGEST, chain, rollout
from operators import proxied, until
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.models import Channel
from sluice_artifacts import move_channel, read_channel
from sluice_devcluster.kubeconfig import read_ca, read_cluster
from weight_killer import WeightKiller

LIVE = {
    "steps": [{"weight": 50, "soak": "2s", "minRuns": 30}, {"weight": 100, "soak": "3s", "minRuns": 30}],
    "profile": "live",
}
QUIET = {"steps": [{"weight": 25, "soak": "10m", "minRuns": 5}, {"weight": 100}]}


def channelled(place, name, **spec):
    """A rollout of its own channel, whose stable weights are the common ones."""
    model = ModelRef(uri=place.uri + "base/", digest=STABLE_DIGEST)
    move_channel(place.uri, Channel(name=name, digest=STABLE_DIGEST, base_model=model, changed_by="init"), etag=None)
    return rollout(place.uri, name, stable={"channel": name, "root": place.uri}, **spec)


def live(place, name, **spec):
    """A rollout whose traffic is analysed for real every two seconds."""
    analysis = {
        "source": {"uri": f"{place.uri}live/{name}/"},
        "interval": "2s",
        "maturity": "0s",
        "margin": 0.3,
        "maxDuration": "10m",
    }
    analysis |= spec.pop("analysis", {})
    return channelled(place, name, **LIVE, analysis=analysis, **spec)


def document(place, name):
    raw = place.get("configmap", f"{name}-router")
    return json.loads(raw["data"]["rollout.json"]) if raw is not None else None


def share(place, name):
    """The candidate's share that agents are told, 0 where there is no route."""
    found = document(place, name)
    return found["candidate_pct"] if found is not None else 0.0


def serving(place, name):
    channel, _ = read_channel(place.uri, name)
    return channel


def events(place, name):
    found = place.admin.get(place.namespace, "Event")["items"]
    return [event["reason"] for event in found if event["involvedObject"]["name"] == name]


@pytest.fixture(scope="module")
def proved(site):
    """A site with an operator and a candidate whose offline scorecard passes."""
    site.profiles(live={"FAST_SHADOW": "analyze"}, undecided={"FAST_SCORECARD": "Inconclusive"})
    with site.operator():
        site.apply(*chain(site.uri)[:4])
        site.wait_phase("promotionscorecard", "card", "Passed")
        yield site


def by_step(first, last):
    """A candidate that does otherwise once it serves everything."""
    return lambda document: last if document.candidate_pct == 100 else first


CANDIDATES = {
    "good": (lambda _: 0.02, ("Completed", "Promoted")),
    "equal": (lambda _: 0.1, ("Completed", "Promoted")),
    "worse": (lambda _: 0.7, ("RolledBack", "Harm")),
    "silent": (lambda _: None, ("RolledBack", "Inconclusive")),
    "flapping": (by_step(0.02, 0.8), ("RolledBack", "Harm")),
}


def test_every_candidate_ends_as_it_should(proved):
    roll_out_all(proved)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_every_candidate_ends_as_it_should_whenever_the_operator_dies(place, seed):
    place.profiles(live={"FAST_SHADOW": "analyze"})
    operator, rng, end = place.operator(), random.Random(seed), threading.Event()
    operator.start()
    place.apply(*chain(place.uri)[:4])
    place.wait_phase("promotionscorecard", "card", "Passed")

    def die_now_and_then() -> None:
        while not end.wait(rng.uniform(0.3, 6.0)):
            operator.kill()
            operator.start(wait=False)

    killer = threading.Thread(target=die_now_and_then)
    killer.start()
    try:
        roll_out_all(place, timeout_s=600)
    finally:
        end.set()
        killer.join()
        operator.kill()
    assert operator.starts > 5
    assert len(place.jobs()) == len(set(place.jobs()))


def roll_out_all(place, timeout_s=150):
    """Roll every candidate out at once, each to its own agent, and check how each ends."""
    adapter = place.status("finetunerun", "run")["adapter"]["digest"]
    with ExitStack() as stack:
        agents = {
            name: stack.enter_context(
                Agent(place.kubeconfig, place.namespace, f"{name}-router", f"{place.uri}live/{name}/", rate)
            )
            for name, (rate, _) in CANDIDATES.items()
        }
        for name in CANDIDATES:
            options = {"onInconclusive": "Rollback", "analysis": {"maxDuration": "15s"}} if name == "silent" else {}
            place.apply(live(place, name, **options))
        phases = ("Completed", "RolledBack")
        ends = {name: place.wait_phase("shadowrollout", name, *phases, timeout_s=timeout_s) for name in CANDIDATES}
        until(lambda: all(agent.seen[-1] == 0 for agent in agents.values()), what="every agent follows the end")
    for name, (_, expected) in CANDIDATES.items():
        status = ends[name]
        assert (status["phase"], status["reason"]) == expected, (name, status["message"])
        promoted = expected[0] == "Completed"
        assert serving(place, name).digest == (adapter if promoted else STABLE_DIGEST)
        assert share(place, name) == 0
        raised = [weight for weight in agents[name].seen if weight]
        assert raised == ([50.0, 100.0] if promoted or name == "flapping" else [50.0]), name
    assert serving(place, "good").last_good == STABLE_DIGEST
    assert re.search(r"\d+ of \d+ candidate runs escalated", ends["worse"]["message"])
    assert ends["silent"]["evidence"]["verdict"] == "NoData"


# Edits while a candidate has a quarter of the traffic


def at_a_quarter(place, *names):
    place.apply(*(channelled(place, name, **QUIET) for name in names))
    for name in names:
        until(lambda name=name: place.status("shadowrollout", name).get("stepStartedAt"), what=f"{name} is at 25 %")
        assert share(place, name) == 25


def starts_anew(place, name, salt=None):
    """The second round has begun; the candidate is at the first weight again."""
    until(lambda: place.status("shadowrollout", name).get("round") == 2, what=f"{name} starts again")
    until(lambda: place.status("shadowrollout", name).get("stepStartedAt"), what=f"{name} is in force again")
    assert salt is None or document(place, name)["salt"] == salt


def test_a_config_map_that_somebody_edits_or_deletes_is_set_right(proved):
    at_a_quarter(proved, "edited")
    before = document(proved, "edited")
    forged = [{"salt": "mine"}, {"key": "tenant"}, {"candidate_pct": 90.0}, {"rollout": "another"}]
    forged.append(
        {"candidate": before["candidate"] | {"adapter": {"uri": "s3://evil/", "digest": "sha256:" + "6" * 64}}}
    )
    forged.append({"stable": before["stable"] | {"base_model": {"uri": "s3://evil/", "revision": "", "digest": None}}})
    for change in forged:
        text = json.dumps(before | change)
        proved.patch("configmap", "edited-router", {"data": {"rollout.json": text}})
        until(lambda: document(proved, "edited") == before, what=f"{list(change)} is undone")
    proved.kubectl("-n", proved.namespace, "delete", "configmap", "edited-router")
    until(lambda: document(proved, "edited") == before, what="the deleted route comes back")
    status = proved.status("shadowrollout", "edited")
    assert (status["round"], status["step"], status["weight"]["desired"]) == (1, 1, 25)
    assert "ForeignEdit" in events(proved, "edited")


def test_edits_of_the_rollout_start_it_again_from_zero(proved):
    change = {
        "salted": {"assignment": {"salt": "another", "key": "run"}},
        "stepped": {"steps": [{"weight": 30, "soak": "10m"}, {"weight": 100}]},
        "moved": {"traffic": {"router": "configMap", "configMap": "moved-elsewhere"}},
    }
    at_a_quarter(proved, *change)
    for name, spec in change.items():
        proved.patch("shadowrollout", name, {"spec": spec})
    for name in change:
        starts_anew(proved, name, salt={"salted": "another"}.get(name))
    assert share(proved, "stepped") == 30
    assert share(proved, "moved") == 0
    moved = json.loads(proved.get("configmap", "moved-elsewhere")["data"]["rollout.json"])
    assert moved["candidate_pct"] == 25


def test_a_candidate_that_goes_or_changes_keeps_no_weight_that_it_has_not_earned(proved):
    at_a_quarter(proved, "renamed")
    proved.patch("shadowrollout", "renamed", {"spec": {"candidate": {"fineTuneRunRef": {"name": "absent"}}}})
    until(lambda: share(proved, "renamed") == 0, what="another candidate starts from 0")
    proved.wait_phase("shadowrollout", "renamed", "Stalled")

    proved.patch("shadowrollout", "renamed", {"spec": {"candidate": {"fineTuneRunRef": {"name": "run"}}}})
    starts_anew(proved, "renamed")
    assert share(proved, "renamed") == 25


def test_step_scorecards_that_go_or_say_nothing_raise_no_weight(proved):
    steps = [{"weight": 25, "soak": "1s", "minRuns": 5}, {"weight": 100}]
    proved.apply(channelled(proved, "judged", steps=steps, profile="undecided", analysis=analysis_of(proved)))
    first = until(lambda: proved.status("shadowrollout", "judged").get("scorecards"), what="a step scorecard")[0]
    proved.kubectl("-n", proved.namespace, "delete", "promotionscorecard", first["name"], "--timeout=30s")
    until(lambda: len(proved.status("shadowrollout", "judged")["scorecards"]) > 1, what="another one follows")
    proved.patch("promotionscorecard", "card", {"status": {"verdict": "Fail"}}, "--subresource=status")
    status = proved.status("shadowrollout", "judged")
    assert (status["step"], status["weight"]["desired"], share(proved, "judged")) == (1, 25, 25)
    proved.patch("shadowrollout", "judged", {"metadata": {"annotations": {"sluice.dev/abort": "enough"}}})
    until(lambda: share(proved, "judged") == 0, what="the abort is followed")
    proved.patch("promotionscorecard", "card", {"status": {"verdict": "Pass"}}, "--subresource=status")


def poke(place, name):
    """Wake the operator: it looks at a channel within half a minute by itself."""
    place.patch("shadowrollout", name, {"metadata": {"annotations": {"example.com/poke": "1"}}})


def test_of_two_rollouts_for_one_channel_one_has_weight_and_the_other_waits(proved):
    first = channelled(proved, "first", **QUIET)
    second = first | {"metadata": {"name": "second"}}
    proved.apply(first, second)
    names = ("first", "second")
    until(lambda: sum(share(proved, name) for name in names) == 25, what="one of both starts")
    started, waiting = sorted(names, key=lambda name: -share(proved, name))
    until(lambda: proved.status("shadowrollout", waiting).get("reason") == "TargetBusy", what="the other waits")
    assert f"{proved.namespace}/{started}" in proved.status("shadowrollout", waiting)["message"]

    proved.patch("shadowrollout", started, {"metadata": {"annotations": {"sluice.dev/abort": "enough"}}})
    proved.wait_phase("shadowrollout", started, "RolledBack")
    until(lambda: share(proved, waiting) == 25, what="the other goes on")
    assert share(proved, started) == 0

    channel, etag = read_channel(proved.uri, "first")
    other = "sha256:" + "9" * 64
    move_channel(proved.uri, channel.model_copy(update={"digest": other, "changed_by": "somebody"}), etag=etag)
    poke(proved, waiting)
    status = proved.wait_phase("shadowrollout", waiting, "Superseded")
    assert (status["reason"], share(proved, waiting)) == ("StableChanged", 0)
    assert document(proved, waiting)["stable"]["digest"] == other


# Kills at every weight change


@pytest.mark.parametrize(
    ("verdict", "end", "kills"),
    [
        # The chain's own test kills at each of these writes too, and at every other one.
        pytest.param("NonInferior", "Completed", 10, marks=pytest.mark.soak),
        ("Harm", "RolledBack", 5),
    ],
)
def test_killing_the_operator_at_every_weight_change_ends_alike(place, cluster, tmp_path, verdict, end, kills):
    _, entry = read_cluster(cluster.kubeconfig)
    place.profiles(shown={"FAST_SHADOW": verdict})
    with FaultProxy(entry["server"], read_ca(cluster.kubeconfig, entry)) as proxy:
        kubeconfig = proxied(place.kubeconfig, proxy.url, tmp_path / "proxied.kubeconfig")
        operator = place.operator("victim", kubeconfig=kubeconfig)
        operator.start()
        place.apply(*chain(place.uri)[:4])
        place.wait_phase("promotionscorecard", "card", "Passed")
        killer = WeightKiller(operator)
        proxy.plan.before, proxy.plan.after = killer.before, killer.after
        shares = []
        place.apply(rollout(place.uri, profile="shown", analysis=analysis_of(place)))

        def ended() -> bool:
            if killer.dead.is_set():
                operator.kill()
                killer.dead.clear()
                operator.start(wait=False)
            found = share(place, "rollout")
            if not shares or shares[-1] != found:
                shares.append(found)
            return place.phase("shadowrollout", "rollout") == end

        until(ended, timeout_s=200, what=f"the rollout is {end} in spite of the kills", every_s=0.02)
        operator.kill()
    assert killer.kills >= kills
    assert shares == ([0.0, 10.0, 100.0, 0.0] if end == "Completed" else [0.0, 10.0, 0.0])
    adapter = place.status("finetunerun", "run")["adapter"]["digest"]
    assert serving(place, "stable").digest == (adapter if end == "Completed" else STABLE_DIGEST)
    status = place.status("shadowrollout", "rollout")
    assert (status["round"], status["weight"]) == (1, {"desired": 0, "actual": 0})
    assert len(place.jobs()) == len(set(place.jobs()))


def analysis_of(place):
    return {"source": {"uri": place.uri + "traces/"}, "interval": "2s", "maturity": "0s", "maxDuration": "10m"}
