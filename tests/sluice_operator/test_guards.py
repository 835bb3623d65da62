"""Guards ask a Prometheus: over real HTTP, within bounds, whatever the other side does."""

import asyncio
import time

import pytest
from aiohttp import web

from sluice_api.v1alpha1.shadowrollout import Guard
from sluice_operator import guards
from sluice_operator.guards import ask


def guard(name: str, query: str = "up") -> Guard:
    return Guard(name=name, query=query, max=0.5)


@pytest.fixture
async def prometheus(monkeypatch):
    """A server that answers a query as the query itself says."""
    monkeypatch.setattr(guards, "TIMEOUT_S", 0.5)

    async def answer(request: web.Request) -> web.Response:
        query = (await request.post())["query"]
        match query:
            case "hang":
                await asyncio.sleep(30)
            case "html":
                return web.Response(text="<html>", content_type="text/html")
            case "refused":
                return web.json_response({"status": "error", "error": "bad query"}, status=400)
        result = [{"metric": {}, "value": [time.time(), query]}]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

    application = web.Application()
    application.router.add_post("/prom/api/v1/query", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/prom"
    await runner.cleanup()


async def test_each_guard_gets_its_own_answer_and_one_that_hangs_holds_up_nobody(prometheus):
    asked = [guard("a", "0.25"), guard("b", "hang"), guard("c", "html"), guard("d", "refused"), guard("e", "NaN")]
    began = time.monotonic()
    found = await ask(prometheus + "/", asked)
    assert time.monotonic() - began < 5
    assert found["a"].value == 0.25
    assert [found[name].value for name in "bcde"] == [None] * 4
    assert "does not answer" in found["b"].problem
    assert "bad query" in found["d"].problem


async def test_an_operator_without_prometheus_says_how_to_name_one():
    found = await ask("", [guard("a")])
    assert found["a"].value is None
    assert "--prometheus" in found["a"].problem


async def test_nobody_there_is_no_answer():
    found = await ask("http://127.0.0.1:9", [guard("a")])
    assert found["a"].value is None
    assert "does not answer" in found["a"].problem
