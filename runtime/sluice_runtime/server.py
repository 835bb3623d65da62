"""The small model server: OpenAI-compatible chat, and adapters by digest as vLLM loads them.

An adapter's name is its digest, so a name never changes its weights: loading one that is there is a no-op, and one
whose files do not hash to its name is refused.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from sluice_api.contracts.base import DIGEST_PATTERN, ArtifactRef
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import ArtifactError, CorruptError, NotFoundError, fetch
from sluice_runtime.batching import BatchingConfig, BatchingEngine
from sluice_runtime.engine import BASE, GenerationRequest, TextEngine
from sluice_runtime.errors import AdapterError

DEFAULT_MAX_TOKENS = 128
"""Tokens of an answer where the request does not say."""


class BadRequest(ValueError):
    """The request cannot be used; the message names the field."""


@dataclass
class ModelServer:
    """A base model, its adapters, and the HTTP application that serves them."""

    engine: BatchingEngine
    adapters: Path
    """Folder that keeps fetched adapters."""
    base_digest: str = ""
    """Digest of the base weights: a second name of the base model."""
    _loading: dict[str, asyncio.Lock] = field(default_factory=dict)

    def application(self) -> web.Application:
        """Return the HTTP application."""
        application = web.Application(middlewares=[_errors])
        application.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
            ]
        )
        return application

    async def load(self, reference: ArtifactRef) -> str:
        """Load an adapter by digest and return its name; one that is there already is a no-op.

        Raises AdapterError when it does not verify or does not fit, ArtifactError when storage fails.
        """
        name = reference.digest
        lock = self._loading.setdefault(name, asyncio.Lock())
        async with lock:
            if name in self.engine.adapters:
                return name
            folder = self.adapters / name.removeprefix("sha256:")
            if not folder.exists():
                try:
                    await asyncio.to_thread(fetch, reference, folder, AdapterManifest)
                except (CorruptError, NotFoundError) as error:
                    raise AdapterError(f"adapter {name}: {error}") from error
            await asyncio.wrap_future(self.engine.load_adapter(name, folder))
            return name

    async def answer(self, model: str, request: GenerationRequest) -> Any:
        """Return one answer. Raises AdapterError for an unknown model, ValueError for a prompt that is too long."""
        name = BASE if model in (BASE, self.base_digest) else model
        return await asyncio.wrap_future(self.engine.generate(name, request))

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, _: web.Request) -> web.Response:
        names = [BASE, *self.engine.adapters]
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def _chat(self, http: web.Request) -> web.Response:
        body = await _body(http)
        model = str(body.get("model") or BASE)
        answer = await self.answer(model, read_request(body))
        usage = {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.finish_reason,
        }
        return web.json_response(
            {
                "id": f"chatcmpl-{time.time_ns():x}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": model,
                "choices": [choice],
                "usage": usage,
            }
        )

    async def _load(self, http: web.Request) -> web.Response:
        body = await _body(http)
        name, place = body.get("lora_name"), body.get("lora_path")
        if not isinstance(name, str) or not DIGEST_PATTERN.match(name):
            raise BadRequest("lora_name: must be the adapter's digest, sha256:…")
        if not isinstance(place, str) or "://" not in place:
            raise BadRequest("lora_path: must be a file:// or s3:// prefix")
        await self.load(ArtifactRef(uri=place, digest=name))
        return web.json_response({"status": "loaded", "lora_name": name})

    async def _unload(self, http: web.Request) -> web.Response:
        name = str((await _body(http)).get("lora_name") or "")
        found = await asyncio.wrap_future(self.engine.unload_adapter(name))
        if not found:
            return web.json_response({"error": {"message": f"adapter {name!r} is not loaded"}}, status=404)
        return web.json_response({"status": "unloaded", "lora_name": name})


def read_request(body: dict[str, Any]) -> GenerationRequest:
    """Return the generation request of an OpenAI chat body. Raises BadRequest naming the field."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: must be a list of messages with role and content")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise BadRequest(f"messages[{position}]: role and content must be strings")
    if body.get("stream"):
        raise BadRequest("stream: streaming is not offered; leave it out")
    try:
        return GenerationRequest(
            messages=[{"role": message["role"], "content": message["content"]} for message in messages],
            max_tokens=int(body.get("max_tokens") or body.get("max_completion_tokens") or DEFAULT_MAX_TOKENS),
            temperature=float(body.get("temperature") or 0.0),
            seed=int(body.get("seed") or 0),
        )
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from error


async def _body(http: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request. Raises BadRequest."""
    try:
        body = await http.json()
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Turn errors into OpenAI-shaped answers with the right status."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except (BadRequest, AdapterError, ValueError) as error:
        return web.json_response({"error": {"message": str(error), "type": "invalid_request_error"}}, status=400)
    except ArtifactError as error:
        return web.json_response({"error": {"message": str(error), "type": "storage_error"}}, status=503)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What `sluice serve` serves, and where."""

    base: Path
    """Folder of the base model."""
    host: str = "127.0.0.1"
    """Address."""
    port: int = 0
    """Port; 0 takes a free one."""
    port_file: Path | None = None
    """File that gets the port once it is bound."""
    cache: Path | None = None
    """Folder for adapters; a temporary one where it is not given."""
    threads: int | None = None
    """Torch threads."""
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    """How requests are gathered."""


async def serve(config: ServeConfig, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises ModelLoadError when the base does not load, OSError when the port is taken."""
    with tempfile.TemporaryDirectory(prefix="sluice-serve-") as scratch:
        adapters = (config.cache or Path(scratch)) / "adapters"
        adapters.mkdir(parents=True, exist_ok=True)
        engine = await asyncio.to_thread(TextEngine, config.base, threads=config.threads)
        with BatchingEngine(engine, config.batching) as batching:
            runner = web.AppRunner(ModelServer(engine=batching, adapters=adapters).application(), access_log=None)
            await runner.setup()
            try:
                site = web.TCPSite(runner, config.host, config.port)
                await site.start()
                port = runner.addresses[0][1]
                if config.port_file is not None:
                    write_port(config.port_file, port)
                await stop.wait()
            finally:
                await runner.cleanup()


def write_port(path: Path, port: int) -> None:
    """Write a port so that a reader sees the whole number or none."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(f"{port}\n", encoding="utf-8")
    aside.replace(path)
