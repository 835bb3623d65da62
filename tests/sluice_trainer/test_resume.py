"""A real process killed with SIGKILL, and one stopped with SIGTERM: the next attempt ends bit for bit the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts.reporting import run_worker
from sluice_trainer import worker
from training_jobs import Workplace

DEADLINE = 120.0
PROGRAM = """
import sys
from pathlib import Path
from sluice_api.contracts.jobs import TrainJob
from sluice_artifacts.reporting import run_worker
from sluice_trainer import loop, worker
from sluice_trainer.session import _SessionHooks

pause = Path(sys.argv[2])
told = _SessionHooks.step_done

def step_done(self, record):
    told(self, record)
    if record.step == int(sys.argv[3]):
        pause.write_text(str(record.step))
        import time
        while not pause.with_suffix(".go").exists():
            time.sleep(0.01)

_SessionHooks.step_done = step_done
sys.exit(run_worker(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()), worker.run_bare))
"""


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


def paused(place: Workplace, job: TrainJob, step: int) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that trains the job and waits in the middle of a step."""
    text, pause = place.folder / f"{job.run.name}.json", place.folder / f"{job.run.name}.pause"
    text.write_text(job.model_dump_json(by_alias=True))
    command = [sys.executable, "-c", PROGRAM, str(text), str(pause), str(step)]
    process = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.DEVNULL)
    until = time.monotonic() + DEADLINE
    while not pause.exists():
        assert process.poll() is None, "the process ended before the step"
        assert time.monotonic() < until
        time.sleep(0.02)
    return process, pause.with_suffix(".go")


@pytest.mark.parametrize(("step", "resumed_from"), [(2, None), (8, 6)])
def test_a_killed_run_resumes_to_the_same_adapter(
    place: Workplace, clean: tuple[str, int], step: int, resumed_from: int | None
) -> None:
    job = place.job(f"killed-{step}")
    process, _ = paused(place, job, step)
    if resumed_from is not None:
        marker = Path(job.checkpoint_uri.removeprefix("file://")) / f"step-{resumed_from:08d}.attempt-1/complete.json"
        until = time.monotonic() + DEADLINE
        while not marker.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=DEADLINE) == -signal.SIGKILL
    second = place.job(f"killed-{step}", attempt=2)
    assert run_worker(second, worker.run_bare) == 0
    output = place.output(second)
    assert output.resumed_from_step == resumed_from
    assert (output.adapter.digest, output.steps) == clean


def test_a_run_that_is_asked_to_stop_saves_first(place: Workplace, clean: tuple[str, int]) -> None:
    job = place.job("stopped")
    process, go = paused(place, job, 4)
    process.send_signal(signal.SIGTERM)
    go.touch()
    assert process.wait(timeout=DEADLINE) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.PREEMPTED
    assert "saved at step 5" in failure.message
    second = place.job("stopped", attempt=2)
    assert run_worker(second, worker.run_bare) == 0
    output = place.output(second)
    assert output.resumed_from_step == 5
    assert (output.adapter.digest, output.steps) == clean
