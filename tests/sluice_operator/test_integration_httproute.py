"""HTTPRoutes on a real API server with the Gateway API's own CRD: shared, taken over, adopted, mirrored."""

import asyncio
import json

import pytest
import yaml

from faultproxy import FaultProxy
from manifests_for_tests import STABLE_DIGEST, chain, rollout
from operators import await_crds, proxied, until
from sluice_api.cohorts import candidate_cohorts
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_devcluster.gotools import gateway_api_crds
from sluice_devcluster.kubeconfig import read_ca, read_cluster
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, SetRoute
from sluice_operator.errors import ConflictError, ForeignObjectError, InvalidError
from sluice_operator.manifests.httproute import http_route_name
from sluice_operator.resources import HTTP_ROUTE, MODELS
from sluice_operator.routers.httproute import HTTPRouteRouter
from weight_killer import WeightKiller

HTTP_ROUTES = "httproutes.gateway.networking.k8s.io"
CANDIDATE_DIGEST = "sha256:" + "2" * 64
STABLE_SERVICE, CANDIDATE_SERVICE = {"service": "agent-stable", "port": 8000}, {"service": "agent-new", "port": 8000}
OWN = {
    "router": "httpRoute",
    "parentRefs": [{"name": "gateway"}],
    "hostnames": ["agent.example"],
    "stable": STABLE_SERVICE,
    "candidate": CANDIDATE_SERVICE,
}
ADOPT = {"router": "httpRoute", "adopt": "shop", "stable": STABLE_SERVICE, "candidate": CANDIDATE_SERVICE}


@pytest.fixture(scope="module")
def http_routes(kubectl):
    """The Gateway API's CRD of HTTPRoutes."""
    name = "gateway.networking.k8s.io_httproutes.yaml"
    kubectl("apply", "--server-side", "-f", str(next(path for path in gateway_api_crds() if path.name == name)))
    await_crds(kubectl, HTTP_ROUTES)


@pytest.fixture
async def api(place, http_routes, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(place.kubeconfig))
    cluster = await Cluster.connect()
    yield cluster
    await cluster.close()
    await asyncio.sleep(0.05)


def channel(digest, uri):
    ref = ArtifactRef(uri=uri, digest=digest)
    return Channel(name="stable", digest=digest, base_model=ModelRef(uri=uri, digest=digest), adapter=ref)


def applied(place, name, traffic):
    """Apply a rollout; return it as the operator reads it."""
    place.apply(rollout(place.uri, name, traffic=traffic))
    return MODELS["ShadowRollout"].model_validate(place.get("shadowrollout", name))


def weights(place, name):
    """Return the weights of every rule of a route."""
    spec = (place.get("httproute", name) or {"spec": {}})["spec"]
    return [[ref["weight"] for ref in rule.get("backendRefs", [])] for rule in spec.get("rules", [])]


def to(place, weight, *, candidate=CANDIDATE_DIGEST, mirror=0):
    """Return the route with a weight."""
    served = channel(candidate, place.uri) if candidate else None
    return SetRoute(weight=weight, stable=channel(STABLE_DIGEST, place.uri), candidate=served, mirror=mirror)


async def test_rollouts_of_one_host_share_one_route_one_after_the_other(place, api):
    first, second = applied(place, "first", OWN), applied(place, "second", OWN)
    elsewhere = applied(place, "elsewhere", OWN | {"hostnames": ["other.example"]})
    name, router = http_route_name(first), HTTPRouteRouter(api)
    assert http_route_name(second) == name != http_route_name(elsewhere)

    await router.write(first, to(place, 25))
    assert (await router.read(second)).problem is RouterProblem.CONFLICT
    with pytest.raises(ForeignObjectError):
        await router.write(second, to(place, 5))

    await router.write(first, to(place, 0))
    assert not (await router.read(second)).exists
    await router.write(second, to(place, 5))
    view = await router.read(second)
    assert (view.weight, view.candidate_digest, view.problem) == (5, CANDIDATE_DIGEST, RouterProblem.NOT_ACCEPTED)
    assert weights(place, name) == [[95, 5]]
    assert (await router.read(first)).problem is RouterProblem.CONFLICT

    await router.write(second, to(place, 0, candidate=""))
    view = await router.read(second)
    assert (view.weight, view.candidate_digest, view.problem) == (0, "", RouterProblem.NOT_ACCEPTED)
    assert weights(place, name) == [[100]]


