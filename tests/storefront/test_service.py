"""The agent's service on a real, tiny model: production by the router with a trace, evaluation by name without one."""

import json
from contextlib import ExitStack

import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer

from shop_models import make_base, publish_adapter
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.models import Channel
from sluice_api.contracts.trace import Trace
from sluice_artifacts import digest_tree, move_channel
from storefront.fleet import FleetConfig, request_of, run_fleet
from storefront.service import build, parser
from storefront.tasks import EVALUATION_SEEDS, make_task

ROLLOUT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Base model, an adapter, and the root whose stable channel names the base."""
    root = tmp_path_factory.mktemp("shop")
    base = make_base(root / "base")
    reference = ModelRef(uri=base.as_uri(), digest=digest_tree(base))
    channel = Channel(name="stable", digest=reference.digest, base_model=reference)
    move_channel(root.as_uri(), channel, etag=None)
    return root, reference, publish_adapter(base, root, seed=1)


def arm(reference, adapter=None):
    return {
        "digest": adapter.digest if adapter else reference.digest,
        "base_model": reference.model_dump(mode="json"),
        "adapter": adapter.model_dump(mode="json") if adapter else None,
    }


def rollout(shop, pct, candidate=None, key="run"):
    _, reference, adapter = shop
    return json.dumps(
        {
            "rollout": ROLLOUT,
            "step": 1,
            "candidate_pct": pct,
            "salt": "rollout-2026-05",
            "key": key,
            "stable": arm(reference),
            "candidate": candidate or arm(reference, adapter),
        }
    )


@pytest.fixture
async def start(shop, tmp_path, monkeypatch):
    """Starts the service; takes the router's document and the token."""
    with ExitStack() as stack:
        clients = []

        async def start(document=None, token=""):
            monkeypatch.setenv("SLUICE_API_TOKEN", token)
            file = tmp_path / "rollout.json"
            if document is not None:
                file.write_text(document)
            arguments = parser().parse_args(
                [
                    *("--root", shop[0].as_uri(), "--traces", str(tmp_path / "traces")),
                    *("--cache", str(tmp_path / "cache"), "--router-file", str(file), "--threads", "1"),
                ]
            )
            client = TestClient(TestServer(build(arguments, stack).application()))
            await client.start_server()
            clients.append(client)
            return client

        yield start
        for client in clients:
            await client.close()


async def predict(client, status=200, headers=None, **fields):
    response = await client.post("/v1/predict", json=request_of(5, 4) | fields, headers=headers or {})
    body = await response.json()
    assert response.status == status, body
    return body


def traces(tmp_path):
    files = sorted((tmp_path / "traces").rglob("*.json")) if (tmp_path / "traces").exists() else []
    return [Trace.model_validate_json(file.read_text()) for file in files]


async def test_production_leaves_a_trace_of_the_weights_that_served(start, shop, tmp_path):
    answer = await predict(await start())
    (trace,) = traces(tmp_path)
    assert trace.schema_version == 3
    assert (trace.run_id, trace.tenant_id, trace.variant, trace.rollout) == ("run-5", "tenant-1", "baseline", "")
    assert trace.model_digest == shop[1].digest
    assert trace.status == answer["status"] == "completed"
    assert trace.step_count == len(trace.steps) > 0
    assert trace.costs.total == pytest.approx(answer["cost"])
    assert answer["metrics"]["parser_validity"]["n"] > 0


async def test_an_evaluation_is_served_by_the_named_weights_and_leaves_no_trace(start, shop, tmp_path):
    client = await start(rollout(shop, 100))
    _, reference, adapter = shop
    for named in (arm(reference), arm(reference, adapter)):
        answer = await predict(client, model=named)
        assert answer["serving"]["digest"] == named["digest"]
        assert answer["serving"]["variant"] == ""
    assert traces(tmp_path) == []


