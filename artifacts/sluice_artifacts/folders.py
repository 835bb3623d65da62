"""Local folders that appear whole or not at all, and that one process at a time makes."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HIDDEN_PREFIX = ".sluice-"
"""Begins the names of locks and of what is still being written; listings leave them out."""

_TEMPORARY, _NEW, _OLD = f"{HIDDEN_PREFIX}tmp-", ".new", ".old"


@contextmanager
def folder_lock(destination: Path) -> Iterator[None]:
    """Hold the right to make a folder; whoever comes later waits, and finds it made.

    The lock is a hidden file beside the folder. The kernel gives it back when its holder dies, however that happens.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_lock_of(destination), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock_of(destination: Path) -> Path:
    return destination.parent / f"{HIDDEN_PREFIX}lock-{destination.name}"


def _sweep(parent: Path) -> None:
    """Remove what killed makers left of other folders: temporary folders whose lock nobody holds."""
    for left in parent.glob(f"{_TEMPORARY}*"):
        name = left.name.removeprefix(_TEMPORARY).removesuffix(_NEW).removesuffix(_OLD)
        try:
            descriptor = os.open(_lock_of(parent / name), os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)


@contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the destination's place at the end; on an error it is removed.

    What lies at the destination is replaced. To be used under `folder_lock`: the temporary folder's name follows from
    the destination's, so that the next maker of this folder, or of one beside it, can remove what a killed one left.
    """
    stem = f"{_TEMPORARY}{destination.name}"
    folder, replaced = destination.parent / f"{stem}{_NEW}", destination.parent / f"{stem}{_OLD}"
    for left in (folder, replaced):
        if left.exists():
            shutil.rmtree(left)
    _sweep(destination.parent)
    folder.mkdir(parents=True)
    try:
        yield folder
        if destination.exists():
            destination.rename(replaced)
        folder.rename(destination)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