def arms_by_cohort(spec, header):
    """Return who serves each cohort, by the matches of a route."""
    arms = {}
    for rule in spec["rules"]:
        for match in rule["matches"]:
            for named in match.get("headers", ()):
                assert (named["type"], named["name"]) == ("Exact", header)
                assert len(rule["matches"]) <= 64
                arms[int(named["value"])] = rule["backendRefs"][0]["name"]
    return arms


@pytest.mark.parametrize("salt", ["", "checkout"])
async def test_cohorts_stay_with_their_arm_and_the_weight_says_how_many_go(place, api, salt):
    place.apply(
        rollout(
            place.uri, "sticky", traffic=OWN | {"cohortHeader": "X-Cohort"}, assignment={"key": "run", "salt": salt}
        )
    )
    sticky = MODELS["ShadowRollout"].model_validate(place.get("shadowrollout", "sticky"))
    router, name = HTTPRouteRouter(api), http_route_name(sticky)
    before = set()
    for weight, rules in ((1, 4), (36, 3), (80, 4), (99, 4)):
        await router.write(sticky, to(place, weight))
        view = await router.read(sticky)
        assert (view.weight, view.problem) == (weight, RouterProblem.NOT_ACCEPTED)
        spec = place.get("httproute", name)["spec"]
        assert [ref["weight"] for ref in spec["rules"][0]["backendRefs"]] == [100 - weight, weight]
        assert len(spec["rules"]) == rules
        arms = arms_by_cohort(spec, "X-Cohort")
        served = {cohort for cohort, arm in arms.items() if arm == CANDIDATE_SERVICE["service"]}
        assert set(arms) == set(range(100))
        assert served == candidate_cohorts(weight, salt or sticky.uid)
        assert before < served
        before = served
    for weight in (100, 0):
        await router.write(sticky, to(place, weight))
        assert (await router.read(sticky)).problem is RouterProblem.NOT_ACCEPTED
        assert weights(place, name) == [[100 - weight, weight]]
    second = applied(place, "second", OWN)
    assert not (await router.read(second)).exists


async def test_a_cohort_that_somebody_sends_elsewhere_is_a_foreign_edit(place, api):
    sticky = applied(place, "sticky", OWN | {"cohortHeader": "X-Cohort"})
    router = HTTPRouteRouter(api)
    await router.write(sticky, to(place, 5))
    spec = place.get("httproute", http_route_name(sticky))["spec"]
    spec["rules"][1]["matches"].pop()
    place.kubectl(
        *("-n", place.namespace, "patch", "httproute", http_route_name(sticky)),
        *("--type=merge", "-p", json.dumps({"spec": {"rules": spec["rules"]}})),
    )
    view = await router.read(sticky)
    assert (view.weight, view.problem) == (5, RouterProblem.FOREIGN_EDIT)


async def test_deleting_a_rollout_never_takes_the_route_of_production_along(place, api):
    first = applied(place, "first", OWN)
    await HTTPRouteRouter(api).write(first, to(place, 0))
    place.kubectl("-n", place.namespace, "delete", "shadowrollout", "first", "--timeout=20s")
    raw = await api.get(HTTP_ROUTE, place.namespace, http_route_name(first))
    assert raw is not None
    assert "ownerReferences" not in raw["metadata"]
    second = applied(place, "second", OWN)
    assert not (await HTTPRouteRouter(api).read(second)).exists


