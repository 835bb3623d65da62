"""Progress of what reports none by itself: hashing a base, reading rows, by what the process has read.

A process that reads is at work; one that waits for a lock, for others or for a storage reads nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_SECONDS = 5.0
"""Seconds between looks."""
LEAST_BYTES = 1 << 20
"""Bytes between looks that count as work; what a process reads for its own sake is far below."""
COUNTERS = Path("/proc/self/io")
"""Linux's counts of what the process has read and written, a line each."""


@contextmanager
def reading(went_on: Callable[[], None], *, every: float = LOOK_SECONDS, counters: Path = COUNTERS) -> Iterator[None]:
    """Call `went_on`, from a thread, whenever the process has read something; nowhere but on Linux does it tell.

    Args:
        went_on: must be safe to call from another thread.
        every: seconds between looks.
        counters: the kernel's counts.
    """
    over = threading.Event()

    def look() -> None:
        seen = _bytes_read(counters)
        while not over.wait(every):
            found = _bytes_read(counters)
            if found >= seen + LEAST_BYTES:
                went_on()
            seen = found

    thread = threading.Thread(target=look, name="activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bytes_read(counters: Path) -> int:
    """Bytes that the process has asked of files, cached or not; 0 where nobody counts them."""
    try:
        lines = counters.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.removeprefix("rchar:")) for line in lines if line.startswith("rchar:")), 0)
