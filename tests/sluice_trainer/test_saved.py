"""However a run ends, the checkpoint that is being written is finished first, and a published adapter is no failure."""

import threading
from pathlib import Path
from typing import Any

import pytest

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts import UnreachableError
from sluice_artifacts.reporting import WorkerError, run_worker
from sluice_trainer import worker
from sluice_trainer.checkpoint import Checkpointer
from sluice_trainer.recipes import SftRecipe
from training_jobs import Workplace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    return Workplace(tmp_path)


def test_an_error_waits_for_the_checkpoint_before_it(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage answers only once somebody waits for it; nobody would be there to, were the process to end."""
    begun, waited = threading.Event(), threading.Event()
    save, upload, wait, backward = Checkpointer.save, Checkpointer._upload, Checkpointer.wait, SftRecipe.backward

    def begin(self: Checkpointer, take: Any) -> None:
        save(self, take)
        begun.set()

    def late(self: Checkpointer, snapshot: Any) -> None:
        assert waited.wait(60)
        upload(self, snapshot)

    def told(self: Checkpointer, **options: Any) -> None:
        waited.set()
        wait(self, **options)

    def failing(self: SftRecipe, row: Any, scored: float) -> Any:
        if begun.is_set():
            raise WorkerError(FailureClass.DATA, "a row that cannot be learnt")
        return backward(self, row, scored)

    monkeypatch.setattr(Checkpointer, "save", begin)
    monkeypatch.setattr(Checkpointer, "_upload", late)
    monkeypatch.setattr(Checkpointer, "wait", told)
    monkeypatch.setattr(SftRecipe, "backward", failing)
    job = place.job("failing", checkpoint_every=4)
    run_worker(job, worker.run_bare)
    failure = place.result(job).failure
    assert failure is not None and failure.message == "a row that cannot be learnt"
    assert [path.parent.name for path in place.folder.glob("runs/failing/checkpoints/*/complete.json")] == [
        "step-00000004.attempt-1"
    ]


def test_checkpoints_that_fail_after_the_adapter_is_published_are_no_failure(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Checkpointer, snapshot: Any) -> None:
        raise UnreachableError("s3://b/checkpoints", "no answer")

    monkeypatch.setattr(Checkpointer, "_upload", refuse)
    job = place.job("unkept", checkpoint_every=6, epochs=4, max_steps=18)
    assert run_worker(job, worker.run_bare) == 0
    assert place.output(job).steps == 18
    assert "the run is done, and its adapter published: checkpoints cannot be written" in caplog.text
