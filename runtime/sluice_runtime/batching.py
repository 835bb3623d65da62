"""A queue before the engine: requests that arrive together are answered together, one batch a model at a time."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from sluice_runtime.engine import Generation, GenerationRequest, TextEngine


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """How requests are gathered."""

    max_batch: int = 32
    """Requests answered together at most."""
    wait_s: float = 0.003
    """Seconds that the first request of a batch waits for company."""

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {self.max_batch}")
        if not 0 <= self.wait_s <= 1:
            raise ValueError(f"wait_s must be within 0 and 1, got {self.wait_s}")


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """One request and where its answer goes."""

    model: str
    request: GenerationRequest
    answer: "Future[Generation]" = field(default_factory=Future)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Something else to do on the engine's thread, in its turn."""

    call: Callable[[], object]
    answer: "Future[object]" = field(default_factory=Future)


class BatchingEngine:
    """Owns a TextEngine on a thread of its own. Use as a context manager.

    Adapters are loaded and dropped between batches, so a request never meets a half-loaded one.
    """

    def __init__(self, engine: TextEngine, config: BatchingConfig | None = None) -> None:
        self._engine = engine
        self._config = config or BatchingConfig()
        self._queue: queue.Queue[_Ask | _Task | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> "BatchingEngine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def generate(self, model: str, request: GenerationRequest) -> "Future[Generation]":
        """Ask for one answer; the future raises AdapterError or ValueError as `TextEngine.generate` does."""
        ask = _Ask(model=model, request=request)
        self._queue.put(ask)
        return ask.answer

    def load_adapter(self, name: str, directory: Path) -> "Future[object]":
        """Load an adapter between two batches; the future raises AdapterError."""
        return self._do(lambda: self._engine.load_adapter(name, directory))

    def unload_adapter(self, name: str) -> "Future[object]":
        """Drop an adapter between two batches; the future tells whether it was loaded."""
        return self._do(lambda: self._engine.unload_adapter(name))

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are loaded."""
        return self._engine.adapters

    def _do(self, call: Callable[[], object]) -> "Future[object]":
        task = _Task(call=call)
        self._queue.put(task)
        return task.answer

    def _work(self) -> None:
        """Take batches until told to end; what still waits then is cancelled."""
        while True:
            batch, tasks, more = self._gather()
            for model in dict.fromkeys(ask.model for ask in batch):
                self._answer(model, [ask for ask in batch if ask.model == model])
            for task in tasks:
                self._carry_out(task)
            if not more:
                break
        while not self._queue.empty():
            left = self._queue.get()
            if left is not None:
                left.answer.cancel()

    def _gather(self) -> tuple[list[_Ask], list[_Task], bool]:
        """Return requests and tasks that arrived together; a task closes its batch. False at the end."""
        batch: list[_Ask] = []
        deadline: float | None = None
        while len(batch) < self._config.max_batch:
            try:
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                break
            if item is None:
                return batch, [], False
            if isinstance(item, _Task):
                return batch, [item], True
            batch.append(item)
            if deadline is None:
                deadline = time.monotonic() + self._config.wait_s
        return batch, [], True

    def _answer(self, model: str, asks: list[_Ask]) -> None:
        """Answer the requests for one model; a request that the batch chokes on fails alone."""
        running = [ask for ask in asks if ask.answer.set_running_or_notify_cancel()]
        if not running:
            return
        try:
            answers = self._engine.generate(model, [ask.request for ask in running])
        except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to the request that caused it
            if len(running) == 1:
                running[0].answer.set_exception(error)
                return
            for ask in running:
                self._answer_alone(model, ask)
            return
        for ask, answer in zip(running, answers, strict=True):
            ask.answer.set_result(answer)

    def _answer_alone(self, model: str, ask: _Ask) -> None:
        try:
            ask.answer.set_result(self._engine.generate(model, [ask.request])[0])
        except Exception as error:  # noqa: BLE001 - as above
            ask.answer.set_exception(error)

    @staticmethod
    def _carry_out(task: _Task) -> None:
        if not task.answer.set_running_or_notify_cancel():
            return
        try:
            task.answer.set_result(task.call())
        except Exception as error:  # noqa: BLE001 - the caller's future carries it
            task.answer.set_exception(error)
