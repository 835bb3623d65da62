"""The model server on a real, tiny model: answers, batches, hot loading by digest, refusals."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from shop_models import make_base, publish_adapter
from sluice_api.chat import prompt_turns, to_messages
from sluice_artifacts import digest_tree, to_hex
from sluice_runtime.batching import BatchConfig, Batcher
from sluice_runtime.engine import BASE, GenerationRequest, TextEngine
from sluice_runtime.errors import AdapterError, ModelLoadError
from sluice_runtime.server import ModelServer
from storefront.environment import Storefront
from storefront.tasks import make_task


def messages(seed):
    return to_messages(prompt_turns(Storefront(make_task(seed)).intent(), 1280, 720))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("server") / "base")


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [publish_adapter(base, root, seed=seed) for seed in (1, 2)]


@pytest.fixture
async def client(base, tmp_path):
    server = ModelServer(
        TextEngine(base, threads=1),
        tmp_path,
        base_digest=digest_tree(base),
        batching=BatchConfig(max_batch=8, max_wait_s=0.02),
    )
    async with TestClient(TestServer(server.application())) as client:
        yield client


async def ask(client, task, model=BASE, **extra):
    response = await client.post(
        "/v1/chat/completions", json={"model": model, "messages": messages(task), "max_tokens": 12, **extra}
    )
    body = await response.json()
    assert response.status == 200, body
    return body["choices"][0]["message"]["content"]


async def load(client, ref, digest=None):
    response = await client.post(
        "/v1/load_lora_adapter", json={"lora_name": digest or ref.digest, "lora_path": ref.uri}
    )
    return response.status, await response.text()


async def test_an_answer_in_openais_shape(client):
    response = await client.post("/v1/chat/completions", json={"messages": messages(1), "max_tokens": 5})
    body = await response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert 1 <= usage["completion_tokens"] <= 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_many_at_once_get_what_each_gets_alone(client):
    alone = [await ask(client, seed) for seed in range(12)]
    together = await asyncio.gather(*(ask(client, seed) for seed in range(12)))
    assert together == alone
    assert len(set(alone)) > 1
    metrics = await (await client.get("/metrics")).text()
    counts = dict(line.split() for line in metrics.splitlines() if not line.startswith("#"))
    assert int(counts["sluice_server_answers_total"]) == 24
    assert int(counts["sluice_server_batches_total"]) < 24


async def test_adapters_are_loaded_while_it_serves_and_kept_apart(client, adapters):
    plain = [await ask(client, seed) for seed in range(6)]
    for ref in adapters:
        assert (await load(client, ref))[0] == 200
    assert (await load(client, adapters[0]))[0] == 200
    names = [BASE, *(ref.digest for ref in adapters)]
    listing = await (await client.get("/v1/models")).json()
    assert sorted(item["id"] for item in listing["data"]) == sorted(names)

    alone = {name: [await ask(client, seed, name) for seed in range(6)] for name in names}
    assert alone[BASE] == plain
    assert len({json.dumps(answers) for answers in alone.values()}) == 3
    mixed = await asyncio.gather(*(ask(client, seed, name) for seed in range(6) for name in names))
    assert mixed == [alone[name][seed] for seed in range(6) for name in names]


async def test_an_unloaded_adapter_is_gone_and_the_rest_as_before(client, adapters):
    plain = await ask(client, 3)
    for ref in adapters:
        await load(client, ref)
    second = await ask(client, 3, adapters[1].digest)
    for position, ref in enumerate(adapters):
        response = await client.post("/v1/unload_lora_adapter", json={"lora_name": ref.digest})
        assert response.status == 200
        gone = await client.post("/v1/chat/completions", json={"model": ref.digest, "messages": messages(1)})
        assert gone.status == 404
        assert await ask(client, 3) == plain
        if position == 0:
            assert await ask(client, 3, adapters[1].digest) == second
    again = await client.post("/v1/unload_lora_adapter", json={"lora_name": adapters[0].digest})
    assert again.status == 404


async def test_a_digest_that_does_not_verify_is_refused(client, adapters):
    status, text = await load(client, adapters[0], "sha256:" + "a" * 64)
    assert status == 400, text
    assert "a" * 8 in text
    listing = await (await client.get("/v1/models")).json()
    assert [item["id"] for item in listing["data"]] == [BASE]


async def test_tampered_weights_are_refused(client, base, tmp_path):
    ref = publish_adapter(base, tmp_path, seed=9)
    file = tmp_path / "adapters" / to_hex(ref.digest) / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert (await load(client, ref))[0] == 400


async def test_an_adapter_of_another_base_is_refused(client, base, tmp_path):
    ref = publish_adapter(base, tmp_path, seed=5, base_digest="sha256:" + "b" * 64)
    status, text = await load(client, ref)
    assert status == 400
    assert "base model" in text


async def test_a_missing_adapter_is_refused(client, tmp_path):
    response = await client.post(
        "/v1/load_lora_adapter",
        json={"lora_name": "sha256:" + "c" * 64, "lora_path": (tmp_path / "nowhere").as_uri() + "/"},
    )
    assert response.status == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": True}, "stream"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "exceed"),
    ],
)
async def test_a_bad_request_names_its_field(client, body, field):
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status == 400
    assert field in (await response.json())["error"]["message"]


async def test_a_body_that_is_no_json_is_refused(client):
    response = await client.post("/v1/chat/completions", data=b"{", headers={"Content-Type": "application/json"})
    assert response.status == 400


async def test_one_bad_request_does_not_fail_its_batch(client):
    good = [client.post("/v1/chat/completions", json={"messages": messages(s), "max_tokens": 4}) for s in range(3)]
    bad = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "word " * 2000}]})
    responses = await asyncio.gather(*good, bad)
    assert [response.status for response in responses] == [200, 200, 200, 400]


async def test_drawn_tokens_follow_their_seed(client):
    drawn = [await ask(client, 1, temperature=1.5, seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="not a model"):
        TextEngine(tmp_path, threads=1)


def test_the_engine_refuses_unknown_models_and_broken_adapters(base, tmp_path):
    engine = TextEngine(base, threads=1)
    request = GenerationRequest(messages=messages(1), max_tokens=3)
    with pytest.raises(AdapterError, match="not loaded"):
        engine.generate("sha256:nowhere", [request])
    with pytest.raises(AdapterError, match="does not load"):
        engine.load_adapter("x", tmp_path)
    assert engine.adapters == []
    assert engine.generate(BASE, [request])[0].completion_tokens >= 1


class SlowEngine:
    """Records its batches; every generation waits until it is let go."""

    def __init__(self):
        self.batches = []

    adapters: tuple[str, ...] = ()

    def load_adapter(self, name: str, directory: Path) -> None:
        raise AssertionError("never called")

    def unload_adapter(self, name: str) -> bool:
        raise AssertionError("never called")

    def generate(self, model, requests):
        self.batches.append((model, len(requests)))
        return list(requests)


async def test_batches_hold_one_model_and_no_more_than_allowed():
    engine = SlowEngine()
    batcher = Batcher(engine, BatchConfig(max_batch=4, max_wait_s=0.01))
    await batcher.start()
    request = GenerationRequest(messages=[{"role": "user", "content": "x"}])
    answers = await asyncio.gather(*(batcher.generate("ab"[i % 2], request) for i in range(18)))
    await batcher.stop()
    assert answers == [request] * 18
    assert sum(size for _, size in engine.batches) == 18
    assert max(size for _, size in engine.batches) == 4
    assert [model for model, _ in engine.batches[:4]] == ["a", "b", "a", "b"]
