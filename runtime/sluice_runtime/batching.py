"""Gathers requests that arrive one by one into batches for the engine, one batch a model at a time."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sluice_runtime.engine import Generation, GenerationRequest

T = TypeVar("T")


class Engine(Protocol):
    """What generates; blocking, called by one thread at a time."""

    @property
    def adapters(self) -> list[str]:
        """Names of the loaded adapters."""
        ...

    def load_adapter(self, name: str, directory: Path) -> None:
        """Loads an adapter under a name."""
        ...

    def unload_adapter(self, name: str) -> bool:
        """Drops an adapter; False when it was not loaded."""
        ...

    def generate(self, model: str, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answers of one model to a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How requests are gathered."""

    max_batch: int = 64
    """Requests of a batch at most."""
    max_wait_s: float = 0.004
    """Seconds that the first request of a batch waits for company; none where the batch is full already."""

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
        if self.max_wait_s < 0:
            raise ValueError(f"max_wait_s must not be negative, got {self.max_wait_s}")


@dataclass
class _Waiting:
    request: GenerationRequest
    future: asyncio.Future[Generation]


class Batcher:
    """Queues requests by model and feeds the engine from one thread.

    While a batch runs, the next requests gather; so batches grow with the load and a lone request waits for nobody
    longer than `max_wait_s`. Models take turns, the one that has waited longest first.
    """

    def __init__(self, engine: Engine, config: BatchConfig | None = None) -> None:
        self._engine = engine
        self._config = config if config is not None else BatchConfig()
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None
        self.batches = 0
        """Batches run so far."""
        self.answers = 0
        """Answers given so far."""

    async def start(self) -> None:
        """Starts serving the queue."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends serving; requests that still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for queue in self._queues.values():
            for waiting in queue:
                waiting.future.cancel()
        self._queues.clear()
        await asyncio.to_thread(self._thread.shutdown)

    async def generate(self, model: str, request: GenerationRequest) -> Generation:
        """The answer to one request, as soon as a batch has brought it.

        Raises:
            SluiceRuntimeError: the engine refused the batch.
            ValueError: the request does not fit the model.
        """
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._queues.setdefault(model, deque()).append(waiting)
        self._arrived.set()
        return await waiting.future

    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function on the engine's thread, between batches: loads and unloads never meet a batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            model = next(iter(self._queues), None)
            if model is None:
                self._arrived.clear()
                continue
            await self._gather(model)
            batch = self._take(model)
            if batch:
                await self._serve(model, batch)

    async def _gather(self, model: str) -> None:
        """Waits a moment for more requests of this model, unless the batch is full."""
        if len(self._queues[model]) < self._config.max_batch:
            await asyncio.sleep(self._config.max_wait_s)

    def _take(self, model: str) -> list[_Waiting]:
        """The next batch; what is left of the queue goes to the end of the line."""
        queue = self._queues.pop(model)
        batch = [queue.popleft() for _ in range(min(len(queue), self._config.max_batch))]
        if queue:
            self._queues[model] = queue
        return [waiting for waiting in batch if not waiting.future.done()]

    async def _serve(self, model: str, batch: list[_Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        try:
            answers = await self.call(lambda: self._engine.generate(model, requests))
        except Exception as error:  # noqa: BLE001 - each waiting caller gets the error, the queue goes on
            await self._settle_failed(model, batch, error)
            return
        self.batches += 1
        for waiting, answer in zip(batch, answers, strict=True):
            self._resolve(waiting, answer)

    async def _settle_failed(self, model: str, batch: list[_Waiting], error: Exception) -> None:
        """One bad request must not fail its neighbours: a failed batch is tried again one by one."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for waiting in batch:
            await self._serve(model, [waiting])

    def _resolve(self, waiting: _Waiting, answer: Generation) -> None:
        self.answers += 1
        if not waiting.future.done():
            waiting.future.set_result(answer)
