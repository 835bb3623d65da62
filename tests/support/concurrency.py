"""Threads that start together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def at_once(count: int, function: Callable[[int], T]) -> list[T]:
    """Call `function(i)` in `count` threads that start together; return what they return, in order."""
    barrier = threading.Barrier(count)

    def run(index: int) -> T:
        barrier.wait()
        return function(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
