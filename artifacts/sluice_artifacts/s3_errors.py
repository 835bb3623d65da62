"""The edge where the S3 client's errors become artifact errors, each with what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto

from sluice_artifacts.errors import (
    ArtifactError,
    ConflictError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)

_CREDENTIALS_MISSING = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_UNREACHABLE = (
    boto.HTTPClientError,
    boto.EndpointConnectionError,
    boto.ConnectionError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
)
_DIGEST_CODES = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId": "the access key is unknown: correct AWS_ACCESS_KEY_ID",
    "XAdminUserNotFound": "the access key is unknown: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the signature is wrong: correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired: renew them",
    "RequestTimeTooSkewed": "this machine's clock differs from the storage's: set it",
    "AuthorizationHeaderMalformed": "the request names another region than the bucket's: set AWS_REGION",
    "PermanentRedirect": "the bucket lies in another region: set AWS_REGION",
}


def error_code(error: BaseException | None) -> str:
    """Return the S3 error code of a client error, empty for anything else."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


@contextmanager
def translated(uri: str, endpoint: str) -> Iterator[None]:
    """Turn the client's errors into artifact errors, the original as their cause."""
    try:
        yield
    except boto.ClientError as error:
        raise _from_answer(uri, endpoint, error) from error
    except _CREDENTIALS_MISSING as error:
        raise ForbiddenError(
            uri, "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod an identity"
        ) from error
    except _UNREACHABLE as error:
        raise UnreachableError(
            uri,
            f"{endpoint} does not answer ({type(error).__name__}): check AWS_ENDPOINT_URL_S3, the network, the server",
        ) from error
    except boto.ParamValidationError as error:
        raise ArtifactError(uri, "no valid bucket or key: write s3://bucket/key") from error
    except boto.BotoCoreError as error:
        raise ArtifactError(uri, f"the S3 client cannot be used ({type(error).__name__}: {error})") from error


def _from_answer(uri: str, endpoint: str, error: boto.ClientError) -> ArtifactError:
    """Translate an answer of the storage; the HTTP status decides where the code says nothing (HEAD has no body)."""
    code = error_code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        bucket = "s3://" + uri.removeprefix("s3://").partition("/")[0]
        return NotFoundError(bucket, f"no such bucket at {endpoint}: create it, or correct the URI")
    if code in _WRONG_CREDENTIALS:
        return ForbiddenError(uri, _WRONG_CREDENTIALS[code])
    if code == "NoSuchUpload":
        return NotFoundError(uri, "the upload was given up meanwhile, by a lifecycle rule or another client: repeat it")
    if status == 412 or code == "PreconditionFailed":
        return ConflictError(uri, "exists already, or was changed by another writer; read it again and decide anew")
    if status == 409 or code == "ConditionalRequestConflict":
        return ConflictError(uri, f"another write of it is in flight ({code}); try again")
    if status == 404 or code in ("NoSuchKey", "NotFound"):
        return _missing(uri, error)
    if status in (401, 403):
        operation = error.operation_name
        return ForbiddenError(
            uri,
            f"{endpoint} refuses {operation} ({code}): allow it for these credentials; a key that does not exist also "
            "answers so where listing is not allowed",
        )
    if code in _DIGEST_CODES:
        return CorruptError(uri, "the bytes changed on their way to the storage; repeat the upload")
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "RequestTimeTooSlow") or status == 429:
        return UnreachableError(
            uri, f"{endpoint} answered {status} {code} each time; check the server, try again later"
        )
    message = error.response.get("Error", {}).get("Message", "")
    return ArtifactError(uri, f"{endpoint} answered {status} {code}: {message}")


def _missing(uri: str, error: boto.ClientError) -> ArtifactError:
    """Tell a conditional write to a deleted object from a missing object."""
    if error.operation_name in ("PutObject", "CompleteMultipartUpload"):
        return ConflictError(uri, "does not exist any more; read it again and decide anew")
    return NotFoundError(uri, "no such object: check the URI, or wait until it is written")
