"""Progress of what reports none by itself: a download, by what it has put into its folder.

A folder that grows is work that goes on; one that does not is left to the limit for hangs, as it should be.
"""

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sluice_artifacts import ArtifactError

LOOK_SECONDS = 5.0
"""Seconds between looks."""
_log = logging.getLogger(__name__)


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
        seen: tuple[int, int] | None = None
        while True:
            # A look that fails costs that look: without the thread a long download would be taken for a hang.
            try:
                found = _size(folder)
                if seen is not None and found != seen:
                    grew()
                seen = found
            except (OSError, ArtifactError):
                _log.exception("%s: could not be looked at, trying again", folder)
            if over.wait(every):
                return

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
