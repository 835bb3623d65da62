"""How many tasks are in flight: slow start, and back-off when the endpoint asks for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

START = 4
"""Tasks in flight at the start; doubles every round until the endpoint first asks for less."""
BACKOFF = 0.8
"""What is left of the limit after an episode of 429s."""
DEFAULT_PAUSE_S = 1.0
"""Pause after a 429 that names none."""
LONGEST_PAUSE_S = 120.0
"""Longest pause that an endpoint can ask for."""


class Pace:
    """An adaptive limit on the tasks in flight, shared by all that ask one endpoint.

    Slow start and additive increase after TCP (RFC 5681); one multiplicative decrease an episode: requests that were
    already under way when the limit fell do not lower it again.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        """Allow at most `most` tasks in flight; `clock` is monotonic seconds."""
        if most < 1:
            raise ValueError(f"concurrency must be at least 1, got {most}")
        self._most = most
        self._clock = clock
        self._limit = float(min(START, most))
        self._slow_start = True
        self._in_flight = 0
        self._paused_until = 0.0
        self._episode = 0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> float:
        """The present limit."""
        return self._limit

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Hold one place in flight; yields the episode that the request belongs to."""
        async with self._changed:
            while True:
                wait = self._paused_until - self._clock()
                if wait <= 0 and self._in_flight < max(1, int(self._limit)):
                    break
                try:
                    async with asyncio.timeout(wait if wait > 0 else None):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            self._in_flight += 1
            episode = self._episode
        try:
            yield episode
        finally:
            self._in_flight -= 1
            async with self._changed:
                self._changed.notify(2)  # a success may have made room for two

    def succeeded(self) -> None:
        """Widen after a success."""
        self._limit = min(float(self._most), self._limit + (1.0 if self._slow_start else 1.0 / self._limit))

    def throttled(self, episode: int, retry_after_s: float | None) -> None:
        """Narrow and pause after a 429."""
        pause = min(LONGEST_PAUSE_S, DEFAULT_PAUSE_S if retry_after_s is None else retry_after_s)
        self._paused_until = max(self._paused_until, self._clock() + pause)
        if episode == self._episode:
            self._episode += 1
            self._slow_start = False
            self._limit = max(1.0, self._limit * BACKOFF)
