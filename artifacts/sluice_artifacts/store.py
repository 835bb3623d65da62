"""The one interface to artifact storage, and the choice of its implementation by URI scheme."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from sluice_artifacts.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What a listing tells about one object."""

    uri: str
    """Full URI; begins with the prefix as it was asked for."""
    size: int
    """Bytes."""
    modified: datetime
    """Time of the last write, aware, UTC."""
    etag: str
    """Changes whenever the object does; opaque. For caches: compare and set takes the etag of `read_with_etag`."""


class Store(Protocol):
    """Objects by URI, for one scheme. Implementations are safe to share between threads.

    Every method raises `ForbiddenError` when the storage refuses, `UnreachableError` when it does not answer, and
    `NotFoundError` when the object, or the bucket, is missing. A write is visible whole or not at all.
    """

    def read(self, uri: str) -> bytes:
        """Return an object's bytes."""
        ...

    def read_with_etag(self, uri: str) -> tuple[bytes, str]:
        """Return an object's bytes and the etag to compare and set with."""
        ...

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object and return its etag.

        With `if_absent` the object must not exist; with `if_match` it must still have that etag; `ConflictError`
        otherwise. The two exclude each other (`ValueError`).
        """
        ...

    def download(self, uri: str, path: Path, *, sha256: str | None = None) -> str:
        """Stream an object to a file and return its SHA-256 in hexadecimal.

        The file appears whole or not at all. With `sha256` (hexadecimal) other bytes raise `CorruptError` and leave
        no file.
        """
        ...

    def sha256(self, uri: str) -> str:
        """Stream an object and return its SHA-256 in hexadecimal; nothing is kept."""
        ...

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> str:
        """Stream a file to an object and return the SHA-256, in hexadecimal, of the bytes that were sent.

        With `if_absent` the object must not exist (`ConflictError`).
        """
        ...

    def exists(self, uri: str) -> bool:
        """Tell whether an object lies at the URI; a prefix is no object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix, at any depth, in byte order of their URIs.

        The prefix is a folder: `…/a` lists `…/a/b`, never `…/ab`. An empty prefix yields nothing; a missing bucket
        raises `NotFoundError`.
        """
        ...

    def delete(self, uri: str) -> None:
        """Remove an object; one that is gone already is fine."""
        ...


def open_store(uri: str) -> Store:
    """Return the store for a URI's scheme.

    `s3://` takes its endpoint and credentials from the standard `AWS_*` variables (`AWS_ENDPOINT_URL_S3`,
    `AWS_ENDPOINT_URL`, `AWS_REGION`, keys, profiles, web identity).

    Raises:
        ArtifactError: the scheme is neither `file` nor `s3`, or the S3 client cannot be built.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        from sluice_artifacts.files import FileStore

        return FileStore()
    if scheme == "s3":
        try:
            from sluice_artifacts.s3 import open_s3
        except ImportError as error:
            raise ArtifactError(uri, "s3:// needs boto3: pip install 'sluice[artifacts]'") from error
        return open_s3()
    raise ArtifactError(uri, "artifact URIs are file:///path or s3://bucket/key")


def join(prefix: str, *parts: str) -> str:
    """Append path segments to a URI with single slashes between them; a trailing slash of the last part stays.

    Raises:
        ValueError: a part would leave the prefix (`..`) or is not a plain relative path.
    """
    scheme, separator, rest = prefix.partition("://")
    for part in filter(None, parts):
        slash = "/" if part.endswith("/") else ""
        rest = f"{rest.rstrip('/')}/{check_relative(part.strip('/'))}{slash}"
    return f"{scheme}{separator}{rest}"


def check_relative(path: str) -> str:
    """Return the path when it is a plain relative one.

    Raises:
        ValueError: it is empty or absolute, has an empty, `.` or `..` segment, or a control character or backslash.
    """
    bad_segment = any(segment in ("", ".", "..") for segment in path.split("/"))
    if bad_segment or "\\" in path or any(ord(character) < 32 for character in path):
        raise ValueError(f"path {path!r} is not a plain relative path")
    return path
