"""Large uploads to S3: parts in parallel, each checked by SHA-256 on arrival, visible only once all are there."""

import hashlib
import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 16 << 20
"""Bytes of a part, and the size up to which a file goes in one request. S3 takes parts of 5 MiB to 5 GiB."""

MAX_PARTS = 10_000
"""Parts that S3 allows for one object; larger files get larger parts."""

PARTS_IN_FLIGHT = 4
"""Parts sent at a time; with the one being read, the parts that are in memory."""

_log = logging.getLogger(__name__)


def send_parts(
    client: "S3Client",
    bucket: str,
    key: str,
    source: BinaryIO,
    size: int,
    *,
    metadata: Mapping[str, str],
    condition: Mapping[str, Any],
) -> str:
    """Upload a stream of about `size` bytes and return the SHA-256, in hexadecimal, of what was sent.

    `condition` (`IfNoneMatch`, `IfMatch`) applies when the object becomes visible. On any error the parts are given
    up, so that they cost nothing.

    Raises:
        ClientError, BotoCoreError: as the client does.
    """
    upload = client.create_multipart_upload(
        Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256", Metadata=dict(metadata)
    )["UploadId"]
    try:
        parts, digest = _send(client, bucket, key, upload, source, max(PART_BYTES, -(-size // MAX_PARTS)))
        client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
        )
        return digest
    except BaseException:
        _abort(client, bucket, key, upload)
        raise


def _send(
    client: "S3Client", bucket: str, key: str, upload: str, source: BinaryIO, part_bytes: int
) -> "tuple[list[CompletedPartTypeDef], str]":
    """Send every part and return their list and the SHA-256 of the whole."""

    def send(number: int, data: bytes) -> "CompletedPartTypeDef":
        answer = client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumAlgorithm="SHA256"
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]}

    digest = hashlib.sha256()
    parts: list[CompletedPartTypeDef] = []
    flying: deque[Future[CompletedPartTypeDef]] = deque()
    with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="upload") as pool:
        while data := source.read(part_bytes):
            digest.update(data)
            if len(flying) == PARTS_IN_FLIGHT:
                parts.append(flying.popleft().result())
            flying.append(pool.submit(send, len(parts) + len(flying) + 1, data))
        parts.extend(future.result() for future in flying)
    return parts, digest.hexdigest()


def _abort(client: "S3Client", bucket: str, key: str, upload: str) -> None:
    """Give the parts up; what cannot be given up now is left to the bucket's lifecycle rule."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except (ClientError, BotoCoreError) as error:
        _log.warning("s3://%s/%s: an unfinished upload was left behind: %s", bucket, key, type(error).__name__)
