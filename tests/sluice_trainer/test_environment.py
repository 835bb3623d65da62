"""Environment variables of a training worker that say what cannot be."""

from pathlib import Path

import pytest

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError, run_worker
from sluice_trainer import ray_adapter, worker
from training_jobs import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("environment"), rows=2)


@pytest.mark.parametrize("below", ["", "/deep/below"])
@pytest.mark.parametrize("kind", ["run", "run_bare"])
def test_a_cache_that_is_a_file_is_named(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, kind: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(worker.CACHE_VARIABLE, f"{tmp_path}/file{below}")
    job = place.job(f"cache-{kind}-{bool(below)}")
    assert run_worker(job, getattr(worker, kind)) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.USER_ERROR
    assert f"{tmp_path}/file" in failure.message
    assert f"set {worker.CACHE_VARIABLE} to one that can" in failure.message


@pytest.mark.parametrize("text", ["0", "-1", "two", "²", "１", "1.5"])
def test_cpus_of_a_worker_that_are_no_number_are_named(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(ray_adapter.CPUS_VARIABLE, text)
    with pytest.raises(WorkerError, match=f"{ray_adapter.CPUS_VARIABLE} is '{text}': it must be") as caught:
        ray_adapter._cpus_per_worker(place.job("cpus"))
    assert caught.value.failure_class == FailureClass.USER_ERROR
