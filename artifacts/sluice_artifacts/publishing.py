"""Immutable artifacts: published under their own digest, manifest last, and read back verified.

A folder artifact lies under `<prefix>/<sha256 of its manifest>/`: files first, `manifest.json` last, so that whoever
sees a manifest sees every file of it. A single document lies at `<prefix>/<sha256 of its bytes>/<name>`. Publishing
the same content twice, at the same time or after a crash, ends in the same place with the same bytes.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sluice_api.contracts.base import ArtifactRef, Contract
from sluice_api.contracts.dataset import FileEntry
from sluice_artifacts.digests import canonical_json, digest_bytes, digest_file, from_hex, to_hex
from sluice_artifacts.errors import ConflictError, CorruptError, NotFoundError
from sluice_artifacts.folders import folder_lock, new_folder
from sluice_artifacts.store import Store, check_relative, join, open_store

MANIFEST_FILE = "manifest.json"
"""Name of the manifest below an artifact's prefix."""

M = TypeVar("M", bound=Contract)
_log = logging.getLogger(__name__)


def publish(
    prefix: str, files: Mapping[str, Path | bytes], manifest: Callable[[list[FileEntry]], Contract]
) -> ArtifactRef:
    """Publish a folder artifact and return its reference; `uri` is the folder `<prefix>/<sha256>/`.

    Where the artifact lies already, each of its files is read and compared, and sent again where it is missing or
    another: what is returned can be fetched.

    Args:
        prefix: Where versions lie side by side.
        files: Content by relative path.
        manifest: Builds the manifest, a model with a `files` field, from the entries in order of their paths. Equal
            entries must give equal manifests: no clock in it.

    Raises:
        ValueError: a path is not plain and relative, is the manifest's own, or the manifest omits a file.
        CorruptError: a file changed while it was sent, or the place holds another manifest.
        ArtifactError: the storage failed.
    """
    entries = [_entry(path, files[path]) for path in sorted(files)]
    document = manifest(entries)
    if _entries(document) != entries:
        raise ValueError(f"{type(document).__name__}.files must be the entries that the manifest was built from")
    data = canonical_json(document)
    ref = _ref(prefix, data)
    store = open_store(prefix)
    manifest_uri = join(ref.uri, MANIFEST_FILE)
    if store.exists(manifest_uri):
        _check_same(store, manifest_uri, data)
        _mend(store, ref, entries, files)
        return ref
    for entry in entries:
        _send(store, join(ref.uri, entry.path), files[entry.path], entry.sha256)
    _write_once(store, manifest_uri, data)
    return ref


def publish_document(prefix: str, name: str, document: Contract) -> ArtifactRef:
    """Publish one JSON document and return its reference; `uri` is the object `<prefix>/<sha256>/<name>`.

    Raises:
        ValueError: the name is not plain and relative, or a number in the document is not finite.
        ArtifactError: the storage failed.
    """
    data = canonical_json(document)
    ref = _ref(prefix, data)
    uri = join(ref.uri, check_relative(name))
    _write_once(open_store(prefix), uri, data)
    return ArtifactRef(uri=uri, digest=ref.digest)


def read_document(ref: ArtifactRef, model: type[M]) -> M:
    """Return a published document, verified against its digest.

    Raises:
        CorruptError: the bytes have another digest, or are no such document.
        ArtifactError: the storage failed.
    """
    return _parse(ref.uri, _verified(open_store(ref.uri), ref.uri, ref.digest), model)


def read_manifest(ref: ArtifactRef, model: type[M]) -> M:
    """Return the manifest of a folder artifact, verified against the artifact's digest.

    Raises:
        CorruptError: the bytes have another digest, or are no such manifest.
        ArtifactError: the storage failed.
    """
    uri = join(ref.uri, MANIFEST_FILE)
    return _parse(uri, _verified(open_store(uri), uri, ref.digest), model)


def fetch(ref: ArtifactRef, destination: Path, manifest: type[M]) -> M:
    """Download a folder artifact, every file verified, and return its manifest.

    The folder appears whole, with its `manifest.json`, or not at all. One that is there already is verified, and
    used or replaced; several processes may fetch to the same place.

    Raises:
        CorruptError: a file or the manifest is not what the digest says; nothing is left behind.
        ArtifactError: the storage failed.
        OSError: the destination cannot be written.
    """
    store = open_store(ref.uri)
    manifest_uri = join(ref.uri, MANIFEST_FILE)
    with folder_lock(destination):
        if _is_complete(destination, ref, manifest):
            return _parse(manifest_uri, (destination / MANIFEST_FILE).read_bytes(), manifest)
        data = _verified(store, manifest_uri, ref.digest)
        document = _parse(manifest_uri, data, manifest)
        with new_folder(destination) as folder:
            for entry in _safe_entries(manifest_uri, document):
                store.download(join(ref.uri, entry.path), folder / entry.path, sha256=entry.sha256)
            (folder / MANIFEST_FILE).write_bytes(data)
    return document


