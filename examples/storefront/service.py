"""The agent as a service: evaluation by named weights, production by the router, a trace of every production run.

```
GET  /healthz       200 once weights are loaded
POST /v1/predict    runs one task; header X-Sluice-Token where a token is set
/v1/…               the model server, for whoever wants to talk to the weights
```

A request that names a model is an evaluation: it is not routed and leaves no trace. One that names none is production.
"""

import argparse
import asyncio
import hmac
import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from sluice_api.contracts.evaluation import Outcome
from sluice_api.contracts.trace import Variant
from sluice_artifacts import ArtifactError, digest_tree, fetch_model
from sluice_runtime import (
    ChannelResolver,
    FileSource,
    FinishedRun,
    KubernetesSource,
    ResolverConfig,
    RolloutFollower,
    TraceExporter,
)
from sluice_runtime.commands import default_cache, stop_signal, write_port
from sluice_runtime.engine import GenerationRequest, TextEngine
from sluice_runtime.errors import SluiceRuntimeError
from sluice_runtime.server import ModelServer, refusals
from storefront.agent import ANSWER_TOKENS, RunResult, run_task
from storefront.arms import Arms, RequestedModel, Serving
from storefront.tasks import ShopTask, task_of_url

TOKEN_VARIABLES = ("SLUICE_API_TOKEN", "MANTIS_API_TOKEN")
"""Where the token comes from; unset means that none is asked for."""
TOKEN_HEADERS = ("X-Sluice-Token", "X-Mantis-Token")
"""Headers that may carry it."""

_log = logging.getLogger(__name__)


class PredictRequest(BaseModel):
    """One task to run."""

    model_config = ConfigDict(extra="ignore")

    url: str
    task_id: str = ""
    task_text: str = ""
    max_cost: float = Field(default=1.0, gt=0)
    max_steps: int = Field(default=12, ge=1, le=1000)
    model: RequestedModel | None = None
    tenant_id: str = ""
    run_id: str = ""


@dataclass
class Service:
    """The agent's HTTP side."""

    server: ModelServer
    arms: Arms
    exporter: TraceExporter
    token: str = ""

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[refusals])
        app.add_routes([web.get("/healthz", self._healthz), web.post("/v1/predict", self._predict)])
        self.server.install(app)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        counts = {"exported": self.exporter.exported, "lost": self.exporter.failed}
        return web.json_response({"status": "ok", "variant": self.arms.variant, **counts})

    async def _predict(self, request: web.Request) -> web.Response:
        if not self._authorised(request):
            return web.json_response({"error": {"message": f"header {TOKEN_HEADERS[0]} is wrong"}}, status=401)
        body = PredictRequest.model_validate(await request.json())
        task = task_of_url(body.url)
        if body.task_text:
            task = replace(task, text=body.task_text)
        run_id = body.run_id or f"run-{uuid.uuid4().hex[:16]}"
        try:
            serving = (
                await self.arms.requested(body.model)
                if body.model is not None
                else await self.arms.placed(tenant_id=body.tenant_id, run_id=run_id)
            )
        except (ArtifactError, SluiceRuntimeError) as error:
            return web.json_response({"error": {"message": str(error)}}, status=503 if body.model is None else 400)
        started = datetime.now(UTC)
        result = await self._run(task, serving, body)
        if body.model is None:
            run = _finished(run_id, body, serving, result, started)
            await asyncio.to_thread(self.exporter.export, run)
        return web.json_response(_answer(run_id, serving, result))

    async def _run(self, task: ShopTask, serving: Serving, body: PredictRequest) -> RunResult:
        async def complete(messages: Sequence[dict[str, str]]) -> str:
            request = GenerationRequest(messages=messages, max_tokens=ANSWER_TOKENS)
            return (await self.server.generate(serving.model, request)).text

        return await run_task(task, complete, max_steps=body.max_steps, max_cost=body.max_cost)

    def _authorised(self, request: web.Request) -> bool:
        given = [request.headers[name] for name in TOKEN_HEADERS if name in request.headers]
        return not self.token or any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)


