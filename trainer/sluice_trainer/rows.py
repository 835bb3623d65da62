"""The dataset of a job: fetched, verified, of the right format. Imports no torch, so that a driver can check rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sluice_api.contracts.dataset import TRAIN_PART, DatasetManifest, part_files
from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts import ArtifactError, CorruptError, NotFoundError, fetch, to_hex
from sluice_artifacts.reporting import WorkerError

FORMATS: dict[Literal["sft", "dpo"], Literal["sft", "preference"]] = {"sft": "sft", "dpo": "preference"}
"""Format of the rows by training method."""


def fetch_rows(job: TrainJob, cache: Path) -> list[Path]:
    """Fetch the dataset, verified, and return the files of the rows to train on, in order.

    Raises:
        WorkerError: `Data` when it is missing, damaged or of the wrong format; `Storage` when it cannot be reached.
    """
    folder = cache / "datasets" / to_hex(job.dataset.digest)
    with storage_failures("dataset", FailureClass.DATA):
        manifest = fetch(job.dataset, folder, DatasetManifest)
    wanted = FORMATS[job.method]
    if manifest.format != wanted:
        message = (
            f"dataset {job.dataset.digest}: format is {manifest.format!r}, method {job.method} needs {wanted!r}: "
            f"set convert.format: {wanted} in the TraceDataset, or another method"
        )
        raise WorkerError(FailureClass.DATA, message)
    files = part_files(manifest.files, TRAIN_PART)
    if not files:
        message = f"dataset {job.dataset.digest} has no rows to train on: name another version"
        raise WorkerError(FailureClass.DATA, message)
    return [folder / entry.path for entry in files]


@contextmanager
def storage_failures(what: str, wrong: FailureClass) -> Iterator[None]:
    """Artifact errors as failures: missing or damaged is `wrong`, anything else is `Storage`; both name the URI."""
    try:
        yield
    except (NotFoundError, CorruptError) as error:
        raise WorkerError(wrong, f"{what}: {error}") from error
    except ArtifactError as error:
        raise WorkerError(FailureClass.STORAGE, f"{what}: {error}") from error
