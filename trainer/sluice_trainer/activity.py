"""Progress of what reports none by itself: a download by what its folder holds, hashing by what the process has read.

A folder that grows and a process that reads are at work; one that waits for a lock, for others or for a storage does
neither, and is left to the limit for hangs, as it should be.
"""

import logging
import operator
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from sluice_artifacts import ArtifactError

LOOK_SECONDS = 5.0
"""Seconds between looks."""
LEAST_BYTES = 1 << 20
"""Bytes read between looks that count as work; what a process reads for its own sake is far below."""
COUNTERS = Path("/proc/self/io")
"""Linux's counts of what the process has read and written, a line each."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@contextmanager
def at_work(folder: Path, went_on: Callable[[], None]) -> Iterator[None]:
    """Call `went_on` when a folder has grown and when the process has read: `watched` and `reading` together."""
    with watched(folder, went_on), reading(went_on):
        yield


@contextmanager
def watched(folder: Path, grew: Callable[[], None], *, every: float = LOOK_SECONDS) -> Iterator[None]:
    """Call `grew`, from a thread, whenever the files below a folder have changed in size or number.

    Args:
        folder: need not be there yet.
        grew: must be safe to call from another thread.
        every: seconds between looks.
    """
    with _looks(partial(_size, folder), operator.ne, grew, every):
        yield


@contextmanager
def reading(went_on: Callable[[], None], *, every: float = LOOK_SECONDS, counters: Path = COUNTERS) -> Iterator[None]:
    """Call `went_on`, from a thread, whenever the process has read something; nowhere but on Linux does it tell.

    Args:
        went_on: must be safe to call from another thread.
        every: seconds between looks.
        counters: the kernel's counts.
    """
    with _looks(partial(_bytes_read, counters), lambda seen, found: found >= seen + LEAST_BYTES, went_on, every):
        yield


@contextmanager
def _looks(
    measure: Callable[[], T], moved: Callable[[T, T], bool], went_on: Callable[[], None], every: float
) -> Iterator[None]:
    """Call `went_on`, from a thread, whenever `moved` says so of what was measured before and what is now."""
    over = threading.Event()

    def look() -> None:
        seen: T | None = None
        while True:
            # A look that fails costs that look: without the thread long work would be taken for a hang.
            try:
                found = measure()
                if seen is not None and moved(seen, found):
                    went_on()
                seen = found
            except (OSError, ArtifactError):
                _log.exception("a look at what goes on failed, trying again")
            if over.wait(every):
                return

    thread = threading.Thread(target=look, name="activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _size(folder: Path) -> tuple[int, int]:
    """Files below a folder and their bytes; one that goes away meanwhile counts as none."""
    count = total = 0
    # Unlike rglob, walk passes over folders that vanish while it walks.
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(parent, name).stat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                count, total = count + 1, total + status.st_size
    return count, total


def _bytes_read(counters: Path) -> int:
    """Bytes that the process has asked of files, cached or not; 0 where nobody counts them."""
    try:
        lines = counters.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.removeprefix("rchar:")) for line in lines if line.startswith("rchar:")), 0)
