"""Processes that add up their gradients over gloo: the losses and weights of one, and any number resumes another's."""

import multiprocessing
import pickle
import queue
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loop_runs import Recorder, make_recipe, run, sessions_in_a_group, stopped_session, train_in_a_group, weights
from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass, TrainJob, TrainOutput
from sluice_trainer.memory import PROCESS_BYTES, SET_ASIDE, Shape, estimate
from sluice_trainer.model import LoraSettings, add_adapter
from sluice_trainer.snapshot import Snapshot
from tiny_models import preference_row, publish_rows, save_base, tiny_model, tiny_tokenizer
from training_jobs import Workplace

DEADLINE = 240.0
"""Seconds that a loaded machine may take."""


def together(
    folder: Path, size: int, stop_after: int | None = None, resume: Snapshot | None = None, *, sharded: bool = False
) -> dict[int, tuple[list[float], torch.Tensor, Snapshot | None]]:
    store = folder / f"store-{size}-{stop_after}-{sharded}"
    found = in_processes(train_in_a_group, size, store, stop_after, pickle.dumps(resume), sharded)
    return {rank: (losses, torch.from_numpy(values), pickle.loads(last)) for rank, losses, values, last in found}


def in_processes(
    target: Any, size: int, store: Path, *arguments: Any, told: Callable[[Any], None] = lambda each: None
) -> list[Any]:
    """What each of several processes told of `target(rank, size, store, results, *arguments)`; `told` hears it too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sluice_trainer.session"])
    results = context.Queue()
    processes = [
        context.Process(target=target, args=(rank, size, str(store), results, *arguments), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        found = []
        for _ in processes:
            found.append(_next(results, processes))
            told(found[-1])
        for process in processes:
            process.join(DEADLINE)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return found


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


@pytest.mark.parametrize(
    ("size", "sharded"), [(2, False), (4, False), (2, True), pytest.param(4, True, marks=pytest.mark.soak)]
)
def test_several_processes_take_the_steps_of_one(
    tmp_path: Path, alone: tuple[list[float], torch.Tensor], size: int, sharded: bool
) -> None:
    """Losses within 1e-4: sums in another order round differently, and nothing else may differ.

    With shared weights too; a process without a row of a step then takes part in the others' passes.
    """
    found = together(tmp_path, size, sharded=sharded)
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


def test_whole_weights_go_on_where_shared_ones_were_stopped(
    tmp_path: Path, alone: tuple[list[float], torch.Tensor]
) -> None:
    first = together(tmp_path, 2, stop_after=3, sharded=True)
    hooks, recipe = Recorder(), make_recipe()
    run(recipe, hooks, resume=first[0][2])
    losses = [record.loss for record in hooks.records]
    assert first[0][0] + losses == pytest.approx(alone[0], abs=1e-4)
    assert torch.allclose(weights(recipe), alone[1], atol=1e-4)


@pytest.mark.soak
def test_a_mixture_whose_experts_are_trained_is_shared_out_too(tmp_path: Path) -> None:
    mixture = {"architecture": "qwen3_moe", "roles": frozenset({"norm", "router", "experts"})}
    hooks, recipe = Recorder(), make_recipe(**mixture)
    run(recipe, hooks)
    found = in_processes(train_in_a_group, 2, tmp_path / "store", None, pickle.dumps(None), True, mixture)
    for _, losses, values, _ in found:
        assert losses == pytest.approx([record.loss for record in hooks.records], abs=1e-4)
        assert torch.allclose(torch.from_numpy(values), weights(recipe), atol=1e-4)


def test_whole_jobs_with_shared_weights_publish_the_adapter_of_one_worker(tmp_path: Path) -> None:
    """Both methods: the reference of preference training, too, is computed by processes that have to meet.

    The first shares its weights out because they do not fit otherwise, the second because it is told to.
    """
    place = Workplace(tmp_path, rows=12)
    pairs = publish_rows(
        f"file://{tmp_path}/pairs", [preference_row(number) for number in range(9)], dataset_format="preference"
    )
    deep = {"base_model": ModelRef(uri=f"file://{save_base(tmp_path / 'deep', layers=8)}")}
    preferred = {"dataset": pairs, "method": "dpo"}
    alone = [place.job("alone-sft", epochs=1, **deep), place.job("alone-dpo", epochs=1, **preferred)]
    shared = [
        place.job("shared-sft", epochs=1, workers=2, memory_bytes=memory_between(layers=8), **deep),
        place.job("shared-dpo", epochs=1, workers=2, strategy="fsdp", **preferred),
    ]
    cache = str(tmp_path / "cache")
    expected = outputs(in_processes(sessions_in_a_group, 1, tmp_path / "store-1", *told(alone, cache)))
    found = outputs(in_processes(sessions_in_a_group, 2, tmp_path / "store-2", *told(shared, cache)))
    for one, two in zip(expected, found, strict=True):
        assert (one.strategy, one.workers, two.strategy, two.workers) == ("ddp", 1, "fsdp", 2)
        assert two.final_loss == pytest.approx(one.final_loss, abs=1e-4)
        left, right = tensors(one), tensors(two)
        assert left.keys() == right.keys()
        assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)
        assert any(tensor.abs().max() > 1e-3 for name, tensor in right.items() if "lora_B" in name)


def test_a_stop_is_told_by_the_first_worker_alone_once_its_checkpoint_is_written(tmp_path: Path) -> None:
    """Ray tears a group down at the first error of a worker: one that had nothing to save must not be it."""
    job = Workplace(tmp_path, rows=12).job("stopped", workers=2)
    go, order = tmp_path / "go", []

    def heard(result: tuple[int, str, object]) -> None:
        order.append(result[0])
        go.touch()

    arguments = (job.model_dump_json(by_alias=True), str(tmp_path / "cache"), str(go))
    found = in_processes(stopped_session, 2, tmp_path / "store", *arguments, told=heard)
    ends = {rank: (how, what) for rank, how, what in found}
    assert order == [1, 0]
    assert ends[1] == ("returned", None)
    assert ends[0][0] == FailureClass.PREEMPTED
    assert "saved at step 1" in str(ends[0][1])
    checkpoints = Path(job.checkpoint_uri.removeprefix("file://"))
    assert (checkpoints / "step-00000001.attempt-1" / "complete.json").exists()


def memory_between(layers: int) -> int:
    """Bytes of a worker's memory in which a row fits only with the weights shared out over two."""
    base = tiny_model(tiny_tokenizer(), layers=layers).requires_grad_(False)
    shape = Shape.of(add_adapter(base, LoraSettings(rank=8, alpha=16), seed=11), 4)
    whole, parts = (estimate(shape, 300, checkpointing=True, shards=shards).total for shards in (1, 2))
    assert parts < whole
    return PROCESS_BYTES + int((whole + parts) / 2 / (1 - SET_ASIDE))


def told(jobs: list[TrainJob], cache: str) -> tuple[list[str], str]:
    return [job.model_dump_json(by_alias=True) for job in jobs], cache


def outputs(found: list[tuple[int, list[str]]]) -> list[TrainOutput]:
    """What process 0 told."""
    return [TrainOutput.model_validate_json(text) for text in dict(found)[0]]


def tensors(output: TrainOutput) -> dict[str, torch.Tensor]:
    return load_file(Path(output.adapter.uri.removeprefix("file://")) / "adapter_model.safetensors")