def _ref(prefix: str, data: bytes) -> ArtifactRef:
    digest = digest_bytes(data)
    return ArtifactRef(uri=join(prefix, to_hex(digest) + "/"), digest=digest)


def _entry(path: str, content: Path | bytes) -> FileEntry:
    """Describe one file to publish."""
    check_relative(path)
    if path == MANIFEST_FILE or "%" in path:
        raise ValueError(f"path {path!r} cannot be published: it is the manifest's own, or holds a percent sign")
    if isinstance(content, bytes):
        return FileEntry(path=path, sha256=to_hex(digest_bytes(content)), size=len(content))
    return FileEntry(path=path, sha256=to_hex(digest_file(content)), size=content.stat().st_size)


def _entries(document: Contract) -> list[FileEntry]:
    """Return the files that a manifest names."""
    files = getattr(document, "files", None)
    if not isinstance(files, list) or not all(isinstance(entry, FileEntry) for entry in files):
        raise ValueError(f"{type(document).__name__} is no manifest: it has no list 'files' of file entries")
    return files


def _safe_entries(uri: str, document: Contract) -> list[FileEntry]:
    """Return a manifest's files; one that would be written outside the artifact's folder makes it corrupt."""
    entries = _entries(document)
    for entry in entries:
        try:
            check_relative(entry.path)
        except ValueError as error:
            raise CorruptError(uri, f"refused: {error}") from error
    return entries


def _send(store: Store, uri: str, content: Path | bytes, sha256: str) -> None:
    """Upload one file; its bytes must still be the ones that were described."""
    if isinstance(content, bytes):
        store.write(uri, content)
    elif store.upload(content, uri) != sha256:
        raise CorruptError(uri, f"{content.name} changed while it was published; publish again once nobody writes it")


def _mend(store: Store, ref: ArtifactRef, entries: Sequence[FileEntry], files: Mapping[str, Path | bytes]) -> None:
    """Send again what is missing or damaged of a published artifact."""
    sizes = {info.uri: info.size for info in store.list(ref.uri)}
    for entry in entries:
        uri = join(ref.uri, entry.path)
        if sizes.get(uri) != entry.size or not _holds(store, uri, entry.sha256):
            _log.warning("%s: missing or damaged since it was published, and sent again", uri)
            _send(store, uri, files[entry.path], entry.sha256)


def _holds(store: Store, uri: str, sha256: str) -> bool:
    try:
        return store.sha256(uri) == sha256
    except (NotFoundError, CorruptError):
        return False


def _write_once(store: Store, uri: str, data: bytes) -> None:
    """Write an immutable object; one that is there already must be the same."""
    try:
        store.write(uri, data, if_absent=True)
    except ConflictError:
        _check_same(store, uri, data)


def _check_same(store: Store, uri: str, data: bytes) -> None:
    if store.read(uri) != data:
        raise CorruptError(uri, "another content lies under this digest; delete the folder and publish again")


def _verified(store: Store, uri: str, digest: str) -> bytes:
    """Read an object that must have the digest."""
    data = store.read(uri)
    found = digest_bytes(data)
    if found != digest:
        raise CorruptError(uri, f"its digest is {found}, {digest} was expected; publish it again or correct the digest")
    return data


def _parse(uri: str, data: bytes, model: type[M]) -> M:
    """Parse a document; the error names fields and rules, never content."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "document"
        raise CorruptError(uri, f"is no {model.__name__}: {field}: {first['msg']}") from None


def _is_complete(folder: Path, ref: ArtifactRef, manifest: type[M]) -> bool:
    """Tell whether a folder holds exactly the artifact, by digest."""
    try:
        data = (folder / MANIFEST_FILE).read_bytes()
        if digest_bytes(data) != ref.digest:
            return False
        entries = _safe_entries(ref.uri, _parse(ref.uri, data, manifest))
        return all(digest_file(folder / entry.path) == from_hex(entry.sha256) for entry in entries)
    except (OSError, CorruptError):
        return False
