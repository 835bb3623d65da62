"""The queue between events and reconciliation.

A key waits at most once, with its earliest due time; a key that is being worked on is never handed out a second time,
so an object is reconciled by one task at a time; what arrives meanwhile is remembered and comes afterwards. The queue
needs no memory of events: it may lose any of them, the periodic look at every object repairs it.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, order=True, kw_only=True)
class Key:
    """One object, by UID: a recreated one of the same name is another."""

    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        """`Kind namespace/name`, for logs."""
        return f"{self.kind} {self.namespace}/{self.name}"


class WorkQueue:
    """Keys by due time; one holder a key."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use a monotonic clock, in seconds."""
        self._clock = clock
        self._heap: list[tuple[float, Key]] = []
        self._due: dict[Key, float] = {}
        self._working: dict[Key, float] = {}
        self._again: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Ask for `key` in `after` seconds; an earlier wish stands."""
        due = self._clock() + max(0.0, after)
        if key in self._working:
            self._again[key] = min(due, self._again.get(key, due))
            return
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        self._changed.set()

    async def take(self) -> Key:
        """Wait for the next key that is due and hold it until `done`."""
        while True:
            wait = self._until_next()
            if wait == 0.0:
                due, key = heapq.heappop(self._heap)
                if self._due.get(key) != due:
                    continue
                del self._due[key]
                self._working[key] = self._clock()
                return key
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        """Let go of a key; wishes that arrived meanwhile are queued now."""
        self._working.pop(key, None)
        due = self._again.pop(key, None)
        if due is not None:
            self.add(key, after=due - self._clock())

    def drop(self, key: Key) -> None:
        """Forget a key whose object is gone."""
        self._due.pop(key, None)
        self._again.pop(key, None)

    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def lag(self) -> float:
        """Seconds by which the most overdue key waits or is being worked on: the age that health is judged by."""
        now = self._clock()
        waiting = max((now - due for due in self._due.values()), default=0.0)
        working = max((now - since for since in self._working.values()), default=0.0)
        return max(0.0, waiting, working)

    def keys(self) -> set[Key]:
        """All keys that wait or are being worked on."""
        return set(self._due) | set(self._working)

    def _until_next(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None
