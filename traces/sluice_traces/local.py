"""Files of this machine that the commands read and write: found without traps, written whole, named safely.

A folder that somebody hands in may hold anything: links in a circle, pipes that nobody writes to, names that are no
text and names that would steer a terminal.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sluice_traces.reader import MAX_FILE_BYTES, BadFileError, BadReason, check_size, is_trace_name

_TEXT_LIMIT = 600
_NO_FOLDER_LOCK = {errno.EBADF, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EISDIR, errno.ENOLCK}


def trace_files(root: Path) -> Iterator[Path]:
    """The trace files below a folder, links followed but never in a circle, in the order of their relative paths.

    Raises:
        OSError: a folder cannot be listed, so that nobody knows what it holds.
    """
    yield from _walk(root, ())


def _walk(folder: Path, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        here = folder.stat()
        identity = (here.st_dev, here.st_ino)
        if identity in ancestors:
            return
        with os.scandir(folder) as entries:
            listed = sorted((entry.name + "/" if _is_folder(entry) else entry.name) for entry in entries)
    except FileNotFoundError:
        if not ancestors:
            raise
        return
    for name in listed:
        if not name.endswith("/"):
            if is_trace_name(name):
                yield folder / name
        elif is_trace_name(f"{name}x.json"):
            yield from _walk(folder / name[:-1], (*ancestors, identity))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself: whoever reads it learns so.
        return False


def read_trace(path: Path) -> tuple[bytes, int]:
    """The bytes of a trace file and its time of change in nanoseconds, taken before it was read.

    Raises:
        BadFileError: it is gone, larger than any trace, no regular file, or cannot be read.
    """
    modified = trace_time(path)
    try:
        return path.read_bytes(), modified
    except OSError as error:
        raise _unreadable(error) from None


def trace_time(path: Path) -> int:
    """The time of change of a trace file in nanoseconds; refuses what must not be read.

    Raises:
        BadFileError: as `read_trace`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(error) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(BadReason.UNREADABLE, "it is no regular file")
    check_size(status.st_size, MAX_FILE_BYTES)
    return status.st_mtime_ns


def _unreadable(error: OSError) -> BadFileError:
    if isinstance(error, FileNotFoundError):
        return BadFileError(BadReason.VANISHED, "gone when it was read")
    return BadFileError(BadReason.UNREADABLE, error.strerror or "cannot be read")


def write_atomically(target: Path, content: bytes, *, modified_ns: int | None = None) -> None:
    """Write a file that appears whole or not at all; optionally with a given modification time.

    Raises:
        OSError: it cannot be written.
    """
    with _temporary_beside(target) as temporary:
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        if modified_ns is not None:
            os.utime(temporary, ns=(modified_ns, modified_ns))
        temporary.replace(target)


def write_lines(target: Path, lines: Iterable[bytes]) -> int:
    """Write lines, or blocks of them, to a file that appears whole or not at all; return how many.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with _temporary_beside(target) as temporary:
        with temporary.open("wb") as out:
            for line in lines:
                out.write(line)
                count += 1
        temporary.replace(target)
    return count


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A hidden name that is short whatever the target's is, and that no other process or machine takes."""
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def only_editor(path: Path) -> Iterator[None]:
    """Let one process at a time read, change and write a file of a folder; where folders cannot be locked, any."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_FOLDER_LOCK:
                raise
        yield
    finally:
        os.close(descriptor)


def is_text(name: str) -> bool:
    """Whether a file name is UTF-8; Python carries other bytes as lone surrogates."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def name_text(path: str) -> str:
    """A file name as text: bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def harmless(value: object) -> str:
    """A text without control characters (shown as escapes), cut to a length that a screen can hold."""
    text = "" if value is None else str(value)
    cut = text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + f"… ({len(text)} characters)"
    return "".join(
        character if character.isprintable() else f"\\x{ord(character):02x}" if character != "\n" else " ⏎ "
        for character in cut
    )
