"""A function in this process as a runner: for tests, and for launchers of the user's own."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sluice_api.contracts.evaluation import EvalTask, Outcome

TaskFunction = Callable[[EvalTask], Outcome | Mapping[str, Any] | Awaitable[Outcome | Mapping[str, Any]]]
"""Runs a task; plain or asynchronous."""


class FunctionRunner:
    """Calls a function. A plain one runs in a daemon thread of its own, so that one that never returns can be left."""

    protocol = "function/1"

    def __init__(self, function: TaskFunction, *, target: str = "") -> None:
        """Wrap a function; `target` names what it asks."""
        self._function = function
        self.target = target or getattr(function, "__qualname__", type(function).__qualname__)

    async def run(self, task: EvalTask) -> Outcome:
        """Call the function."""
        answer: Any
        if inspect.iscoroutinefunction(self._function):
            answer = await self._function(task)
        else:
            answer = await _in_daemon_thread(self._function, task)
            if inspect.isawaitable(answer):
                answer = await answer
        return answer if isinstance(answer, Outcome) else Outcome.model_validate(answer)


async def _in_daemon_thread(function: TaskFunction, task: EvalTask) -> Any:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def work() -> None:
        setter: Callable[[Any], None] = future.set_result
        value: Any
        try:
            value = function(task)
        except BaseException as error:  # noqa: BLE001 - handed to the waiting task, whatever it is
            setter, value = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, setter, value)
        except RuntimeError:
            return  # the loop is closed: the run ended at its deadline and nobody waits any more

    threading.Thread(target=work, name=f"task-{task.task_id}", daemon=True).start()
    return await future
