"""Reads of artifact storage that take no longer than a decision can wait.

A store may swallow requests for minutes before its own timeouts end them. Such a read goes on in a daemon thread, which
nobody waits for: it holds up neither a decision nor the operator's end.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from sluice_artifacts import UnreachableError

T = TypeVar("T")

STORAGE_S = 8.0
"""Seconds that a read may take."""
MOST_READS = 64
"""Reads at a time, those included that nobody waits for any more."""

_slots = threading.BoundedSemaphore(MOST_READS)


async def bounded(uri: str, read: Callable[[], T], *, limit_s: float = STORAGE_S) -> T:
    """Return what `read` returns; its errors are raised.

    Raises:
        UnreachableError: it took longer than `limit_s`, or as many reads as are allowed wait already.
    """
    slots = _slots
    if not slots.acquire(blocking=False):
        raise UnreachableError(uri, f"{MOST_READS} reads of storage wait for an answer: check endpoint and network")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = read()
        except BaseException as raised:  # noqa: BLE001 - whoever waits gets it, whatever it is
            error = raised
        finally:
            slots.release()
        # The loop may have ended while nobody waited.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=work, name="sluice-storage", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, limit_s)
    except TimeoutError:
        raise UnreachableError(uri, f"no answer within {limit_s:g} s: check endpoint and network") from None
