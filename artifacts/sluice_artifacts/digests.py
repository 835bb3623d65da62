"""Digests: names that only one content can have."""

import errno
import hashlib
import json
import math
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sluice_artifacts.errors import CorruptError, NotFoundError

ALGORITHM = "sha256"
"""The one digest algorithm; the prefix of every digest."""

CHUNK_BYTES = 1 << 20
"""Bytes that are read or hashed at a time."""


def from_hex(sha256: str) -> str:
    """Return `sha256:<hex>` for a hexadecimal SHA-256."""
    return f"{ALGORITHM}:{sha256}"


def to_hex(digest: str) -> str:
    """Return the 64 hexadecimal digits of `sha256:<hex>`.

    Raises:
        ValueError: the digest is of another form.
    """
    algorithm, _, sha256 = digest.partition(":")
    if algorithm != ALGORITHM or len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"digest {digest!r} is not 'sha256:' followed by 64 lower-case hexadecimal digits")
    return sha256


def digest_bytes(data: bytes) -> str:
    """Return the digest of a byte string."""
    return from_hex(hashlib.sha256(data).hexdigest())


def digest_file(path: str | Path) -> str:
    """Return the digest of a file, read in chunks.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as stream:
        return from_hex(hashlib.file_digest(stream, ALGORITHM).hexdigest())


def canonical_json(document: BaseModel | Mapping[str, Any]) -> bytes:
    """Return the one JSON form of a document: keys sorted, no spaces, UTF-8, a newline at the end.

    Models are written by alias and with their defaults, so that equal models give equal bytes.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot say.
    """
    plain: Any = document
    if isinstance(document, BaseModel):
        # In JSON mode pydantic writes NaN and infinities as null, which is another statement.
        _refuse_non_finite(document.model_dump(), type(document).__name__)
        plain = document.model_dump(mode="json", by_alias=True)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _refuse_non_finite(value: object, name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which JSON cannot say")
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        _refuse_non_finite(inner, f"{name}.{key}")


def tree_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield `(relative POSIX path, file)` of a folder in byte order of the relative path.

    Entries whose name starts with a dot are left out: they hold bookkeeping (`.gitattributes`, `.cache/`), not weights.
    Links are followed, since model caches are made of them.

    Raises:
        CorruptError: a link leads nowhere or in a circle, or an entry is neither file nor folder.
    """
    return _tree_files(path, ())


def _tree_files(path: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    """The files of a folder that lies in the folders `above`, which are given by device and inode."""
    here = path.stat()
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        raise CorruptError(f"file://{path}", "is a link to a folder that it lies in; remove it")
    entries = []
    for child in path.iterdir():
        if not child.name.startswith("."):
            entries.append((child.name + "/" if _is_folder(child) else child.name, child))
    for name, child in sorted(entries, key=lambda entry: entry[0].encode("utf-8", "surrogateescape")):
        if name.endswith("/"):
            yield from ((name + below, file) for below, file in _tree_files(child, (*above, identity)))
        else:
            yield name, child


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder rather than a file, links followed."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise CorruptError(f"file://{path}", "is a link that leads nowhere; remove it, or restore its target") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise CorruptError(f"file://{path}", "is neither a file nor a folder; remove it")
    return stat.S_ISDIR(mode)


def digest_tree(path: Path) -> str:
    """Return the digest over a folder's files: of the listing `<sha256 hex>  <relative path>`, a line a file.

    The listing is what `sha256sum` prints for the files in byte order of their paths, so that the digest can be
    checked by hand. Names that start with a dot do not count.

    Raises:
        NotFoundError: the folder is missing.
        CorruptError: the folder holds no file, or something that `tree_files` refuses.
    """
    uri = f"file://{path}"
    if not path.is_dir():
        raise NotFoundError(uri, "no such folder; check the path")
    sums = {name: to_hex(digest_file(file)) for name, file in tree_files(path)}
    if not sums:
        raise CorruptError(uri, "the folder holds no file, so it has no digest")
    return digest_sums(sums)


def digest_sums(sums: Mapping[str, str]) -> str:
    """Return what `digest_tree` returns for a folder of files with these hexadecimal SHA-256 by relative POSIX path."""
    names = {name.encode("utf-8", "surrogateescape"): name for name in sums}
    counted = (name for name in sorted(names) if not any(part.startswith(b".") for part in name.split(b"/")))
    return digest_bytes(b"".join(f"{sums[names[name]]}  ".encode() + name + b"\n" for name in counted))
