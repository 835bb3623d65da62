"""The small model server: OpenAI's chat completions over one base model, and vLLM's hot loading of LoRA adapters.

```
GET  /healthz                      200 once the base model is loaded
GET  /v1/models                    base and adapters
POST /v1/chat/completions          model: "base" or the digest of a loaded adapter
POST /v1/load_lora_adapter         {"lora_name": "sha256:…", "lora_path": "<artifact uri>"}
POST /v1/unload_lora_adapter       {"lora_name": "sha256:…"}
GET  /metrics                      Prometheus
```

An adapter's name is its digest and never changes its weights: loading it again is a no-op, and bytes that do not
verify against it are refused.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice_api.contracts.base import DIGEST_PATTERN, ArtifactRef
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import ArtifactError, CorruptError, ForbiddenError, NotFoundError, fetch, to_hex
from sluice_runtime.batching import BatchConfig, Batcher, Engine
from sluice_runtime.engine import BASE, Generation, GenerationRequest
from sluice_runtime.errors import AdapterError

MAX_BODY = 1 << 20
"""Bytes of a request at most."""

_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: str


class _ChatRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str = BASE
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: int | None = None
    stream: Literal[False] = False
    n: Literal[1] = 1


class _LoadRequest(BaseModel):
    lora_name: Annotated[str, Field(pattern=DIGEST_PATTERN.pattern)]
    lora_path: Annotated[str, Field(min_length=1)]


class _UnloadRequest(BaseModel):
    lora_name: str


class ModelServer:
    """One base model and its adapters behind HTTP.

    Args:
        engine: generates text.
        cache: folder for fetched adapters.
        base_digest: digest of the base model; also accepted as its name.
        batching: how requests are gathered.
    """

    def __init__(
        self, engine: Engine, cache: Path, *, base_digest: str = "", batching: BatchConfig | None = None
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._base_digest = base_digest
        self._batching = batching
        self._batcher: Batcher | None = None
        self._loading: dict[str, asyncio.Lock] = {}
        self._started = int(time.time())

    def application(self) -> web.Application:
        """The aiohttp application; it owns the engine's thread from start-up to clean-up."""
        app = web.Application(middlewares=[refusals], client_max_size=MAX_BODY)
        app.add_routes([web.get("/healthz", self._healthz), web.get("/metrics", self._metrics)])
        self.install(app)
        return app

    def install(self, app: web.Application) -> None:
        """Adds the `/v1/` routes to an application, which owns the engine's thread from then on."""
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/load_lora_adapter", self._load),
                web.post("/v1/unload_lora_adapter", self._unload),
            ]
        )
        app.cleanup_ctx.append(self._lifetime)

    async def _lifetime(self, _: web.Application) -> Any:
        self._batcher = Batcher(self._engine, self._batching)
        await self._batcher.start()
        yield
        await self._batcher.stop()

    @property
    def batcher(self) -> Batcher:
        """The queue before the engine.

        Raises:
            RuntimeError: the application has not started.
        """
        if self._batcher is None:
            raise RuntimeError("the model server has not started")
        return self._batcher

    async def generate(self, model: str, request: GenerationRequest) -> Generation:
        """The answer of a model, for callers in the same process.

        Raises:
            AdapterError: the model is not loaded.
            ValueError: the request does not fit the model.
        """
        return await self.batcher.generate(self._known(model), request)

    async def load_adapter(self, ref: ArtifactRef) -> None:
        """Fetches and verifies an adapter, and loads it under its digest; loaded already is a no-op.

        Raises:
            ArtifactError: it cannot be fetched, or does not verify.
            AdapterError: it does not fit the base model.
        """
        async with self._loading.setdefault(ref.digest, asyncio.Lock()):
            if ref.digest in self._engine.adapters:
                return
            folder = self._cache / "adapters" / to_hex(ref.digest)
            manifest = await asyncio.to_thread(fetch, ref, folder, AdapterManifest)
            trained_on = manifest.base_model.digest
            if trained_on and self._base_digest and trained_on != self._base_digest:
                raise AdapterError(
                    f"adapter {ref.digest} was trained on base model {trained_on}, this server has {self._base_digest}"
                )
            await self.batcher.call(lambda: self._engine.load_adapter(ref.digest, folder))
            _log.info("adapter %s loaded", ref.digest)

    def _known(self, model: str) -> str:
        if model == BASE or (self._base_digest and model == self._base_digest):
            return BASE
        if model not in self._engine.adapters:
            raise AdapterError(f"model {model!r} is not loaded; load it with POST /v1/load_lora_adapter")
        return model

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "base_digest": self._base_digest, "adapters": self._engine.adapters})

    async def _metrics(self, _: web.Request) -> web.Response:
        lines = [
            "# TYPE sluice_server_answers_total counter",
            f"sluice_server_answers_total {self.batcher.answers}",
            "# TYPE sluice_server_batches_total counter",
            f"sluice_server_batches_total {self.batcher.batches}",
            "# TYPE sluice_server_adapters gauge",
            f"sluice_server_adapters {len(self._engine.adapters)}",
        ]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    async def _models(self, _: web.Request) -> web.Response:
        base = {"id": BASE, "object": "model", "created": self._started, "owned_by": "sluice", "parent": None}
        adapters = [{**base, "id": name, "parent": BASE} for name in self._engine.adapters]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = _ChatRequest.model_validate(await _json(request))
        try:
            model = self._known(body.model)
        except AdapterError as error:
            return _refusal(404, str(error), "model_not_found")
        answer = await self.batcher.generate(
            model,
            GenerationRequest(
                messages=[message.model_dump() for message in body.messages],
                max_tokens=body.max_completion_tokens or body.max_tokens,
                temperature=body.temperature,
                seed=body.seed if body.seed is not None else 0,
            ),
        )
        return web.json_response(_completion(body.model, answer))

    async def _load(self, request: web.Request) -> web.Response:
        body = _LoadRequest.model_validate(await _json(request))
        await self.load_adapter(ArtifactRef(uri=body.lora_path, digest=body.lora_name))
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' is loaded.")

    async def _unload(self, request: web.Request) -> web.Response:
        body = _UnloadRequest.model_validate(await _json(request))
        if not await self.batcher.call(lambda: self._engine.unload_adapter(body.lora_name)):
            return _refusal(404, f"adapter {body.lora_name!r} is not loaded", "model_not_found")
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' is unloaded.")


def _completion(model: str, answer: Generation) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error


def _refusal(status: int, message: str, kind: str = "invalid_request_error") -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "code": status}}, status=status)


@web.middleware
async def refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal has OpenAI's shape, and says what is wrong with which field."""
    try:
        return await handler(request)
    except ValidationError as error:
        item = error.errors(include_input=False, include_url=False)[0]
        return _refusal(400, f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}")
    except (NotFoundError, CorruptError, ForbiddenError, AdapterError, ValueError) as error:
        return _refusal(400, str(error))
    except ArtifactError as error:
        return _refusal(503, str(error), "storage_error")
