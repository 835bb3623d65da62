"""Processes that add up their gradients over gloo: the losses and weights of one, and any number resumes another's."""

import multiprocessing
import pickle
import queue
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from loop_runs import Recorder, make_recipe, run, train_in_a_group, weights
from sluice_trainer.snapshot import Snapshot

DEADLINE = 240.0
"""Seconds that a loaded machine may take."""


def together(
    folder: Path, size: int, stop_after: int | None = None, resume: Snapshot | None = None
) -> dict[int, tuple[list[float], torch.Tensor, Snapshot | None]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sluice_trainer.session"])
    results = context.Queue()
    store = folder / f"store-{size}-{stop_after}"
    processes = [
        context.Process(
            target=train_in_a_group,
            args=(rank, size, str(store), results, stop_after, pickle.dumps(resume)),
            daemon=True,
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found = [_next(results, processes) for _ in processes]
        for process in processes:
            process.join(DEADLINE)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return {rank: (losses, torch.from_numpy(values), pickle.loads(last)) for rank, losses, values, last in found}


def _next(results: Any, processes: list[BaseProcess]) -> Any:
    """The next result; a process that failed is not waited for."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            return results.get(timeout=1.0)
        except queue.Empty:
            assert all(process.exitcode in (None, 0) for process in processes), "a process failed: see above"
    raise AssertionError(f"no result within {DEADLINE:.0f} s")


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], torch.Tensor]:
    hooks, recipe = Recorder(), make_recipe()
    run(recipe, hooks)
    return [record.loss for record in hooks.records], weights(recipe)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_take_the_steps_of_one(
    tmp_path: Path, alone: tuple[list[float], torch.Tensor], size: int
) -> None:
    """Losses within 1e-4: sums in another order round differently, and nothing else may differ."""
    found = together(tmp_path, size)
    for losses, values, _ in found.values():
        assert losses == pytest.approx(alone[0], abs=1e-4)
        assert torch.equal(values, found[0][1]), "all processes hold the same weights"
        assert torch.allclose(values, alone[1], atol=1e-4)


def test_two_processes_go_on_where_four_were_stopped(tmp_path: Path, alone: tuple[list[float], torch.Tensor]) -> None:
    """What an elastic run does: the same tokens in the same steps, whoever is there."""
    first = together(tmp_path, 4, stop_after=3)
    assert len(first[0][0]) == 3
    second = together(tmp_path, 2, resume=first[0][2])
    assert first[0][0] + second[0][0] == pytest.approx(alone[0], abs=1e-4)
    assert torch.allclose(second[0][1], alone[1], atol=1e-4)
