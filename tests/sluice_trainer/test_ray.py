"""The same jobs through real Ray Train: one worker, two workers, a failure of a worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import run_worker
from sluice_trainer import ray_adapter, worker
from training_jobs import Workplace

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A workplace, and one local Ray on loopback for all tests here."""
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worker.CACHE_VARIABLE, str(folder / "cache"))
        patch.delenv(ray_adapter.ADDRESS_VARIABLE, raising=False)
        patch.setenv(ray_adapter.CPUS_VARIABLE, "1")
        place = Workplace(folder)
        with ray_adapter.connected(place.job("cluster", workers=2)):
            yield place


def test_one_worker_publishes_what_the_bare_loop_publishes(place: Workplace) -> None:
    bare, job = place.job("bare"), place.job("ray")
    threads = os.environ.get("OMP_NUM_THREADS")
    assert run_worker(bare, worker.run_bare) == 0
    assert run_worker(job, worker.run) == 0
    found, expected = place.output(job), place.output(bare)
    assert found.steps == expected.steps
    assert found.final_loss == pytest.approx(expected.final_loss, abs=1e-5)
    if threads == "1":
        assert found.adapter == expected.adapter


def test_two_workers_end_with_the_same_loss(place: Workplace) -> None:
    bare, job = place.job("bare-2"), place.job("ray-2", workers=2)
    assert run_worker(bare, worker.run_bare) == 0
    assert run_worker(job, worker.run) == 0
    found, expected = place.output(job), place.output(bare)
    assert found.steps == expected.steps
    assert found.final_loss == pytest.approx(expected.final_loss, abs=1e-4)


def test_a_failure_of_a_worker_keeps_its_class_and_message(place: Workplace, tmp_path: Path) -> None:
    job = place.job("missing-base", base_model=ModelRef(uri=f"file://{tmp_path}/nowhere"))
    assert run_worker(job, worker.run) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.USER_ERROR
    assert f"file://{tmp_path}/nowhere" in failure.message
