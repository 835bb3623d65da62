"""Base models: fetched from a hub, a bucket or a folder, and let through only as plain, verified weights.

Only safetensors files count as weights. Formats that can run code when they are loaded (pickles under any of their
names) and models that bring code of their own are refused before anything opens them.
"""

import json
import logging
import re
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, TypeVar

from sluice_api.contracts.base import ModelRef
from sluice_artifacts.digests import canonical_json, digest_bytes, digest_sums, digest_tree, to_hex, tree_files
from sluice_artifacts.errors import (
    ArtifactError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from sluice_artifacts.files import file_path
from sluice_artifacts.folders import HIDDEN_PREFIX, folder_lock, new_folder
from sluice_artifacts.store import check_relative, join, open_store

EXECUTABLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5"})
"""Weight formats that are pickles, or can hold one."""

HUB_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
"""Files of a hub repository that are downloaded: weights, configurations, tokenizers, chat templates."""

INDEX_SUFFIX = ".safetensors.index.json"
"""Ends the names of files that say which tensor lies in which safetensors file."""

ADAPTER_CONFIG_FILE = "adapter_config.json"
"""Makes libraries add the adapter that lies beside it to whatever they load from the folder."""

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_HEADER_LIMIT = 100 << 20
T = TypeVar("T")
_log = logging.getLogger(__name__)


def fetch_model(ref: ModelRef, cache: Path) -> Path:
    """Return a local folder that holds a base model, verified.

    `hf://owner/name` goes through huggingface_hub's cache below `cache` (offline mode and tokens by its own
    variables), `s3://` is copied below `cache`, `file://` is used in place. The digest is that of `digest_tree`.

    Raises:
        NotFoundError: no such model, a URI that can name none, or no safetensors weights in it.
        CorruptError: other bytes than `ref.digest` says, a truncated weights file, or something that could run code.
        ArtifactError: the storage or the hub failed.
    """
    return _fetched(ref, cache)[0]


def fetch_model_and_digest(ref: ModelRef, cache: Path) -> tuple[Path, str]:
    """Return what `fetch_model` returns and the folder's digest, read once for both; raises what that raises."""
    folder, digest = _fetched(ref, cache)
    return folder, digest or digest_tree(folder)


def _fetched(ref: ModelRef, cache: Path) -> tuple[Path, str | None]:
    """A checked folder, and its digest where it had to be read for that."""
    digest: str | None = None
    scheme = ref.uri.partition("://")[0]
    if scheme == "file":
        folder = _parsed(file_path, ref.uri)
        if not folder.is_dir():
            raise NotFoundError(ref.uri, "no such folder; check the base model's path")
    elif scheme == "s3":
        folder, digest = _fetch_objects(ref, cache)
    elif scheme == "hf":
        folder = _fetch_hub(ref, cache)
    else:
        raise NotFoundError(ref.uri, "base models are hf://owner/name, s3://bucket/prefix or file:///path")
    check_model(ref.uri, folder)
    if ref.digest is not None:
        digest = digest or digest_tree(folder)
        if digest != ref.digest:
            raise CorruptError(ref.uri, f"its digest is {digest}, {ref.digest} was expected; the model has changed")
    return folder, digest


def _parsed(parse: Callable[[str], T], uri: str) -> T:
    """What a URI says; one that is malformed names no model, however often it is tried."""
    try:
        return parse(uri)
    except ArtifactError as error:
        raise NotFoundError(error.uri, error.message) from error


def check_model(uri: str, folder: Path) -> None:
    """Refuse a model folder that could run code, or whose weights are missing or truncated.

    Raises:
        NotFoundError: no `config.json`, or no safetensors file.
        CorruptError: a pickle, a Python file, an adapter, `auto_map` in a configuration, a broken safetensors file, or
            weights looked for in a file that the folder's digest does not cover.
    """
    files = list(tree_files(folder))
    for name, _ in files:
        _check_name(uri, name)
    names = {name for name, _ in files}
    if ADAPTER_CONFIG_FILE in names:
        message = (
            f"refused: {ADAPTER_CONFIG_FILE} would have an adapter added to the model; remove it, or merge it first"
        )
        raise CorruptError(uri, message)
    if "config.json" not in names:
        raise NotFoundError(uri, "holds no config.json; point to a transformers model folder")
    weights = [(name, file) for name, file in files if name.endswith(".safetensors")]
    if not weights:
        raise NotFoundError(uri, "holds no *.safetensors weights; convert the model to safetensors")
    for name, file in files:
        if name.endswith("config.json"):
            _check_configuration(uri, name, file, names)
        if name.endswith(INDEX_SUFFIX):
            _check_index(uri, name, file, names)
    for name, file in weights:
        _check_safetensors(uri, name, file)


def _check_name(uri: str, name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix in EXECUTABLE_SUFFIXES:
        raise CorruptError(uri, f"refused: {name} can run code when it is loaded; remove it and ship safetensors only")
    if suffix == ".py":
        raise CorruptError(uri, f"refused: {name} is code that the model brings; use a model that transformers knows")


def _check_configuration(uri: str, name: str, file: Path, names: Container[str]) -> None:
    configuration = _document(uri, name, file)
    if not isinstance(configuration, dict):
        return
    if configuration.get("auto_map"):
        raise CorruptError(uri, f"refused: {name} asks for code of its own (auto_map); use a model transformers knows")
    weights = configuration.get("transformers_weights")
    if weights is not None and weights not in names:
        message = (
            f"refused: {name} takes weights from {weights!r} (transformers_weights), which the digest does not cover"
        )
        raise CorruptError(uri, f"{message}; name a *.safetensors file of the model")


def _check_index(uri: str, name: str, file: Path, names: Container[str]) -> None:
    """An index may send readers only to safetensors files of the folder: others are in neither digest nor check."""
    index = _document(uri, name, file)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise CorruptError(uri, f"{name} has no weight_map; fetch the model again")
    folder = name.rpartition("/")[0]
    for tensor, place in places.items():
        found = isinstance(place, str) and place.endswith(".safetensors")
        if not found or (f"{folder}/{place}" if folder else place) not in names:
            message = f"refused: {name} looks for {tensor} in {place!r}, which is no safetensors file of the model"
            raise CorruptError(uri, f"{message}; fetch the model again, or correct weight_map")


def _document(uri: str, name: str, file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CorruptError(uri, f"{name} is no JSON; fetch the model again") from None


def _check_safetensors(uri: str, name: str, file: Path) -> None:
    """Compare a safetensors file's size with its own header: eight bytes of length, JSON, then the tensors."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError("size differs from the header's")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise CorruptError(uri, f"{name} is truncated or no safetensors file; fetch the model again") from None


def _fetch_objects(ref: ModelRef, cache: Path) -> tuple[Path, str]:
    """Copy the objects below an S3 prefix, and return the copy with its digest.

    The folder is named by what the listing says, so that changes show. A copy that is there already is read whole and
    held against the bytes that came in; a damaged one is replaced.
    """
    store = open_store(ref.uri)
    _parsed(_s3_prefix, ref.uri)
    base = ref.uri.rstrip("/") + "/"
    objects = {info.uri.removeprefix(base): info for info in store.list(base)}
    if not objects:
        raise NotFoundError(ref.uri, "no objects below this prefix; check the base model's URI")
    for name in objects:
        try:
            _check_name(ref.uri, check_relative(name))
        except ValueError as error:
            raise CorruptError(ref.uri, f"refused: {error}; rename the object, or name another prefix") from error
    listing = {name: [info.etag, info.size] for name, info in objects.items()}
    key = to_hex(digest_bytes(canonical_json({"uri": base, "objects": listing})))
    folder = cache / "objects" / key[:32]
    if (digest := _intact(folder)) is not None:
        return folder, digest
    with folder_lock(folder):
        if (digest := _intact(folder)) is None:
            with new_folder(folder) as temporary:
                digest = digest_sums({name: store.download(join(base, name), temporary / name) for name in objects})
                _record(folder).write_text(digest)
    return folder, digest


def _s3_prefix(uri: str) -> object:
    from sluice_artifacts.s3 import location

    return location(uri, prefix=True)


def _record(folder: Path) -> Path:
    """The file beside a copy that says what the digest of the bytes was that came in."""
    return folder.with_name(f"{HIDDEN_PREFIX}digest-{folder.name}")


def _intact(folder: Path) -> str | None:
    """The digest of a copy that is there, and still what came in; None of any other."""
    try:
        recorded = _record(folder).read_text()
        found = digest_tree(folder)
    except (OSError, CorruptError, NotFoundError):
        return None
    if found != recorded:
        _log.warning("%s: damaged since it was fetched, fetching it again", folder)
        return None
    return found


def _fetch_hub(ref: ModelRef, cache: Path) -> Path:
    """Download a repository of the hub, or find it in the hub's cache when that is all there is."""
    name = ref.uri.removeprefix("hf://").strip("/")
    if not _HUB_NAME.match(name):
        raise NotFoundError(ref.uri, "a model on the hub is written hf://owner/name")
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ArtifactError(ref.uri, "hf:// needs huggingface_hub: pip install 'sluice[trainer]'") from error
    revision = ref.revision or None
    shown = f"revision {revision or 'main'}"
    try:
        path = snapshot_download(name, revision=revision, cache_dir=cache / "hub", allow_patterns=HUB_PATTERNS)
    except hub.GatedRepoError as error:
        raise ForbiddenError(ref.uri, "the model is gated: accept its licence and set HF_TOKEN") from error
    except hub.RevisionNotFoundError as error:
        raise NotFoundError(ref.uri, f"the hub has no {shown} of it; correct spec.baseModel.revision") from error
    except hub.RepositoryNotFoundError as error:
        raise NotFoundError(
            ref.uri, "the hub has no such model, or it is private: correct the name, or set HF_TOKEN"
        ) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.HfHubHTTPError) as error:
        raise _hub_error(ref.uri, shown, error) from error
    except (OSError, ConnectionError) as error:
        raise UnreachableError(ref.uri, f"the hub cannot be reached ({type(error).__name__}); try again") from error
    except hub.HFValidationError as error:
        raise NotFoundError(ref.uri, "a model on the hub is written hf://owner/name") from error
    return Path(path)


def _hub_error(uri: str, shown: str, error: Exception) -> ArtifactError:
    """Tell a hub that refuses from one that does not answer; the client wraps either when its cache is empty."""
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if answer is None:
        message = f"{shown} is not in the local cache and the hub cannot be reached; allow access or use s3://"
        return UnreachableError(uri, message)
    kind = ForbiddenError if answer.status_code in (401, 403) else UnreachableError
    return kind(uri, f"the hub answered {answer.status_code}; check HF_TOKEN, or try again later")
