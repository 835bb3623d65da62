"""Temporary folders of a build that do not outlive it: whoever comes next removes what a killed process left."""

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def workspace(prefix: str) -> Iterator[Path]:
    """A new folder below the machine's temporary one, removed at the end, and at the latest by the next one's start.

    A lock is held beside the folder for as long as the process lives; one that nobody holds marks what was left.

    Args:
        prefix: begins the name; folders of other prefixes are not looked at.

    Raises:
        OSError: the folder cannot be made, or an index in it cannot be written.
    """
    _sweep(prefix)
    try:
        with _folder(prefix) as folder:
            yield folder
    except sqlite3.OperationalError as error:
        # What lies there is indexed by SQLite, which has errors of its own for a disk that is full or gone.
        raise OSError(errno.ENOSPC, f"the temporary folder {tempfile.gettempdir()}: {error}") from error


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    descriptor, name = _locked(prefix)
    folder = Path(name.removesuffix(_LOCK))
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(name).unlink(missing_ok=True)
        os.close(descriptor)


def _locked(prefix: str) -> tuple[int, str]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_LOCK)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have taken the new file for one that was left, before it was locked.
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)


def _sweep(prefix: str) -> None:
    for lock in Path(tempfile.gettempdir()).glob(f"{prefix}*{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(str(lock).removesuffix(_LOCK), ignore_errors=True)
                lock.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
