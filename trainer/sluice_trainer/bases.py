"""Whether a base model is what its configuration says: readable, and with a value for every weight."""

import errno
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError

NAMES_SHOWN = 5
"""Weights that a message names before it counts the rest."""
_OF_THE_MACHINE = {errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EMFILE, errno.ENFILE}


@contextmanager
def readable(uri: str, what: str) -> Iterator[None]:
    """Whatever transformers raises over a base model's files, as what it is: a file that says something else.

    Want of memory, and failures of disks and devices, pass as they are.

    Args:
        uri: the base model.
        what: what transformers cannot do, and what to do about it.

    Raises:
        WorkerError: `UserError`, naming `uri`.
    """
    try:
        yield
    except (WorkerError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, ConnectionError, TimeoutError):
        raise
    except Exception as error:
        of_the_machine = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
        if of_the_machine or (isinstance(error, RuntimeError) and "memory" in str(error)):
            raise
        message = f"{uri}: {what} ({type(error).__name__}): {error}"
        raise WorkerError(FailureClass.USER_ERROR, message[:1000]) from error


def read_config(folder: Path, uri: str) -> Any:
    """The configuration of a base model.

    Raises:
        WorkerError: `UserError`, naming `uri`, when transformers cannot read it.
    """
    with readable(uri, "transformers cannot read its config.json, correct it or fetch the model again"):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def check_loaded(uri: str, report: Mapping[str, Any]) -> None:
    """Refuse a base of which transformers had to make weights up; a head that is tied to the embeddings is none.

    Args:
        uri: the base model.
        report: what `from_pretrained` gives with `output_loading_info`.

    Raises:
        WorkerError: `UserError`, naming the weights.
    """
    faults = []
    if missing := report["missing_keys"]:
        faults.append(f"its files lack {_some(missing)}")
    if mismatched := report["mismatched_keys"]:
        shapes = (f"{name} ({list(found)}, config.json says {list(wanted)})" for name, found, wanted in mismatched)
        faults.append(f"its files have another shape of {_some(shapes)}")
    if faults:
        message = (
            f"spec.baseModel {uri}: {'; '.join(faults)}: training would go on from random values; fetch the model "
            "again whole, with the config.json of these weights"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)


def _some(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMES_SHOWN} more" if len(ordered) > NAMES_SHOWN else ""
    return ", ".join(ordered[:NAMES_SHOWN]) + more
