"""Progress of what reports none by itself: a download, by what it has put into its folder.

A folder that grows is work that goes on; one that does not is left to the limit for hangs, as it should be.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_SECONDS = 5.0
"""Seconds between looks."""


@contextmanager
def watched(folder: Path, grew: Callable[[], None], *, every: float = LOOK_SECONDS) -> Iterator[None]:
    """Call `grew`, from a thread, whenever the files below a folder have changed in size or number.

    Args:
        folder: need not be there yet.
        grew: must be safe to call from another thread.
        every: seconds between looks.
    """
    over = threading.Event()

    def look() -> None:
        seen = _size(folder)
        while not over.wait(every):
            found = _size(folder)
            if found != seen:
                grew()
            seen = found

    thread = threading.Thread(target=look, name="growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _size(folder: Path) -> tuple[int, int]:
    """Files below a folder and their bytes; one that goes away meanwhile counts as none."""
    count = total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                count, total = count + 1, total + path.stat().st_size
        except OSError:
            continue
    return count, total
