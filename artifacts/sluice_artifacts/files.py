"""Artifacts on a file system: `file:///absolute/path`.

Writes go to a hidden temporary file in the target's folder, are synced, and then renamed, or linked where the object
must not exist yet. Compare and set holds a lock on the folder between reading the old content and renaming the new.
The etag is the SHA-256 of the content.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from sluice_artifacts.digests import CHUNK_BYTES
from sluice_artifacts.errors import (
    ArtifactError,
    ConflictError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from sluice_artifacts.folders import HIDDEN_PREFIX
from sluice_artifacts.store import ObjectInfo

LOCK_FILE = HIDDEN_PREFIX + "lock"
"""Lock of a folder, only where the file system cannot lock folders themselves (NFS)."""

LOCK_TIMEOUT_S = 30.0
"""Seconds to wait for another writer: a write holds the lock for milliseconds, so that a longer wait is a fault."""

FOLDER_ATTEMPTS = 100
"""Times that a writer makes its folder anew when others remove it as empty."""

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_UNREACHABLE = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO}
_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_CANNOT_LOCK_FOLDER = {errno.EBADF, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EISDIR}


def file_path(uri: str) -> Path:
    """Return the absolute path that a `file://` URI names; percent escapes are decoded.

    Raises:
        ArtifactError: another scheme or host, a relative path, or a `..` segment.
    """
    scheme, _, rest = uri.partition("://")
    host, slash, below = rest.partition("/")
    path = unquote(slash + below)
    if scheme != "file" or host not in ("", "localhost") or not slash:
        raise ArtifactError(uri, "not a file:// URI with an absolute path: write file:///path")
    if ".." in path.split("/") or "\0" in path:
        raise ArtifactError(uri, "a '..' segment is refused: write the path that is meant")
    return Path(path)


class FileStore:
    """The `file://` store. Holds no state; any number may be used at once, by any number of processes."""

    def read(self, uri: str) -> bytes:
        """Return a file's bytes."""
        with _translated(uri):
            return file_path(uri).read_bytes()

    def read_with_etag(self, uri: str) -> tuple[bytes, str]:
        """Return a file's bytes and their SHA-256."""
        data = self.read(uri)
        return data, hashlib.sha256(data).hexdigest()

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a file whole, under the conditions of `Store.write`."""
        if if_absent and if_match is not None:
            raise ValueError("if_absent and if_match exclude each other")
        target = file_path(uri)
        with _translated(uri), _temporary_beside(target) as temporary:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            _place(uri, temporary, target, if_absent=if_absent, if_match=if_match)
        return hashlib.sha256(data).hexdigest()

    def download(self, uri: str, path: Path, *, sha256: str | None = None) -> str:
        """Copy a file out, verified. An `OSError` is about the copy."""
        return write_stream(uri, _chunks(uri, file_path(uri)), path, sha256=sha256)

    def sha256(self, uri: str) -> str:
        """Return the SHA-256 of a file."""
        digest = hashlib.sha256()
        for chunk in _chunks(uri, file_path(uri)):
            digest.update(chunk)
        return digest.hexdigest()

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> str:
        """Copy a file in. An `OSError` is about the file that is read."""
        target = file_path(uri)
        digest = hashlib.sha256()
        with path.open("rb") as source, _translated(uri), _temporary_beside(target) as temporary:
            with temporary.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    digest.update(chunk)
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
            _place(uri, temporary, target, if_absent=if_absent)
        return digest.hexdigest()

    def exists(self, uri: str) -> bool:
        """Tell whether the URI names a file."""
        with _translated(uri):
            try:
                return stat.S_ISREG(file_path(uri).stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files below a folder, links followed, in byte order of their URIs."""
        base = prefix.rstrip("/")
        folder = file_path(prefix)
        for relative, status in _walk(prefix, folder, "", ()):
            yield ObjectInfo(
                uri=f"{base}/{relative.replace('%', '%25')}",
                size=status.st_size,
                modified=datetime.fromtimestamp(status.st_mtime, UTC),
                etag=f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}",
            )

    def delete(self, uri: str) -> None:
        """Remove a file, and its folder where nothing else is in it; a missing one is fine."""
        target = file_path(uri)
        with _translated(uri):
            if target.is_dir():
                raise ArtifactError(uri, "is a folder, not an object")
            with suppress(FileNotFoundError, NotADirectoryError), _folder_lock(uri, target.parent):
                target.unlink()
                _sync_folder(target.parent)
                _remove_if_empty(target.parent)


