"""What the harness costs a sample when the model answers at once."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import aiohttp
from aiohttp import web

from sluice_api.contracts.evaluation import EvalTask, Outcome
from sluice_evaluator.protocols import FunctionRunner, PredictRunner, TaskRunner, http_client
from sluice_evaluator.runner import Arm, RunConfig, evaluate


async def _answer(task: EvalTask) -> Outcome:
    return Outcome(success=True, output=task.task_text)


async def _timed(runner: TaskRunner, samples: int, concurrency: int) -> float:
    tasks = [EvalTask(task_id=f"t{i}", task_text="x") for i in range(samples)]
    started = time.perf_counter()
    report = (await evaluate([Arm(name="stub", runner=runner)], tasks, RunConfig(concurrency=concurrency)))[0]
    elapsed = time.perf_counter() - started
    if report.pass_count != samples:
        raise RuntimeError(f"{samples - report.pass_count} of {samples} stub samples did not pass")
    return elapsed / samples


async def in_process(samples: int, concurrency: int) -> float:
    """Seconds a sample with a function for a model."""
    return await _timed(FunctionRunner(_answer), samples, concurrency)


def serve(ready: Connection) -> None:
    """Answer `POST /v1/predict` at once, on a free port of loopback, until the process is ended."""

    async def predict(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b'{"success": true}', content_type="application/json")

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/predict", predict)
        server = web.AppRunner(app, access_log=None)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        ready.send(server.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


@contextmanager
def stub_server() -> Iterator[str]:
    """Serve in a process of its own, as a model is; yields the URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


async def over_http(url: str, samples: int, concurrency: int) -> float:
    """Seconds a sample over loopback."""
    async with http_client(concurrency=concurrency, timeout_s=60) as client:
        return await _timed(PredictRunner(client, url), samples, concurrency)


async def bare_client(url: str, samples: int, concurrency: int) -> float:
    """Seconds a request of the HTTP client alone: what no harness on it can go below."""
    left = iter(range(samples))

    async def work(client: aiohttp.ClientSession) -> None:
        for number in left:
            async with client.post(url + "/v1/predict", json={"task_id": str(number)}) as response:
                json.loads(await response.read())

    async with http_client(concurrency=concurrency, timeout_s=60) as client:
        started = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        return (time.perf_counter() - started) / samples


def measure(samples: int, concurrency: int, rounds: int) -> dict[str, float]:
    """Best of some rounds, seconds a sample: the least disturbed one."""
    with stub_server() as url:
        return {
            "in process": min(asyncio.run(in_process(samples, concurrency)) for _ in range(rounds)),
            "loopback HTTP": min(asyncio.run(over_http(url, samples, concurrency)) for _ in range(rounds)),
            "bare client": min(asyncio.run(bare_client(url, samples, concurrency)) for _ in range(rounds)),
            "loopback HTTP, one at a time": min(asyncio.run(over_http(url, samples // 4, 1)) for _ in range(rounds)),
        }
