"""Artifacts in S3 and in what speaks its protocol: `s3://bucket/key`.

Conditions are the storage's own (`If-None-Match`, `If-Match`), on multipart completion too, so that they hold between
any number of hosts. A conditional write carries a random token in its metadata: when a reply got lost and the repeated
request is refused, the token tells our own success from somebody else's.
"""

import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from sluice_artifacts.digests import CHUNK_BYTES
from sluice_artifacts.errors import ArtifactError, ConflictError, CorruptError, NotFoundError, UnreachableError
from sluice_artifacts.files import write_stream
from sluice_artifacts.multipart import PART_BYTES, send_parts
from sluice_artifacts.s3_errors import error_code, translated
from sluice_artifacts.store import ObjectInfo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TOKEN_KEY = "sluice-write"
"""Metadata key of the token that a conditional write carries."""

CONNECT_TIMEOUT_S = 5
"""Seconds to connect; an endpoint that needs longer is as good as unreachable."""

READ_TIMEOUT_S = 30
"""Seconds without a byte."""

REQUEST_ATTEMPTS = 4
"""Times that the client tries a request, with exponential back-off and jitter."""

STREAM_ATTEMPTS = 4
"""Times that a broken download is taken up again where it stopped."""

CONFLICT_ATTEMPTS = 5
"""Times that a conditional write is repeated when the storage reports another one in flight (HTTP 409)."""

_log = logging.getLogger(__name__)


class Location(NamedTuple):
    """Where an object lies."""

    bucket: str
    key: str


def location(uri: str, *, prefix: bool = False) -> Location:
    """Split an `s3://` URI; the key is taken as it is, without percent decoding.

    Raises:
        ArtifactError: another scheme, no bucket, no key (unless it is a prefix), or a `.` or `..` segment.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ArtifactError(uri, "not an S3 URI: write s3://bucket/key")
    if not prefix and (not key or key.endswith("/")):
        raise ArtifactError(uri, "names no object: write s3://bucket/key")
    if any(segment in (".", "..") for segment in key.split("/")):
        raise ArtifactError(uri, "a '..' segment is refused: write the key that is meant")
    return Location(bucket, key)


def open_s3() -> "S3Store":
    """Return the store for the endpoint and credentials in the environment; equal environments share a client.

    Raises:
        ArtifactError: the environment names a profile or an endpoint that cannot be used.
    """
    relevant = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _building:
        return _store(relevant)


_building = threading.Lock()


@lru_cache(maxsize=8)
def _store(environment: tuple[tuple[str, str], ...]) -> "S3Store":
    variables = dict(environment)
    own_endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        max_pool_connections=32,
        s3={"addressing_style": "path" if own_endpoint else "auto"},
        user_agent_extra="sluice",
    )
    with translated("s3://", own_endpoint or "S3"):
        session = boto3.session.Session()
        try:
            client = session.client("s3", region_name=session.region_name or "us-east-1", config=config)
        except ValueError as error:
            raise ArtifactError("s3://", f"no S3 client: {error}; correct AWS_ENDPOINT_URL_S3") from error
    return S3Store(client)


class S3Store:
    """The `s3://` store over one boto3 client, which is safe to share between threads."""

    def __init__(self, client: "S3Client") -> None:
        """Use a client; `open_s3` builds one."""
        self._client = client
        self._endpoint = client.meta.endpoint_url

    def read(self, uri: str) -> bytes:
        """Return an object's bytes."""
        return self.read_with_etag(uri)[0]

    def read_with_etag(self, uri: str) -> tuple[bytes, str]:
        """Return an object's bytes and its etag, of one and the same version."""
        download = _Download(self._client, self._endpoint, uri)
        return b"".join(download), download.etag

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Put a small object, checked by SHA-256 on arrival, under the conditions of `Store.write`."""
        if if_absent and if_match is not None:
            raise ValueError("if_absent and if_match exclude each other")
        bucket, key = location(uri)
        condition = _condition(if_absent, if_match)
        token = secrets.token_hex(16)
        for last in (attempt == CONFLICT_ATTEMPTS - 1 for attempt in range(CONFLICT_ATTEMPTS)):
            try:
                with translated(uri, self._endpoint):
                    answer = self._client.put_object(
                        Bucket=bucket,
                        Key=key,
                        Body=data,
                        ChecksumAlgorithm="SHA256",
                        Metadata={TOKEN_KEY: token} if condition else {},
                        **condition,
                    )
                return _plain(answer["ETag"])
            except ConflictError as error:
                etag = self._own_etag(uri, token, error)
                if etag is not None:
                    return etag
                if last or error_code(error.__cause__) != "ConditionalRequestConflict":
                    raise
        raise AssertionError("the last attempt either returns or raises")

    def download(self, uri: str, path: Path, *, sha256: str | None = None) -> str:
        """Stream an object to a file, verified. An `OSError` is about the file."""
        return write_stream(uri, iter(_Download(self._client, self._endpoint, uri)), path, sha256=sha256)

    def sha256(self, uri: str) -> str:
        """Stream an object, and return its SHA-256."""
        digest = hashlib.sha256()
        for chunk in _Download(self._client, self._endpoint, uri):
            digest.update(chunk)
        return digest.hexdigest()

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> str:
        """Stream a file to an object; a large one in parts, which become visible together."""
        bucket, key = location(uri)
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size <= PART_BYTES:
                data = source.read()
                self.write(uri, data, if_absent=if_absent)
                return hashlib.sha256(data).hexdigest()
            token = secrets.token_hex(16)
            try:
                with translated(uri, self._endpoint):
                    return send_parts(
                        self._client,
                        bucket,
                        key,
                        source,
                        size,
                        metadata={TOKEN_KEY: token},
                        condition=_condition(if_absent, None),
                    )
            except (ConflictError, NotFoundError) as error:
                if self._own_etag(uri, token, error) is None:
                    raise
                source.seek(0)
                return hashlib.file_digest(source, "sha256").hexdigest()

    def exists(self, uri: str) -> bool:
        """Tell whether an object lies at the URI."""
        bucket, key = location(uri)
        try:
            with translated(uri, self._endpoint):
                self._client.head_object(Bucket=bucket, Key=key)
            return True
        except NotFoundError:
            pass
        # The answer to HEAD has no body: only that to GET tells a missing object from a missing bucket or an unknown
        # access key, which some servers call "not found" too.
        try:
            with translated(uri, self._endpoint):
                self._client.get_object(Bucket=bucket, Key=key)["Body"].close()
            return True
        except NotFoundError as error:
            if error.uri != uri:
                raise
            return False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix, page by page."""
        bucket, folder = location(prefix, prefix=True)
        base = prefix.rstrip("/") + "/"
        folder = folder.rstrip("/") + "/" if folder.strip("/") else ""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
        iterator = iter(pages)
        while True:
            with translated(prefix, self._endpoint):
                page = next(iterator, None)
            if page is None:
                return
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield ObjectInfo(
                        uri=base + entry["Key"][len(folder) :],
                        size=entry["Size"],
                        modified=entry["LastModified"],
                        etag=_plain(entry["ETag"]),
                    )

    def delete(self, uri: str) -> None:
        """Remove an object; a missing one is fine."""
        bucket, key = location(uri)
        try:
            with translated(uri, self._endpoint):
                self._client.delete_object(Bucket=bucket, Key=key)
        except NotFoundError as error:
            if error.uri != uri:
                raise

    def _own_etag(self, uri: str, token: str, refusal: ArtifactError) -> str | None:
        """Return the object's etag when the refused write was in fact done, by an earlier try of the same request."""
        cause = refusal.__cause__
        retries = cause.response["ResponseMetadata"].get("RetryAttempts", 0) if isinstance(cause, ClientError) else 0
        if not retries:
            return None
        bucket, key = location(uri)
        try:
            with translated(uri, self._endpoint):
                found = self._client.head_object(Bucket=bucket, Key=key)
        except NotFoundError:
            return None
        return _plain(found["ETag"]) if found["Metadata"].get(TOKEN_KEY) == token else None