def write_stream(uri: str, chunks: Iterator[bytes], path: Path, *, sha256: str | None) -> str:
    """Write chunks to a file that appears whole or not at all, and return their SHA-256 in hexadecimal.

    Raises:
        CorruptError: `sha256` is given and the bytes have another one; no file is left.
        OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with _temporary_beside(path) as temporary:
        with temporary.open("wb") as sink:
            for chunk in chunks:
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise CorruptError(
                uri, f"its SHA-256 is {found}, {sha256} was expected; publish it again or point to an intact copy"
            )
        temporary.replace(path)
        _sync_folder(path.parent)
    return found


def _chunks(uri: str, source: Path) -> Iterator[bytes]:
    """Yield a file's bytes."""
    with _translated(uri), source.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _place(uri: str, temporary: Path, target: Path, *, if_absent: bool, if_match: str | None = None) -> None:
    """Give a finished temporary file its name."""
    if target.is_dir():
        raise ArtifactError(uri, "is a folder, not an object")
    with _folder_lock(uri, target.parent):
        if if_absent:
            _claim(uri, temporary, target)
        else:
            if if_match is not None:
                _check_match(uri, target, if_match)
            temporary.replace(target)
        _sync_folder(target.parent)


def _claim(uri: str, temporary: Path, target: Path) -> None:
    """Give the temporary file a name that must be free, under the folder's lock."""
    try:
        # A link fails when the name is taken, even by a writer on another host that does not see the lock.
        target.hardlink_to(temporary)
        temporary.unlink()
    except FileExistsError:
        raise ConflictError(uri, "exists already") from None
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        if target.exists():
            raise ConflictError(uri, "exists already") from None
        temporary.replace(target)


def _check_match(uri: str, target: Path, if_match: str) -> None:
    """Raise `ConflictError` unless the file still has the etag."""
    try:
        found = hashlib.sha256(target.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise ConflictError(uri, "does not exist any more; read it again and decide anew") from None
    if found != if_match:
        raise ConflictError(uri, "was changed by another writer; read it again and decide anew")


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """Make an empty hidden file in the target's folder, which is created; remove what is left there at the end."""
    temporary = target.parent / f"{HIDDEN_PREFIX}tmp-{secrets.token_hex(8)}"
    for last in (attempt == FOLDER_ATTEMPTS - 1 for attempt in range(FOLDER_ATTEMPTS)):
        try:
            _make_folders(target.parent)
            temporary.touch(exist_ok=False)
            break
        except FileNotFoundError:  # a folder was removed as empty before anything lay in it
            if last:
                raise
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    """Create a folder and its parents, each synced into the one above."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing, as prefixes go with their last object; one that is in use stays."""
    with suppress(OSError):
        folder.rmdir()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a crash, where the file system can do that for folders."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _folder_lock(uri: str, folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        UnreachableError: another writer held it for `LOCK_TIMEOUT_S`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            _lock(uri, descriptor)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK_FOLDER:
                raise
            os.close(descriptor)
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(uri, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(uri: str, descriptor: int) -> None:
    """Take an exclusive lock, which closing the descriptor gives back."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UnreachableError(
                    uri, f"another writer has held the folder's lock for {LOCK_TIMEOUT_S:.0f} s; stop it and try again"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.02)


def _walk(
    prefix: str, folder: Path, below: str, ancestors: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield `(relative path, stat)` in byte order; a folder sorts as its name with a slash, as in an S3 listing."""
    found: list[tuple[bytes, str, os.stat_result]] = []
    try:
        with _translated(prefix):
            here = folder.stat()
            identity = (here.st_dev, here.st_ino)
            if identity in ancestors:
                return
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(HIDDEN_PREFIX):
                        continue
                    with suppress(FileNotFoundError):  # deleted since, or a dangling link
                        status = entry.stat()
                        shown = entry.name + "/" if stat.S_ISDIR(status.st_mode) else entry.name
                        found.append((os.fsencode(shown), shown, status))
    except NotFoundError:
        return
    for _, shown, status in sorted(found, key=lambda entry: entry[0]):
        if shown.endswith("/"):
            yield from _walk(prefix, folder / shown[:-1], below + shown, (*ancestors, identity))
        elif stat.S_ISREG(status.st_mode):
            yield below + shown, status


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turn operating system errors into artifact errors."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _MISSING:
            raise NotFoundError(uri, f"{reason}; check the path, or wait until it is written") from error
        if error.errno in _FORBIDDEN:
            raise ForbiddenError(uri, f"{reason}; give this user access to it") from error
        if error.errno in _UNREACHABLE:
            raise UnreachableError(uri, f"{reason}; check the file system") from error
        raise ArtifactError(uri, f"{reason}; check the file system") from error
