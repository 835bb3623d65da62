"""Reading trace files: what is one, what is wrong with those that are not, and nothing of their text in the answer.

```
BadFileError            a file that is named as a trace and cannot be used; carries a BadReason and a detail
```
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

import msgspec

from sluice_api.contracts.trace import TRACE_SCHEMA_VERSION

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Larger files are refused unread: a run of a thousand steps takes about one mebibyte."""
OLDEST_SCHEMA_VERSION = 1
"""Versions 2 and 3 only added fields, so that every version since the first can be read."""
SCREENS_SUFFIX = "_screens"
"""Ending of the folder that holds a run's screenshots."""
_TEMPORARY_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload", "~")


MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not what its decoder wants."""


class BadReason(StrEnum):
    """Why a trace file cannot be used."""

    TRUNCATED_JSON = "truncated_json"
    """The document ends too early: the writer died, or still writes."""
    INVALID_JSON = "invalid_json"
    """The document is not JSON."""
    BAD_UTF8 = "bad_utf8"
    """The bytes are not UTF-8."""
    WRONG_SCHEMA_VERSION = "wrong_schema_version"
    """The schema version is one that this reader does not know."""
    NOT_A_TRACE = "not_a_trace"
    """JSON, but a field that every trace has is missing or of another type."""
    NOT_LABELLED = "not_labelled"
    """A trace, where a labelled trace is asked for."""
    DUPLICATE_RUN_ID = "duplicate_run_id"
    """Another file holds the same run of the same tenant."""
    TOO_LARGE = "too_large"
    """Larger than the limit."""
    UNREADABLE = "unreadable"
    """The storage refused to hand it out."""
    VANISHED = "vanished"
    """It was listed and is gone."""


class BadFileError(Exception):
    """A trace file that cannot be used.

    Attributes:
        reason: class of the defect.
        detail: where and what, never the file's text.
    """

    def __init__(self, reason: BadReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that was left out."""

    path: str
    """Path below the source."""
    reason: BadReason
    """Class of the defect."""
    detail: str
    """Where and what, never the file's text."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.detail}"


class _Versioned(Protocol):
    schema_version: int


R = TypeVar("R", bound=_Versioned)


def is_trace_name(path: str) -> bool:
    """Whether a path below the source names a finished trace file.

    Screenshots, hidden files and the temporary names under which exporters write are none.
    """
    name = path.rpartition("/")[2]
    if not name.endswith(".json") or name[0] in ".#" or name == "manifest.json":
        return False
    parents = path.split("/")[:-1]
    return not any(part.startswith(".") or part.endswith(SCREENS_SUFFIX) for part in parents)


def is_temporary_name(path: str) -> bool:
    """Whether a path names a file that is still being written."""
    name = path.rpartition("/")[2]
    return name.startswith(".") or name.endswith(_TEMPORARY_SUFFIXES)


def screens_folder(path: str) -> str:
    """Folder of the screenshots that belong to a trace file, both as paths below the source."""
    file = PurePosixPath(path)
    return str(file.with_name(file.stem + SCREENS_SUFFIX))


def check_size(size: int, limit: int = MAX_FILE_BYTES) -> None:
    """Refuse a file by its size before it is read.

    Raises:
        BadFileError: it is larger than `limit` bytes.
    """
    if size > limit:
        raise BadFileError(BadReason.TOO_LARGE, f"{size} bytes, the limit is {limit}")


def decode(raw: bytes, decoder: "msgspec.json.Decoder[R]", *, oldest: int = OLDEST_SCHEMA_VERSION) -> R:
    """Decode one trace document.

    Args:
        raw: the file's bytes.
        decoder: decoder of the record type that is wanted.
        oldest: oldest schema version to accept.

    Raises:
        BadFileError: the bytes are no usable trace; says why.
    """
    try:
        raw.isascii() or raw.decode()
        record = decoder.decode(raw)
    except UnicodeDecodeError as error:
        raise BadFileError(BadReason.BAD_UTF8, f"byte {error.start}") from None
    except msgspec.ValidationError as error:
        raise explain_mismatch(raw, str(error)) from None
    except msgspec.DecodeError as error:
        raise BadFileError(*_explain_syntax(str(error))) from None
    except RecursionError:
        raise BadFileError(BadReason.INVALID_JSON, "nested too deeply") from None
    if not oldest <= record.schema_version <= TRACE_SCHEMA_VERSION:
        raise _wrong_version(record.schema_version)
    return record


def explain(error: Exception) -> str:
    """What is wrong with bytes that raised one of `MALFORMED`, without their text."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, msgspec.ValidationError) else _explain_syntax(str(error))[1]


class _Version(msgspec.Struct):
    schema_version: int | None = None


_VERSION = msgspec.json.Decoder(_Version)


def explain_mismatch(raw: bytes, message: str) -> BadFileError:
    """Tell a document of an unknown version, whose shape may differ, from one that is no trace at all."""
    try:
        version = _VERSION.decode(raw).schema_version
    except RecursionError:
        return BadFileError(BadReason.INVALID_JSON, "nested too deeply")
    except msgspec.DecodeError as error:
        # The document is cut or broken behind the field that stopped the first attempt.
        if not isinstance(error, msgspec.ValidationError):
            return BadFileError(*_explain_syntax(str(error)))
        version = None
    if version is not None and not OLDEST_SCHEMA_VERSION <= version <= TRACE_SCHEMA_VERSION:
        return _wrong_version(version)
    return BadFileError(BadReason.NOT_A_TRACE, message)


def _wrong_version(version: int) -> BadFileError:
    known = f"{OLDEST_SCHEMA_VERSION} to {TRACE_SCHEMA_VERSION}"
    return BadFileError(BadReason.WRONG_SCHEMA_VERSION, f"schema_version is {version}, this reader knows {known}")


def _explain_syntax(message: str) -> tuple[BadReason, str]:
    if "truncated" in message:
        return BadReason.TRUNCATED_JSON, "the document ends too early"
    # The message of the decoder may quote a character; its position says enough.
    _, found, position = message.rpartition("(byte ")
    return BadReason.INVALID_JSON, f"byte {position.rstrip(')')}" if found else "malformed"
