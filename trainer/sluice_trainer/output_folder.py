"""The output folder of `sluice train`: one command at a time, and every attempt under a number of its own."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS, CHECKPOINTS = "attempts", "checkpoints"
"""Below the output folder: an attempt's progress and result by its number, and what all attempts share."""
LOCK_FILE = ".sluice-lock"
"""Below the output folder; locked by the command that writes there."""
_CHECKPOINT = re.compile(r"\.attempt-(\d+)$")


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Hold an output folder, which is made; the kernel gives it back when its holder dies, however that happens.

    Raises:
        OSError: the folder cannot be made or locked.
        ValueError: another command holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(output / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{output}: another `sluice train` writes there: wait for it, or name another --output-dir"
            raise ValueError(message) from error
        yield
    finally:
        os.close(descriptor)


def claim_attempt(output: Path) -> int:
    """Make the folder of the next attempt and return its number: above every one that has left something.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = output / ATTEMPTS
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        attempt = 1 + max(_attempts(output), default=0)
        try:
            (folder / str(attempt)).mkdir()
        except FileExistsError:
            continue
        return attempt


def _attempts(output: Path) -> Iterator[int]:
    """Numbers of attempts, by their folders and by their checkpoints."""
    for path in (output / ATTEMPTS).iterdir():
        if path.name.isascii() and path.name.isdigit():
            yield int(path.name)
    if (output / CHECKPOINTS).is_dir():
        for path in (output / CHECKPOINTS).iterdir():
            if found := _CHECKPOINT.search(path.name):
                yield int(found[1])


@contextmanager
def rereadable(path: Path) -> Iterator[Path]:
    """The file itself, or a copy of what a pipe says: it can be read once, and is wanted more often.

    Raises:
        OSError: it cannot be read, or there is no room for a copy.
    """
    if path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sluice-rows-") as scratch, path.open("rb") as source:
        copy = Path(scratch) / "rows"
        with copy.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        yield copy
