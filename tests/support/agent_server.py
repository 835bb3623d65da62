"""A real HTTP agent on loopback whose every answer a test decides: it stalls, drops, throttles, fails and lies."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from aiohttp import web

Reply = Callable[[dict[str, Any], int], "str | Mapping[str, Any]"]
"""From the request and the how-manieth call for its task (from 1) to a named fault or to an answer."""


class AgentServer:
    """Serves `POST /v1/predict` in a thread of its own; `url` is where."""

    def __init__(self, reply: Reply, *, retry_after: str = "0.05", latency_s: float = 0.0) -> None:
        self.reply = reply
        self.latency_s = latency_s
        self.retry_after = retry_after
        self.calls: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name = body["task_id"] + "@" + str((body.get("model") or {}).get("digest", ""))
        self.calls[name] += 1
        self.requests.append((body, dict(request.headers)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
            reply = self.reply(body, self.calls[name])
            if not isinstance(reply, str):
                self.answered[name] += 1
            return await self._answer(request, reply)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, reply: str | Mapping[str, Any]) -> web.StreamResponse:
        if not isinstance(reply, str):
            return web.json_response(reply)
        match reply:
            case "stall":
                assert self._stop is not None
                await self._stop.wait()
                return web.json_response({})
            case "drop":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "429":
                return web.Response(status=429, headers={"Retry-After": self.retry_after})
            case "garbage":
                return web.Response(body=b"\xff\xfe<html>", content_type="text/html")
            case "list":
                return web.Response(body=json.dumps([1]).encode(), content_type="application/json")
            case "silent":
                return web.json_response({"status": "completed"})
            case "mistyped":
                return web.json_response({"success": True, "cost": "a lot"})
            case status:
                return web.Response(status=int(status))

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_post("/v1/predict", self._predict)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def __enter__(self) -> "AgentServer":
        self._thread.start()
        assert self._ready.wait(10), "the agent server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()