async def test_a_take_over_is_bound_to_what_was_read(place, api):
    first = applied(place, "first", OWN)
    router = HTTPRouteRouter(api)
    await router.write(first, to(place, 0))
    seen = await api.get(HTTP_ROUTE, place.namespace, http_route_name(first))
    await router.write(first, to(place, 5))
    with pytest.raises(ConflictError):
        await api.take_over(seen, {"metadata": {"labels": {}}, "spec": seen["spec"]})
    assert (await router.read(first)).weight == 5


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec["rules"][0]["backendRefs"][1].update(weight=90),
        lambda spec: spec["rules"][0]["backendRefs"].append({"name": "third", "port": 80, "weight": 1}),
        lambda spec: spec["rules"][0]["backendRefs"].pop(),
        lambda spec: spec["rules"].append({"backendRefs": [{"name": "agent-new", "port": 8000}]}),
        lambda spec: spec["rules"][0].update(matches=[{"path": {"type": "PathPrefix", "value": "/only"}}]),
        lambda spec: spec.update(hostnames=["hijacked.example"]),
        lambda spec: spec["rules"][0].update(
            filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "agent-new", "port": 8000}}}]
        ),
    ],
)
async def test_any_edit_of_our_route_is_seen_and_undone(place, api, edit):
    obj, router = applied(place, "first", OWN), HTTPRouteRouter(api)
    await router.write(obj, to(place, 25))
    name = http_route_name(obj)
    spec = place.get("httproute", name)["spec"]
    edit(spec)
    place.patch("httproute", name, {"spec": spec})
    assert (await router.read(obj)).problem is RouterProblem.FOREIGN_EDIT
    await router.write(obj, to(place, 25))
    assert (await router.read(obj)).problem is RouterProblem.NOT_ACCEPTED
    assert weights(place, name) == [[75, 25]]


async def test_a_mirror_step_copies_requests_and_marks_them_dry(place, api):
    obj, router = applied(place, "first", OWN), HTTPRouteRouter(api)
    await router.write(obj, to(place, 0, mirror=10))
    view = await router.read(obj)
    assert (view.weight, view.mirror, view.problem) == (0, 10, RouterProblem.NOT_ACCEPTED)
    mark, mirror = place.get("httproute", http_route_name(obj))["spec"]["rules"][0]["filters"]
    assert mark["requestHeaderModifier"]["set"] == [{"name": "X-Sluice-Dry-Run", "value": "candidate"}]
    assert (mirror["requestMirror"]["percent"], mirror["requestMirror"]["backendRef"]["name"]) == (10, "agent-new")
    assert (await router.read(applied(place, "second", OWN))).problem is RouterProblem.CONFLICT
    await router.write(obj, to(place, 5))
    view = await router.read(obj)
    assert (view.weight, view.mirror) == (5, 0)


def shop(*rules):
    """A route that somebody keeps in Git."""
    spec = {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": refs} for refs in rules]}
    return {"apiVersion": HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": {"name": "shop"}, "spec": spec}


def ref(name, weight=None):
    base = {"name": name, "port": 8000}
    return base if weight is None else base | {"weight": weight}


async def test_an_adopted_route_gets_its_weights_patched_and_nothing_else(place, api):
    text = yaml.safe_dump(
        shop([ref("agent-stable", 100), ref("agent-new", 0)], [ref("static", 1)])
        | {"metadata": {"name": "shop", "annotations": {"team": "shop"}}}
    )
    place.kubectl("-n", place.namespace, "apply", "-f", "-", input=text)
    obj, other, router = applied(place, "first", ADOPT), applied(place, "second", ADOPT), HTTPRouteRouter(api)
    assert not (await router.read(obj)).exists
    await router.write(obj, to(place, 25))
    assert weights(place, "shop") == [[75, 25], [1]]
    view = await router.read(obj)
    assert (view.weight, view.candidate_digest, view.problem) == (25, CANDIDATE_DIGEST, RouterProblem.NOT_ACCEPTED)
    raw = place.get("httproute", "shop")
    assert raw["metadata"]["annotations"]["team"] == "shop"
    assert "sluice.dev/owner-uid" not in (raw["metadata"].get("labels") or {})
    assert (await router.read(other)).problem is RouterProblem.CONFLICT
    spec = raw["spec"]
    spec["rules"][0]["backendRefs"][0]["weight"], spec["rules"][0]["backendRefs"][1]["weight"] = 100, 0
    place.patch("httproute", "shop", {"spec": {"rules": spec["rules"]}})
    view = await router.read(obj)
    assert (view.weight, view.problem) == (0, RouterProblem.FOREIGN_EDIT)
    assert "somebody else set 0 %" in view.message
    await router.write(obj, to(place, 0))
    assert not (await router.read(other)).exists
    spec["rules"][0]["backendRefs"].append(ref("third", 5))
    spec["rules"][0]["backendRefs"][1]["weight"] = 40
    place.patch("httproute", "shop", {"spec": {"rules": spec["rules"]}})
    view = await router.read(obj)
    assert (view.weight, view.problem) == (40, RouterProblem.FOREIGN_EDIT)
    await router.write(obj, to(place, 0))
    assert weights(place, "shop") == [[100, 0, 5], [1]]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([[ref("agent-stable"), ref("agent-new")]], "explicit weights that add up to 100"),
        ([[ref("agent-stable", 100), ref("agent-new", 1)]], "explicit weights that add up to 100"),
        ([[ref("agent-stable", 50), ref("agent-new", 0), ref("third", 50)]], "alone"),
        ([[ref("agent-stable", 100)]], "no rule names agent-new"),
        ([[ref("agent-stable", 60), ref("agent-new", 40)]], "gives the candidate 40 %"),
        (None, "does not exist"),
    ],
)
async def test_a_route_that_cannot_be_adopted_is_refused_and_left_alone(place, api, rules, words):
    if rules is not None:
        place.kubectl("-n", place.namespace, "apply", "-f", "-", input=yaml.safe_dump(shop(*rules)))
    obj, router = applied(place, "first", ADOPT), HTTPRouteRouter(api)
    view = await router.read(obj)
    assert view.problem is RouterProblem.CONFLICT
    assert words in view.message
    if words != "gives the candidate 40 %":
        with pytest.raises(InvalidError):
            await router.write(obj, to(place, 5))