@pytest.mark.parametrize(("pct", "variant"), [(100, "candidate"), (0, "baseline")])
async def test_the_router_decides_in_production(start, shop, tmp_path, pct, variant):
    await predict(await start(rollout(shop, pct)))
    (trace,) = traces(tmp_path)
    digest = shop[2].digest if variant == "candidate" else shop[1].digest
    assert (trace.variant, trace.rollout, trace.model_digest) == (variant, ROLLOUT, digest)


async def test_a_run_sticks_by_the_key_that_the_rollout_names(start, shop):
    client = await start(rollout(shop, 29, key="tenant"))
    for run, tenant, variant in (("a", "acme", "candidate"), ("b", "acme", "candidate"), ("a", "globex", "baseline")):
        answer = await predict(client, run_id=run, tenant_id=tenant)
        assert answer["serving"]["variant"] == variant


async def test_a_candidate_that_cannot_be_served_is_nobodys_evidence(start, shop, tmp_path):
    _, reference, _ = shop
    missing = {"uri": (tmp_path / "gone").as_uri() + "/", "digest": "sha256:" + "d" * 64}
    candidate = arm(reference) | {"digest": missing["digest"], "adapter": missing}
    await predict(await start(rollout(shop, 100, candidate)))
    (trace,) = traces(tmp_path)
    assert (trace.variant, trace.rollout, trace.model_digest) == ("", "", reference.digest)


async def test_named_weights_that_do_not_verify_are_refused(start, shop):
    _, reference, adapter = shop
    client = await start()
    wrong = arm(reference, adapter) | {"digest": "sha256:" + "e" * 64}
    assert "must be the same" in (await predict(client, 400, model=wrong))["error"]["message"]
    other = arm(reference.model_copy(update={"digest": "sha256:" + "f" * 64}), adapter)
    assert "base model" in (await predict(client, 400, model=other))["error"]["message"]
    foreign = arm(reference) | {"digest": "sha256:" + "1" * 64}
    assert "no adapter" in (await predict(client, 400, model=foreign))["error"]["message"]


async def test_a_token_is_asked_for_where_one_is_set(start):
    client = await start(token="secret")
    await predict(client, 401)
    await predict(client, 401, headers={"X-Sluice-Token": "guess"})
    await predict(client, headers={"X-Sluice-Token": "secret"})
    await predict(client, headers={"X-Mantis-Token": "secret"})


async def test_a_foreign_url_is_refused(start):
    assert "storefront://" in (await predict(await start(), 400, url="https://example.org"))["error"]["message"]


async def test_the_fleet_counts_what_it_sees(start, shop, tmp_path):
    client = await start(rollout(shop, 50))
    async with httpx.AsyncClient(trust_env=False, timeout=60) as shoppers:
        config = FleetConfig(url=str(client.make_url("/")), runs=20, concurrency=8, tenants=3, first_seed=100)
        report = await run_fleet(config, shoppers)
    found = traces(tmp_path)
    assert (report.runs, report.errors) == (20, 0)
    assert report.successes + report.escalated == 20
    assert {trace.run_id for trace in found} == {f"run-{seed}" for seed in range(100, 120)}
    assert {trace.tenant_id for trace in found} == {"tenant-0", "tenant-1", "tenant-2"}
    assert report.variants["candidate"] == sum(trace.variant == "candidate" for trace in found) > 0
    assert report.variants["baseline"] == sum(trace.variant == "baseline" for trace in found) > 0


async def test_a_fleet_without_an_agent_counts_errors():
    async with httpx.AsyncClient(trust_env=False, timeout=5) as shoppers:
        report = await run_fleet(FleetConfig(url="http://127.0.0.1:9", runs=3, rate=1000), shoppers)
    assert (report.runs, report.errors) == (0, 3)


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"rate": 0}, {"concurrency": 0}, {"tenants": 0}, {"first_seed": EVALUATION_SEEDS}]
)
def test_a_fleet_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FleetConfig(url="http://127.0.0.1:9", **wrong)


def test_a_request_follows_from_its_seed():
    assert request_of(7, 20) == request_of(7, 20)
    assert request_of(7, 20)["url"] == make_task(7).url
