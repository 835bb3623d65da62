"""`sluice worker train`: a TrainJob, always on Ray; `run_bare` is the same without, for `sluice train --no-ray`."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sluice_api.contracts.jobs import FailureClass, TrainJob, TrainOutput
from sluice_artifacts.reporting import Reporter, WorkerError

if TYPE_CHECKING:
    from sluice_trainer.live import Prober

CACHE_VARIABLE = "SLUICE_CACHE_DIR"
"""Environment variable: folder that keeps fetched artifacts between jobs."""


def cache_folder() -> Path:
    """Folder for fetched artifacts, which is made; they are verified before each use.

    Raises:
        WorkerError: `UserError` when it is no folder and cannot become one.
    """
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path(tempfile.gettempdir()) / "sluice-cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        message = f"the cache {folder} cannot be a folder: {error.strerror}: set {CACHE_VARIABLE} to one that can"
        raise WorkerError(FailureClass.USER_ERROR, message) from error
    return folder


def run(job: TrainJob, reporter: Reporter, prober: "Prober | None" = None) -> TrainOutput:
    """Train on the Ray cluster of the present Ray job, or on a local one where there is none.

    Settings and rows are checked first, before any accelerator is asked for. `prober` runs the suites of probes.

    Raises:
        WorkerError: with the failure's class and what to do about it.
    """
    check(job, reporter)
    check_prober(job, prober)
    from sluice_trainer import ray_adapter

    return ray_adapter.run(job, reporter, cache_folder(), prober)


def check(job: TrainJob, reporter: Reporter) -> None:
    """Refuse what cannot succeed: settings, a dataset that is missing or damaged, rows that must not be learnt.

    Raises:
        WorkerError: `UserError` or `Data`, naming the field, or file and line.
    """
    from sluice_trainer.activity import at_work
    from sluice_trainer.data import ROWS, check_rows
    from sluice_trainer.rows import fetch_rows
    from sluice_trainer.settings import check_job
    from sluice_trainer.stages import CHECKING

    def told(done: int, of: int) -> None:
        reporter.progress(stage=CHECKING, step=done, of=of)

    check_job(job)
    cache = cache_folder()
    reporter.progress(stage=CHECKING, inputs={"dataset": job.dataset.digest})
    with at_work(cache, reporter.progress):
        check_rows(fetch_rows(job, cache), *ROWS[job.method], told=told)


def check_prober(job: TrainJob, prober: "Prober | None") -> None:
    """Refuse a job with probes where nothing runs them: rules that never fire would look like rules that hold.

    Raises:
        WorkerError: `UserError`.
    """
    if job.probes is not None and prober is None:
        message = "probes: nothing here runs suites: start the job with `sluice worker train` or `sluice train`"
        raise WorkerError(FailureClass.USER_ERROR, message)


def run_bare(job: TrainJob, reporter: Reporter, prober: "Prober | None" = None) -> TrainOutput:
    """Train in this process, with one worker.

    Raises:
        WorkerError: with the failure's class and what to do about it.
    """
    from sluice_trainer.group import Alone
    from sluice_trainer.hardware import worker_device
    from sluice_trainer.session import run_session
    from sluice_trainer.surroundings import Surroundings

    if job.workers != 1:
        raise WorkerError(FailureClass.USER_ERROR, f"workers is {job.workers}: without Ray there is one")
    check_prober(job, prober)
    around = Surroundings(
        group=Alone(),
        device=worker_device(job),
        progress=reporter,
        stop_requested=reporter.stop_requested.is_set,
        checkpoint_taken=lambda step, record: None,
        cache=cache_folder(),
        prober=prober,
        saving=reporter.cooperative_stop,
    )
    output = run_session(job, around)
    assert output is not None, "the first worker has the output"
    return output
