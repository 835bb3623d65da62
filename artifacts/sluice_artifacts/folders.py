"""Local folders that appear whole or not at all, and that one process at a time makes."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HIDDEN_PREFIX = ".sluice-"
"""Begins the names of locks and of what is still being written; listings leave them out."""


@contextmanager
def folder_lock(destination: Path) -> Iterator[None]:
    """Hold the right to make a folder; whoever comes later waits, and finds it made.

    The lock is a hidden file beside the folder. The kernel gives it back when its holder dies, however that happens.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(destination.parent / f"{HIDDEN_PREFIX}lock-{destination.name}", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the destination's place at the end; on an error it is removed.

    What lies at the destination is replaced. To be used under `folder_lock`.
    """
    stem = f"{HIDDEN_PREFIX}tmp-{secrets.token_hex(8)}"
    folder, replaced = destination.parent / f"{stem}.new", destination.parent / f"{stem}.old"
    folder.mkdir(parents=True)
    try:
        yield folder
        if destination.exists():
            destination.rename(replaced)
        folder.rename(destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