# With the operator


def follow(place, name):
    """Let the gateway accept the route at its present generation, as its controller would."""
    generation = place.get("httproute", name)["metadata"]["generation"]
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": kind,
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"}
    status = {"parents": [{"parentRef": parent, "controllerName": "example.com/gateway", "conditions": conditions}]}
    place.patch("httproute", name, {"status": status}, "--subresource=status")
    return generation


def in_force(place, name, route, weight):
    """Play the gateway until the rollout has the weight in force."""

    def reached():
        if place.get("httproute", route) is not None:
            follow(place, route)
        status = place.status("shadowrollout", name)
        return status.get("stepStartedAt") and status["weight"] == {"desired": weight, "actual": weight}

    until(reached, every_s=0.5, what=f"{name} is at {weight} %")


STEPS = [{"weight": 25, "soak": "10m"}, {"weight": 100}]


@pytest.fixture
def proved(place, http_routes):
    """A place with an operator and a candidate whose offline scorecard passes."""
    with place.operator():
        place.apply(*chain(place.uri)[:4])
        place.wait_phase("promotionscorecard", "card", "Passed")
        yield place


def test_foreign_hands_on_an_adopted_route_pause_the_rollout_or_end_it(proved):
    text = yaml.safe_dump(shop([ref("agent-stable", 100), ref("agent-new", 0)]))
    proved.kubectl("-n", proved.namespace, "apply", "-f", "-", input=text)
    proved.apply(rollout(proved.uri, traffic=ADOPT, steps=STEPS))
    in_force(proved, "rollout", "shop", 25)

    def set_weights(stable, candidate):
        rules = [{"backendRefs": [ref("agent-stable", stable), ref("agent-new", candidate)]}]
        proved.patch("httproute", "shop", {"spec": {"rules": rules}})

    set_weights(100, 0)
    status = proved.wait_phase("shadowrollout", "rollout", "Paused")
    assert (status["reason"], weights(proved, "shop")) == ("ForeignEdit", [[100, 0]])
    assert status["weight"] == {"desired": 25, "actual": 0}
    set_weights(75, 25)
    in_force(proved, "rollout", "shop", 25)
    set_weights(10, 90)
    status = proved.wait_phase("shadowrollout", "rollout", "RolledBack")
    assert (status["reason"], weights(proved, "shop")) == ("ForeignEdit", [[100, 0]])
    assert proved.get("httproute", "shop")["metadata"]["annotations"]["sluice.dev/weight"] == "0"


