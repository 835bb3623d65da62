"""A reverse proxy in front of a real API server that counts writes and makes faults where it is told to.

It answers plain HTTP on loopback and talks TLS to the server, adding nothing but the client's own headers. Watches are
streamed. A `Plan` looks at every write, before it is forwarded and after it was answered, and may cut the connection,
answer instead, or call somebody (a test that kills the operator, say).
"""

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"})


@dataclass(frozen=True)
class Write:
    """One request that may change something."""

    number: int
    method: str
    path: str
    body: bytes

    @property
    def lease(self) -> bool:
        """Whether it only renews the Lease."""
        return "/leases" in self.path

    @property
    def event(self) -> bool:
        """Whether it only tells news."""
        return self.path.split("?")[0].endswith("/events")


@dataclass
class Plan:
    """What to do about writes; by default nothing."""

    before: Callable[[Write], int | None] = lambda write: None
    """Return a status to answer instead of forwarding, or None."""
    after: Callable[[Write], bool] = lambda write: False
    """Called once the server has answered; True drops the answer."""
    down: bool = False
    """Answer everything with 503."""
    log: list[Write] = field(default_factory=list)
    """Writes that the server accepted."""


class FaultProxy:
    """Runs in a thread of its own; `kubeconfig` entries point at `url`."""

    def __init__(self, server: str, ca: bytes) -> None:
        self.plan = Plan()
        self.url = ""
        self._server = server.rstrip("/")
        self._tls = ssl.create_default_context(cadata=ca.decode())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._count = 0

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        write = None
        if request.method in WRITES:
            self._count += 1
            write = Write(self._count, request.method, request.path_qs, body)
        if self.plan.down:
            return web.Response(status=503, text="the proxy plays dead")
        if write is not None and (status := self.plan.before(write)) is not None:
            return web.json_response({"kind": "Status", "message": "made by the proxy", "code": status}, status=status)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        url = self._server + request.raw_path
        async with self._session.request(request.method, _encoded(url), headers=headers, data=body or None) as answer:
            if write is not None and answer.status < 300:
                self.plan.log.append(write)
                if self.plan.after(write):
                    if request.transport is not None:
                        request.transport.close()
                    return web.Response()
            return await _stream(request, answer)


async def _stream(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    for key, value in answer.headers.items():
        if key.lower() not in HOP_BY_HOP or key.lower() == "content-encoding":
            response.headers[key] = value
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (ConnectionResetError, aiohttp.ClientError):
        # The client went away: that is what the tests do to it.
        answer.close()
    return response


def _encoded(url: str) -> object:
    from yarl import URL

    return URL(url, encoded=True)
