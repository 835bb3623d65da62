"""The HTTP side of the page: GET only, no state of its own, nothing fetched from elsewhere.

The page is one document with its style and script inside. Its content security policy names them by hash, so that
nothing else runs, whatever a cluster's objects may say; the script writes text and never markup. Requests must name a
loopback host while the server listens on one: a foreign page that rebinds its name to this machine reads nothing.
"""

import asyncio
import base64
import hashlib
import ipaddress
import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

from sluice_cli.dashboard.source import Source

POLL_S = 2.0
"""Seconds between two looks at the cluster while somebody watches."""
KEEP_ALIVE_S = 15.0
"""Seconds after which a silent stream says that it lives."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page() -> tuple[str, str]:
    """Return the page and its content security policy."""
    folder = files("sluice_cli.dashboard") / "page"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("charts.js", "page.js"))
    document = (folder / "page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return document.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script), policy


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def application(source: Source, *, host: str, poll_s: float = POLL_S) -> web.Application:
    """Return the application that serves `source`; `host` is where it listens."""
    document, policy = page()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    ended = asyncio.Event()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_loopback(host) and not is_loopback(_host_of(request)):
            return web.Response(status=403, text="this page is for this machine alone\n", headers=headers)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(headers)
            raise
        if not response.prepared:
            response.headers.update(headers)
        return response

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=document, content_type="text/html", charset="utf-8")

    async def state(_: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(source.state), dumps=as_json)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        await _follow(response, source, poll_s, ended)
        return response

    async def stop(_: web.Application) -> None:
        ended.set()

    made = web.Application(middlewares=[guarded])
    made.router.add_get("/", show)
    made.router.add_get("/api/state", state)
    made.router.add_get("/api/stream", stream)
    made.on_shutdown.append(stop)
    return made


async def _follow(response: web.StreamResponse, source: Source, poll_s: float, ended: asyncio.Event) -> None:
    """Send the state whenever it changes, and a sign of life now and then, until either side ends."""
    loop = asyncio.get_running_loop()
    before, said = "", loop.time()
    while not ended.is_set():
        state = await asyncio.to_thread(source.state)
        # The instant alone is no news.
        text, gist = as_json(state), as_json(_gist(state))
        try:
            if gist != before:
                await response.write(f"data: {text}\n\n".encode())
                before, said = gist, loop.time()
            elif loop.time() - said >= KEEP_ALIVE_S:
                await response.write(b": alive\n\n")
                said = loop.time()
        except (ConnectionError, RuntimeError):
            return
        try:
            await asyncio.wait_for(ended.wait(), poll_s)
        except TimeoutError:
            continue


def _gist(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without what moves by itself: the instant, the end of the weights' line, and ages in words."""
    told = []
    for lineage in state["lineages"]:
        rollout = lineage["rollout"]
        if rollout is not None:
            rollout = {**rollout, "weights": rollout["weights"][:-1], "facts": []}
        told.append({**lineage, "rollout": rollout})
    return {**state, "at": "", "lineages": told}


def as_json(document: object) -> str:
    """Return JSON without NaN and infinity, which browsers refuse."""
    return json.dumps(_finite(document), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host_of(request: web.Request) -> str:
    """Return the host that a request names, without its port."""
    host = request.host
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
