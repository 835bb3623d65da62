"""How a session ends otherwise than well: in words that name what to do, and with the class that decides the retry."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.settings import out_of_memory_advice


def stopped(step: int, of: int, resumed_from: int | None) -> WorkerError:
    """What ends a run that was asked to stop after `step` of `of` steps, and says where the next attempt begins."""
    if step == 0:
        message = "asked to stop before the first step: there is nothing to save, the next attempt begins anew"
    elif step == resumed_from:
        message = f"asked to stop before a step was taken: the next attempt resumes at step {step} of {of}, as this did"
    else:
        message = f"asked to stop: saved at step {step} of {of}, the next attempt resumes there"
    return WorkerError(FailureClass.PREEMPTED, message)


@contextmanager
def room(what: str) -> Iterator[None]:
    """A temporary folder without room as a failure of the storage."""
    try:
        yield
    except OSError as error:
        message = f"{what} cannot be kept in the temporary folder: {error.strerror or error}"
        raise WorkerError(FailureClass.STORAGE, message) from error


@contextmanager
def out_of_memory(job: TrainJob) -> Iterator[None]:
    """Out of memory as a failure that names the fix."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and not _says_memory(error)
        ):
            raise
        raise WorkerError(FailureClass.OUT_OF_MEMORY, out_of_memory_advice(job)) from error


def _says_memory(error: RuntimeError) -> bool:
    text = str(error)
    return "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