class _Download:
    """The chunks of one version of an object; a stream that breaks is taken up again where it stopped."""

    def __init__(self, client: "S3Client", endpoint: str, uri: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._uri = uri
        self._location = location(uri)
        self.etag = ""
        """Etag of the version; known once the first chunk is."""

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for attempt in range(STREAM_ATTEMPTS):
            try:
                for chunk in self._from(done):
                    done += len(chunk)
                    yield chunk
                return
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
                _log.warning("%s: the download broke after %d bytes: %s", self._uri, done, type(error).__name__)
                if attempt + 1 == STREAM_ATTEMPTS:
                    message = f"the download from {self._endpoint} broke {STREAM_ATTEMPTS} times; try again later"
                    raise UnreachableError(self._uri, message) from error
            except FlexibleChecksumError as error:
                message = "its bytes differ from the checksum that the storage keeps; publish it again"
                raise CorruptError(self._uri, message) from error

    def _from(self, offset: int) -> Iterator[bytes]:
        """Yield the rest from an offset, of the version that was begun with."""
        bucket, key = self._location
        rest: dict[str, Any] = {"Range": f"bytes={offset}-", "IfMatch": f'"{self.etag}"'} if offset else {}
        try:
            with translated(self._uri, self._endpoint):
                answer = self._client.get_object(Bucket=bucket, Key=key, **rest)
        except ConflictError as error:
            raise ConflictError(self._uri, "was replaced while it was read; read it again") from error
        self.etag = _plain(answer["ETag"])
        with closing(answer["Body"]) as body:
            yield from body.iter_chunks(CHUNK_BYTES)


def _condition(if_absent: bool, if_match: str | None) -> dict[str, Any]:
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {} if if_match is None else {"IfMatch": f'"{if_match}"'}


def _plain(etag: str) -> str:
    return etag.strip('"')
