"""The agent as a service: production runs by whatever the rollout assigns, evaluation runs with the model they name.

`python -m storefront.service --root URI --traces DIR` serves the base model of the `stable` channel, follows the
router's ConfigMap, loads adapters by digest, and exports every production run as a trace.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from sluice_artifacts import ArtifactError, digest_tree, fetch_model
from sluice_runtime.commands import stop_signal, write_port
from sluice_runtime.engine import BASE, GenerationRequest, TextEngine
from sluice_runtime.errors import AdapterError, ResolveError
from sluice_runtime.exporter import FinishedRun, TraceExporter
from sluice_runtime.follower import KubernetesSource, Placement, RolloutFollower, ServedModel, Source
from sluice_runtime.resolver import ChannelResolver, ResolverConfig
from sluice_runtime.server import ModelServer
from storefront.agent import Run, run_task
from storefront.tasks import task_of_url

MAX_TOKENS = 48
"""Tokens of an answer at most: an expected outcome and one action."""


class NoRollout:
    """A source without a rollout: everything is served by the stable channel."""

    def read(self) -> str | None:
        """Return no document."""
        return None


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Serves runs."""

    server: ModelServer
    base_digest: str
    """Digest of the base model that is served."""
    resolver: ChannelResolver
    follower: RolloutFollower
    exporter: TraceExporter

    def application(self) -> web.Application:
        """Return the agent's HTTP application, the model server's routes included."""
        application = self.server.application()
        application.router.add_post("/v1/predict", self._predict)
        return application

    async def _predict(self, request: web.Request) -> web.Response:
        """Run one task: with the model that is named, else as production."""
        body = await request.json()
        try:
            task = task_of_url(str(body.get("url") or ""))
            wanted = ServedModel.model_validate(body["model"]) if body.get("model") else None
        except ValidationError as error:
            raise ValueError(f"model: {error}") from error
        max_steps = min(int(body.get("max_steps") or 12), 30)
        if wanted is not None:
            run = await run_task(task, await self._asker(wanted), max_steps=max_steps)
            return web.json_response(run.outcome)
        run_id, tenant = str(body.get("run_id") or f"run-{task.seed}"), str(body.get("tenant_id") or "")
        placement = self.follower.current.place(tenant_id=tenant, run_id=run_id)
        try:
            served = placement.model or await asyncio.to_thread(self.resolver.resolve)
        except ResolveError as error:
            return web.json_response({"error": {"message": str(error), "type": "unavailable"}}, status=503)
        run = await run_task(task, await self._asker(served), max_steps=max_steps)
        await asyncio.to_thread(self._export, run, run_id, tenant, placement, served)
        return web.json_response(run.outcome | {"variant": str(placement.variant), "model_digest": served.digest})

    async def _asker(self, served: ServedModel) -> Any:
        """Return the function that asks the model, after its adapter was loaded."""
        if served.base_model.digest not in (None, self.base_digest):
            raise AdapterError(f"base model {served.base_model.digest} is not the one served, {self.base_digest}")
        name = BASE
        if served.adapter is not None:
            await self.server.load_adapter(served.adapter)
            name = served.adapter.digest

        async def ask(messages: list[dict[str, str]]) -> str:
            request = GenerationRequest(messages=messages, max_tokens=MAX_TOKENS)
            return (await self.server.generate(name, request)).text

        return ask

    def _export(self, run: Run, run_id: str, tenant: str, placement: Placement, served: ServedModel) -> None:
        """Export a production run."""
        self.exporter.export(
            FinishedRun(
                status="completed",
                started_at=run.started_at,
                ended_at=run.ended_at,
                run_id=run_id,
                session_name=run.task.task_id,
                tenant_id=tenant,
                plan_signature=str(run.task.kind),
                variant=placement.variant,
                model_digest=served.digest,
                rollout=placement.rollout,
                costs=run.costs,
                steps=run.steps,
            )
        )


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    resolver = ChannelResolver(ResolverConfig(root=arguments.root))
    base_model = (await asyncio.to_thread(resolver.resolve)).base_model
    source: Source = NoRollout()
    if arguments.config_map:
        source = KubernetesSource(arguments.namespace, arguments.config_map, kubeconfig=arguments.kubeconfig)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storefront-")))
        base = await asyncio.to_thread(fetch_model, base_model, scratch / "base")
        engine = await asyncio.to_thread(TextEngine, base, threads=arguments.threads)
        follower = stack.enter_context(RolloutFollower(source))
        digest = await asyncio.to_thread(digest_tree, base)
        agent = Agent(
            server=ModelServer(engine, scratch, base_digest=digest),
            base_digest=digest,
            resolver=resolver,
            follower=follower,
            exporter=TraceExporter(arguments.traces),
        )
        runner = web.AppRunner(agent.application(), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", arguments.port)
            await site.start()
            if arguments.port_file is not None:
                write_port(arguments.port_file, runner.addresses[0][1])
            await stop_signal()
        finally:
            await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m storefront.service`: serves the agent on loopback; 1 when channel, model or port are not to be had."""
    parser = argparse.ArgumentParser(prog="storefront.service", description=main.__doc__)
    parser.add_argument("--root", required=True, help="root of the channels (file:// or s3://)")
    parser.add_argument("--traces", required=True, type=Path, help="folder of the trace store")
    parser.add_argument("--port", type=int, default=8088, help="port; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is bound")
    parser.add_argument("--config-map", help="the router's ConfigMap; without it there is no rollout")
    parser.add_argument("--namespace", default="default", help="namespace of the ConfigMap")
    parser.add_argument("--kubeconfig", type=Path, help="kubeconfig that may read it")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(serve(arguments))
    except (ArtifactError, ResolveError, OSError) as error:
        parser.exit(1, f"storefront.service: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
