"""The ConfigMap router on a real API server: rollouts of one agent come one after the other, never two at a time."""

import asyncio
import json

import pytest

from manifests_for_tests import STABLE_DIGEST, rollout
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, SetRoute
from sluice_operator.errors import ConflictError, ForeignObjectError
from sluice_operator.resources import CONFIG_MAP, MODELS
from sluice_operator.routers.configmap import ConfigMapRouter

SHARED = {"router": "configMap", "configMap": "agent-router"}


def channel(digest, uri):
    ref = ArtifactRef(uri=uri, digest=digest)
    return Channel(name="stable", digest=digest, base_model=ModelRef(uri=uri, digest=digest), adapter=ref)


@pytest.fixture
async def api(place, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(place.kubeconfig))
    cluster = await Cluster.connect()
    yield cluster
    await cluster.close()
    await asyncio.sleep(0.05)


def applied(place, name):
    """Apply a rollout that shares the agent's ConfigMap; return it as the operator reads it."""
    place.apply(rollout(place.uri, name, traffic=SHARED))
    return MODELS["ShadowRollout"].model_validate(place.get("shadowrollout", name))


async def test_an_idle_config_map_passes_from_one_rollout_to_the_next(place, api):
    first, second = applied(place, "first"), applied(place, "second")
    router, stable = ConfigMapRouter(api), channel(STABLE_DIGEST, place.uri)
    candidate = channel("sha256:" + "2" * 64, place.uri)

    await router.write(first, SetRoute(weight=25, stable=stable, candidate=candidate))
    assert (await router.read(second)).problem is RouterProblem.CONFLICT
    with pytest.raises(ForeignObjectError):
        await router.write(second, SetRoute(weight=5, stable=stable, candidate=candidate))

    await router.write(first, SetRoute(weight=0, stable=stable, candidate=None))
    assert not (await router.read(second)).exists
    await router.write(second, SetRoute(weight=5, stable=stable, candidate=candidate))
    assert ((await router.read(second)).weight, (await router.read(second)).verified) == (5, True)
    assert (await router.read(first)).problem is RouterProblem.CONFLICT

    raw = await api.get(CONFIG_MAP, place.namespace, "agent-router")
    assert [reference["uid"] for reference in raw["metadata"]["ownerReferences"]] == [second.uid]
    assert json.loads(raw["data"]["rollout.json"])["rollout"] == second.uid


async def test_a_take_over_is_bound_to_what_was_read(place, api):
    first, second = applied(place, "first"), applied(place, "second")
    router, stable = ConfigMapRouter(api), channel(STABLE_DIGEST, place.uri)
    await router.write(first, SetRoute(weight=0, stable=stable, candidate=None))
    seen = await api.get(CONFIG_MAP, place.namespace, "agent-router")
    await router.write(first, SetRoute(weight=5, stable=stable, candidate=channel("sha256:" + "2" * 64, place.uri)))
    manifest = {"metadata": {"labels": {}, "ownerReferences": []}, "data": {"rollout.json": "{}"}}
    with pytest.raises(ConflictError):
        await api.take_over(seen, manifest)
    assert (await router.read(first)).weight == 5
    assert second.uid not in json.dumps(await api.get(CONFIG_MAP, place.namespace, "agent-router"))


@pytest.mark.parametrize("weight", ["Infinity", "NaN", "1e999", "-1", "101", '"5"', "null", "5.5"])
async def test_a_weight_that_cannot_be_is_a_foreign_edit(weight, place, api):
    first = applied(place, "first")
    router, stable = ConfigMapRouter(api), channel(STABLE_DIGEST, place.uri)
    await router.write(first, SetRoute(weight=5, stable=stable, candidate=channel("sha256:" + "2" * 64, place.uri)))
    document = f'{{"rollout": "{first.uid}", "candidate_pct": {weight}}}'
    place.patch("configmap", "agent-router", {"data": {"rollout.json": document}})
    assert (await router.read(first)).problem is RouterProblem.FOREIGN_EDIT
