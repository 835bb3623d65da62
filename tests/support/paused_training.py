"""A process that trains a job and waits inside a step, so that a test can kill or stop it exactly there."""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from sluice_api.contracts.jobs import TrainJob

DEADLINE = 300.0
"""Seconds that a loaded machine may take."""


def wait_for(path: Path, process: BaseProcess) -> None:
    """Wait until a file of a living process is there."""
    until = time.monotonic() + DEADLINE
    while not path.exists():
        assert process.is_alive(), f"the process ended before {path.name}"
        assert time.monotonic() < until, f"no {path.name} in time"
        time.sleep(0.02)


@contextmanager
def paused(job: TrainJob, folder: Path, step: int) -> Iterator[tuple[BaseProcess, Path]]:
    """The process, waiting inside `step`, and the file whose creation lets it go on; it is gone in the end.

    Forked from a server that has the libraries in memory: a real process, without seconds of imports for each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sluice_trainer.session"])
    pause, go = folder / f"{job.run.name}.pause", folder / f"{job.run.name}.go"
    process = context.Process(target=_train, args=(job.model_dump_json(by_alias=True), str(pause), str(go), step))
    process.start()
    try:
        wait_for(pause, process)
        yield process, go
    finally:
        process.kill()
        process.join(DEADLINE)
        process.close()


def _train(text: str, pause: str, go: str, step: int) -> None:
    """Do the job; wait when the progress of `step` is reported."""
    from sluice_artifacts.reporting import Reporter, run_worker
    from sluice_trainer import worker

    told = Reporter.progress

    def progress(self: Reporter, **fields: object) -> None:
        told(self, **fields)  # type: ignore[arg-type]
        if fields.get("stage") == "training" and fields.get("step") == step:
            Path(pause).touch()
            while not Path(go).exists():
                time.sleep(0.01)

    Reporter.progress = progress  # type: ignore[method-assign, assignment]
    sys.exit(run_worker(TrainJob.model_validate_json(text), worker.run_bare))