def _finished(run_id: str, body: PredictRequest, serving: Serving, result: RunResult, started: datetime) -> FinishedRun:
    return FinishedRun(
        run_id=run_id,
        tenant_id=body.tenant_id,
        session_name=body.task_id,
        plan_signature="storefront/1",
        status=result.status,
        variant=serving.variant,
        model_digest=serving.digest,
        rollout=serving.rollout,
        started_at=started,
        ended_at=datetime.now(UTC),
        costs=result.costs,
        steps=result.steps,
    )


def _answer(run_id: str, serving: Serving, result: RunResult) -> dict[str, Any]:
    outcome = Outcome(
        success=result.success,
        status=result.status,
        url=result.url,
        output=result.output,
        cost=result.costs.total,
        duration_s=round(result.duration_s, 4),
    )
    return {
        **outcome.model_dump(mode="json", exclude={"raw"}),
        "metrics": {name: metric.model_dump(mode="json") for name, metric in result.metrics.items()},
        "run_id": run_id,
        "escalated": result.escalated,
        "serving": asdict(serving),
    }


def token_of(environment: Mapping[str, str]) -> str:
    """The token that the environment sets; empty for none."""
    return next((environment[name] for name in TOKEN_VARIABLES if environment.get(name)), "")


def build(arguments: argparse.Namespace, stack: ExitStack) -> Service:
    """Loads the weights that the stable channel names and puts the service together; blocking.

    Raises:
        SluiceRuntimeError, ArtifactError: there are no weights to serve, or the router cannot be followed.
    """
    cache: Path = arguments.cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    resolver = ChannelResolver(ResolverConfig(root=arguments.root, name=arguments.channel))
    folder = fetch_model(resolver.resolve().base_model, cache)
    digest = digest_tree(folder)
    server = ModelServer(TextEngine(folder, threads=arguments.threads), cache, base_digest=digest)
    follower = _follower(arguments)
    if follower is not None:
        stack.enter_context(follower)
    exporter = TraceExporter(arguments.traces) if arguments.traces else TraceExporter.from_environment()
    arms = Arms(server, digest, resolver, follower, variant=Variant(arguments.variant))
    return Service(server, arms, exporter, token_of(os.environ))


def _follower(arguments: argparse.Namespace) -> RolloutFollower | None:
    if arguments.router_file is not None:
        return RolloutFollower(FileSource(arguments.router_file))
    if arguments.config_map:
        source = KubernetesSource(arguments.namespace, arguments.config_map, kubeconfig=arguments.kubeconfig)
        return RolloutFollower(source)
    return None


async def serve(arguments: argparse.Namespace) -> int:
    """Serves until a signal comes."""
    with ExitStack() as stack:
        service = await asyncio.to_thread(build, arguments, stack)
        runner = web.AppRunner(service.application(), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, arguments.host, arguments.port).start()
            port = int(runner.addresses[0][1])
            if arguments.port_file is not None:
                write_port(arguments.port_file, port)
            print(f"the storefront agent serves at http://{arguments.host}:{port}", flush=True)
            await stop_signal()
        finally:
            await runner.cleanup()
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m storefront.service`."""
    parser = argparse.ArgumentParser(prog="storefront.service", description="The storefront agent.")
    parser.add_argument("--root", required=True, help="artifact root that holds the channels, file:// or s3://")
    parser.add_argument("--channel", default="stable", help="channel that serves production")
    parser.add_argument(
        "--variant",
        default=str(Variant.BASELINE),
        choices=[str(Variant.BASELINE), str(Variant.CANDIDATE)],
        help="arm that a deployment behind a gateway serves",
    )
    parser.add_argument("--traces", default="", help="trace store (default: SLUICE_TRACE_EXPORT_DIR)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100, help="port; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port to once it listens")
    parser.add_argument("--router-file", type=Path, help="mounted rollout.json to follow")
    parser.add_argument("--config-map", default="", help="router ConfigMap to follow")
    parser.add_argument("--namespace", default="default", help="namespace of the ConfigMap")
    parser.add_argument("--kubeconfig", type=Path, help="kubeconfig (default: the pod's service account)")
    parser.add_argument("--cache", type=Path, help="folder for fetched models")
    parser.add_argument("--threads", type=int, default=None, help="torch threads")
    return parser


def main(argv: list[str] | None = None) -> int:
    """`python -m storefront.service --root URI …`."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return asyncio.run(serve(arguments))
    except (SluiceRuntimeError, ArtifactError, OSError, ValueError) as error:
        print(f"storefront.service: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
