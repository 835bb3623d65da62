"""Tokenised datasets on disk, mapped into memory where they are used again.

One file a dataset and tokenizer: a line of JSON that says how many documents and tokens follow and what their digest
is, then lengths (int64), tokens (int32) and masks (one byte a token). A file appears whole, under a name of its
content's origin, so that any number of processes may write the same one; whoever reads it checks length and digest, and
a file that is cut or damaged counts as absent and is written again.
"""

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from sluice_api.contracts.dataset import Turn
from sluice_artifacts.folders import folder_lock
from sluice_trainer.tokenise import Documents, TokenBatch, Tokeniser, join_batches, template_of

FORMAT = 1
"""Version of the files and of what is tokenised how; a change of either makes earlier files unknown."""
_ITEM_BYTES = {"lengths": 8, "ids": 4, "scored": 1}
_SCRATCH, _LOCK = ".tokens-", "lock"
_log = logging.getLogger(__name__)


class TokenCache:
    """Tokenised datasets in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is created when something is written."""
        self._folder = folder

    def documents(
        self, dataset: str, tokenizer: Any, conversations: Callable[[], Iterable[Sequence[Turn]]]
    ) -> Documents:
        """Documents of a dataset: from disk where they are, otherwise tokenised and kept.

        Args:
            dataset: digest of the dataset, which says what the conversations are.
            tokenizer: a transformers tokenizer with a chat template.
            conversations: reads the dataset's conversations; called only when they are not on disk.

        Raises:
            WorkerError: `UserError` for a tokenizer that cannot be used, and whatever reading raises.
        """
        path = self._folder / f"{cache_key(dataset, tokenizer)}.tokens"
        found = read_tokens(path)
        if found is None:
            write_tokens(path, Tokeniser(tokenizer).encode(conversations()))
            found = read_tokens(path)
        if found is None:
            raise OSError(f"{path}: cannot be read back after it was written: is the disk full or damaged?")
        return Documents(found)


def cache_key(dataset: str, tokenizer: Any) -> str:
    """Name of what a dataset's tokens depend on: rows, tokenizer, template, special tokens, and the code."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "dataset": dataset,
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "template": template_of(tokenizer),
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "stops": sorted(tokenizer.all_special_ids),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def write_tokens(path: Path, batches: Iterable[TokenBatch]) -> None:
    """Write documents into a file that appears whole or not at all.

    Several processes may write it at once, each under a name of its own. The file appears in the place of what was
    there; what killed writers left is removed.

    Raises:
        OSError: it cannot be written.
    """
    with _scratch(path.parent) as folder:
        parts = {name: folder / name for name in _ITEM_BYTES}
        counts = _spool(batches, parts)
        digest = hashlib.sha256()
        for part in parts.values():
            with part.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        whole = folder / "whole"
        with whole.open("wb") as out:
            out.write(json.dumps({"format": FORMAT, **counts, "sha256": digest.hexdigest()}).encode() + b"\n")
            for part in parts.values():
                with part.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        out.write(block)
        whole.replace(path)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A temporary folder that holds a locked file as long as it is used; what killed processes left is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Nobody looks for what is left while a folder is there and its lock is not.
        with folder_lock(parent):
            for left in parent.glob(f"{_SCRATCH}*"):
                _remove_unused(left)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent)))
            held = stack.enter_context((folder / _LOCK).open("w"))
            fcntl.flock(held, fcntl.LOCK_EX)
        yield folder


def _remove_unused(folder: Path) -> None:
    with suppress(OSError), (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)


def _spool(batches: Iterable[TokenBatch], parts: dict[str, Path]) -> dict[str, int]:
    """Write each part of the batches into a file of its own, so that memory holds one batch."""
    documents = tokens = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in parts.items()}
        for batch in batches:
            for name, file in files.items():
                file.write(getattr(batch, name).tobytes())
            documents += len(batch.lengths)
            tokens += len(batch.ids)
    return {"documents": documents, "tokens": tokens}


def read_tokens(path: Path) -> TokenBatch | None:
    """Documents of a file, mapped into memory; None when it is absent, cut, damaged or of another format."""
    try:
        with path.open("rb") as stream:
            line = stream.readline(1 << 12)
            header = json.loads(line)
            documents, tokens = int(header["documents"]), int(header["tokens"])
        if header["format"] == FORMAT and documents == 0:
            return join_batches([])
        body = np.memmap(path, dtype=np.uint8, mode="r", offset=len(line))
        wanted = documents * _ITEM_BYTES["lengths"] + tokens * (_ITEM_BYTES["ids"] + _ITEM_BYTES["scored"])
        if (
            header["format"] != FORMAT
            or body.size != wanted
            or hashlib.sha256(body.data).hexdigest() != header["sha256"]
        ):
            raise ValueError("digest differs")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: not used, tokenising again: %s", path, error)
        return None
    ids_at = documents * _ITEM_BYTES["lengths"]
    scored_at = ids_at + tokens * _ITEM_BYTES["ids"]
    # The body follows a line of any length: copies of the two small parts, a view where the bytes are.
    lengths = np.frombuffer(body[:ids_at].tobytes(), dtype=np.int64)
    return TokenBatch(body[ids_at:scored_at].view(np.int32), body[scored_at:].view(np.bool_), lengths)