def test_a_rollout_behind_a_gateway_is_defended_and_gives_its_route_back(proved):
    proved.apply(rollout(proved.uri, traffic=OWN, steps=[{"weight": 0, "shadow": {"mirror": 10}}, *STEPS]))
    name = http_route_name(MODELS["ShadowRollout"].model_validate(proved.get("shadowrollout", "rollout")))
    in_force(proved, "rollout", name, 0)
    filters = proved.get("httproute", name)["spec"]["rules"][0]["filters"]
    assert [item["type"] for item in filters] == ["RequestHeaderModifier", "RequestMirror"]

    proved.patch("shadowrollout", "rollout", {"spec": {"steps": STEPS}})
    in_force(proved, "rollout", name, 25)
    assert "filters" not in proved.get("httproute", name)["spec"]["rules"][0]

    rules = [{"backendRefs": [ref("agent-stable", 1), ref("agent-new", 99)]}]
    proved.patch("httproute", name, {"spec": {"rules": rules}})
    until(lambda: weights(proved, name) == [[75, 25]], what="the foreign edit is undone")
    proved.kubectl("-n", proved.namespace, "delete", "httproute", name)
    until(lambda: weights(proved, name) == [[75, 25]], what="the route comes back")

    proved.kubectl("-n", proved.namespace, "delete", "shadowrollout", "rollout", "--timeout=30s")
    assert weights(proved, name) == [[100, 0]]


ADOPTED_STEPS = [{"weight": 10, "soak": "1s", "minRuns": 5}, {"weight": 100, "soak": "1s", "minRuns": 5}]


@pytest.mark.soak
@pytest.mark.parametrize("traffic", [OWN, ADOPT], ids=["own", "adopted"])
@pytest.mark.parametrize(("verdict", "end"), [("NonInferior", "Completed"), ("Harm", "RolledBack")])
def test_killing_the_operator_at_every_weight_change_of_a_route_ends_alike(
    place, http_routes, cluster, tmp_path, traffic, verdict, end
):
    _, entry = read_cluster(cluster.kubeconfig)
    place.profiles(shown={"FAST_SHADOW": verdict})
    text = yaml.safe_dump(shop([ref("agent-stable", 100), ref("agent-new", 0)]))
    place.kubectl("-n", place.namespace, "apply", "-f", "-", input=text)
    seen = []
    with FaultProxy(entry["server"], read_ca(cluster.kubeconfig, entry)) as proxy:
        operator = place.operator("victim", kubeconfig=proxied(place.kubeconfig, proxy.url, tmp_path / "proxied"))
        operator.start()
        place.apply(*chain(place.uri)[:4])
        place.wait_phase("promotionscorecard", "card", "Passed")
        killer = WeightKiller(operator)
        proxy.plan.before, proxy.plan.after = killer.before, killer.after
        analysis = {"source": {"uri": place.uri + "traces/"}, "interval": "2s", "maturity": "0s"}
        place.apply(rollout(place.uri, traffic=traffic, steps=ADOPTED_STEPS, profile="shown", analysis=analysis))
        name = http_route_name(MODELS["ShadowRollout"].model_validate(place.get("shadowrollout", "rollout")))

        def ended():
            if killer.dead.is_set():
                operator.kill()
                killer.dead.clear()
                operator.start(wait=False)
            if (place.get("httproute", name) or {}).get("spec", {}).get("parentRefs"):
                follow(place, name)
                found = weights(place, name)[0]
                if not seen or seen[-1] != found:
                    seen.append(found)
            return place.phase("shadowrollout", "rollout") == end

        until(ended, timeout_s=240, what=f"the rollout is {end} in spite of the kills", every_s=0.1)
        operator.kill()
    assert killer.kills >= 5
    shares = [found[1] if len(found) > 1 else 0 for found in seen]
    assert all(sum(found) == 100 for found in seen)
    assert [share for place, share in enumerate(shares) if place == 0 or shares[place - 1] != share] in (
        [[0, 10, 100, 0], [10, 100, 0]] if end == "Completed" else [[0, 10, 0], [10, 0]]
    )
    assert place.status("shadowrollout", "rollout")["weight"] == {"desired": 0, "actual": 0}
