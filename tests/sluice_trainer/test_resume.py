"""A real process killed with SIGKILL, and one stopped with SIGTERM: the next attempt ends bit for bit the same."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from paused_training import DEADLINE, paused, wait_for
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import run_worker
from sluice_trainer import worker
from training_jobs import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worker.CACHE_VARIABLE, str(folder / "cache"))
        yield Workplace(folder)


@pytest.fixture(scope="module")
def clean(place: Workplace) -> tuple[str, int]:
    """Digest and steps of a run that nobody disturbed."""
    job = place.job("clean")
    assert run_worker(job, worker.run_bare) == 0
    output = place.output(job)
    return output.adapter.digest, output.steps


@pytest.mark.parametrize(("step", "resumed_from"), [(2, None), (8, 6)])
def test_a_killed_run_resumes_to_the_same_adapter(
    place: Workplace, clean: tuple[str, int], step: int, resumed_from: int | None
) -> None:
    job = place.job(f"killed-{step}")
    with paused(job, place.folder, step) as (process, _):
        if resumed_from is not None:
            checkpoints = Path(job.checkpoint_uri.removeprefix("file://"))
            wait_for(checkpoints / f"step-{resumed_from:08d}.attempt-1" / "complete.json", process)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(DEADLINE)
        assert process.exitcode == -signal.SIGKILL
    second = place.job(f"killed-{step}", attempt=2)
    assert run_worker(second, worker.run_bare) == 0
    output = place.output(second)
    assert output.resumed_from_step == resumed_from
    assert (output.adapter.digest, output.steps) == clean


def test_a_run_that_is_asked_to_stop_saves_first(place: Workplace, clean: tuple[str, int]) -> None:
    job = place.job("stopped")
    with paused(job, place.folder, 4) as (process, go):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        go.touch()
        process.join(DEADLINE)
        assert process.exitcode == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.PREEMPTED
    assert "saved at step 5" in failure.message
    second = place.job("stopped", attempt=2)
    assert run_worker(second, worker.run_bare) == 0
    output = place.output(second)
    assert output.resumed_from_step == 5
    assert (output.adapter.digest, output.steps) == clean
