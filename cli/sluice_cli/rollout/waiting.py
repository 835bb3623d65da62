"""Waiting for a rollout: until it ends, until a command is acknowledged; what that means as an exit code."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Any

from sluice_cli.kube import KubeApi, KubeError
from sluice_cli.lineage import ROLLOUT
from sluice_cli.rollout.view import HELD_PHASES

REDRAW_S = 0.2
"""Shortest time between two pictures, in seconds."""
LOOK_S = 5.0
"""Longest time between two looks, in seconds: a watch may be silent."""
RETRY_S = 1.0
"""Time until a broken watch is tried again, in seconds."""

Raw = Mapping[str, Any]


class Exit(IntEnum):
    """Exit codes of the rollout commands."""

    DONE = 0
    """Completed; a command was carried out; a manifest is clean."""
    FAILED = 1
    """Rolled back, superseded, stalled or refused; a command does not apply; a manifest has problems."""
    UNJUDGED = 2
    """No such rollout, no cluster, bad usage."""
    HELD = 3
    """Paused, awaiting approval or inconclusive: a person's word is needed, and waiting on would not end."""
    TIMEOUT = 4
    """Still on its way when the time was over."""


def verdict_of(status: Raw, generation: int) -> Exit | None:
    """Return what a rollout has come to; None while it goes on by itself.

    A status that answers an older generation, or that has not been written yet, decides nothing.
    """
    if status.get("observedGeneration") != generation:
        return None
    outcome, phase = str(status.get("outcome") or ""), str(status.get("phase") or "")
    if outcome == "Completed" or phase == "Completed":
        return Exit.DONE
    if phase == "RollingBack":
        return None
    if outcome or phase in ("RolledBack", "Superseded", "Stalled", "Refused"):
        return Exit.FAILED
    return Exit.HELD if phase in HELD_PHASES else None


class Follower:
    """Yields a rollout as it changes, never faster than pictures are drawn. Use as a context manager."""

    def __init__(self, api: KubeApi, namespace: str, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Follow one rollout."""
        self._api, self._namespace, self._name, self._clock = api, namespace, name, clock
        self._woken: queue.Queue[None] = queue.Queue()
        self._ended = threading.Event()

    def __enter__(self) -> "Follower":
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def looks(self, timeout_s: float | None) -> Iterator[dict[str, Any] | None]:
        """Yield the rollout now and after every change, None where there is none, until the time is over.

        Raises KubeError where the first look fails; later ones are tried again.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        yield self._api.get(ROLLOUT, self._namespace, self._name)
        while deadline is None or self._clock() < deadline:
            left = LOOK_S if deadline is None else max(0.0, min(LOOK_S, deadline - self._clock()))
            self._await_change(left)
            try:
                yield self._api.get(ROLLOUT, self._namespace, self._name)
            except KubeError as error:
                if error.status is not None and error.status < 500 and error.status != 429:
                    raise
                self._ended.wait(min(RETRY_S, left))

    def _await_change(self, most_s: float) -> None:
        """Wait for a change, then a moment for those that come with it."""
        try:
            self._woken.get(timeout=most_s)
        except queue.Empty:
            return
        self._ended.wait(REDRAW_S)
        while not self._woken.empty():
            self._woken.get_nowait()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                for _ in self._api.watch(ROLLOUT, self._namespace, self._name):
                    self._woken.put(None)
                    if self._ended.is_set():
                        return
            except KubeError:
                # The looks go on by their timer; only the promptness is lost.
                self._ended.wait(RETRY_S)
