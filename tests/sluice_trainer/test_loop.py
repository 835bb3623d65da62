"""The loop: golden losses, exact resumption, any number of workers."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loop_runs import Recorder, config, make_plan, make_recipe, run, weights
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.group import Alone, Group
from sluice_trainer.loop import StepRecord, Trained
from sluice_trainer.recipes import SftRecipe
from sluice_trainer.schedule import Schedule
from sluice_trainer.snapshot import Snapshot

GOLDEN = Path(__file__).parent / "golden" / "sft_losses.json"


@pytest.fixture(scope="module")
def clean() -> tuple[Recorder, torch.Tensor, Trained]:
    hooks, recipe = Recorder(), make_recipe(dropout=0.1)
    trained = run(recipe, hooks)
    return hooks, weights(recipe), trained


def test_losses_are_the_golden_ones_and_fall() -> None:
    """Losses per step, within 1e-3: another processor may round differently, another algorithm would differ by more."""
    hooks = Recorder()
    trained = run(make_recipe(), hooks)
    losses = [record.loss for record in hooks.records]
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert losses == pytest.approx(golden["losses"], abs=1e-3)
    assert [record.grad_norm for record in hooks.records] == pytest.approx(golden["grad_norms"], rel=1e-2)
    assert losses[-1] < losses[0] - 0.05
    assert trained.finished and trained.step == len(losses)
    assert trained.final_loss == pytest.approx(sum(losses[-10:]) / len(losses[-10:]), rel=0.02)


def test_every_record_says_where_the_run_stands(clean: tuple[Recorder, torch.Tensor, Trained]) -> None:
    hooks, _, trained = clean
    plan = make_plan()
    assert [record.step for record in hooks.records] == list(range(1, len(plan.steps) + 1))
    assert [record.tokens for record in hooks.records] == [step.tokens for step in plan.steps]
    assert hooks.records[-1].epoch == 2
    assert all(record.tokens_per_second > 0 and record.grad_norm > 0 for record in hooks.records)
    assert trained.tokens_per_second > 0


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_resumed_after_any_step_ends_bit_for_bit_the_same(
    clean: tuple[Recorder, torch.Tensor, Trained], step: int
) -> None:
    hooks, expected, trained = clean
    torch.manual_seed(999)
    torch.rand(step)
    resumed, recipe = Recorder(), make_recipe(dropout=0.1)
    again = run(recipe, resumed, resume=hooks.snapshots[step])
    assert torch.equal(weights(recipe), expected)
    assert [record.loss for record in resumed.records] == [record.loss for record in hooks.records[step:]]
    assert again.final_loss == trained.final_loss
    assert resumed.records[0].step == step + 1


def test_a_finished_run_resumes_to_its_end_at_once(clean: tuple[Recorder, torch.Tensor, Trained]) -> None:
    hooks, expected, trained = clean
    resumed, recipe = Recorder(), make_recipe(dropout=0.1)
    again = run(recipe, resumed, resume=hooks.snapshots[trained.step])
    assert resumed.records == []
    assert again.finished and again.final_loss == trained.final_loss
    assert torch.equal(weights(recipe), expected)


def test_a_snapshot_is_a_copy(clean: tuple[Recorder, torch.Tensor, Trained]) -> None:
    first, last = clean[0].snapshots[1], clean[0].snapshots[len(clean[0].records)]
    assert any(not torch.equal(first.parameters[name], last.parameters[name]) for name in first.parameters)


def test_asked_to_stop_it_saves_and_ends_and_the_next_run_goes_on(
    clean: tuple[Recorder, torch.Tensor, Trained],
) -> None:
    hooks, recipe = Recorder(stop_after=3), make_recipe(dropout=0.1)
    plan = make_plan()
    stopped = run(recipe, hooks, config=config(plan, every=100))
    assert not stopped.finished
    assert stopped.step == 3
    assert list(hooks.snapshots) == [3]
    resumed, again = Recorder(), make_recipe(dropout=0.1)
    run(again, resumed, config=config(plan, every=100), resume=hooks.snapshots[3])
    assert torch.equal(weights(again), clean[1])


def test_checkpoints_come_at_their_interval_and_at_the_end() -> None:
    hooks = Recorder()
    plan = make_plan()
    run(make_recipe(), hooks, config=config(plan, every=4))
    assert list(hooks.snapshots) == [*range(4, len(plan.steps), 4), len(plan.steps)]


class Threads:
    """Several workers in one process: a group whose members meet at a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots: list[torch.Tensor] = [torch.zeros(0)] * size

    def member(self, rank: int) -> "Member":
        return Member(self, rank)


class Member:
    """One of `Threads`."""

    def __init__(self, threads: Threads, rank: int) -> None:
        self.rank = rank
        self.size = threads.size
        self.lockstep = False
        self._threads = threads

    def sum(self, tensor: torch.Tensor) -> None:
        self._exchange(tensor, lambda slots: torch.stack(slots).sum(0))

    def broadcast(self, tensor: torch.Tensor) -> None:
        self._exchange(tensor, lambda slots: slots[0])

    def _exchange(self, tensor: torch.Tensor, combine: Callable[[list[torch.Tensor]], torch.Tensor]) -> None:
        self._threads.slots[self.rank] = tensor.detach().clone()
        self._threads.barrier.wait(timeout=60)
        result = combine(self._threads.slots)
        self._threads.barrier.wait(timeout=60)
        tensor.detach().copy_(result)


def run_together(size: int, resume: Snapshot | None, stop_after: int | None = None) -> list[tuple[Recorder, SftRecipe]]:
    threads = Threads(size)
    recipes = [make_recipe() for _ in range(size)]
    recorders = [Recorder(stop_after if rank == 0 else None) for rank in range(size)]
    failures: list[BaseException] = []

    def work(rank: int, group: Group) -> None:
        try:
            run(recipes[rank], recorders[rank], group=group, resume=resume if rank == 0 else None)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)
            threads.barrier.abort()

    workers = [threading.Thread(target=work, args=(rank, threads.member(rank))) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert failures == []
    return list(zip(recorders, recipes, strict=True))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_several_workers_take_the_same_steps_as_one(size: int) -> None:
    alone, recipe = Recorder(), make_recipe()
    run(recipe, alone, group=Alone())
    together = run_together(size, resume=None)
    losses = [record.loss for record in alone.records]
    for hooks, each in together:
        assert [record.loss for record in hooks.records] == pytest.approx(losses, abs=1e-4)
        assert [record.tokens for record in hooks.records] == [record.tokens for record in alone.records]
        assert torch.equal(weights(each), weights(together[0][1])), "all workers hold the same weights"
        assert torch.allclose(weights(each), weights(recipe), atol=1e-4)


def test_another_number_of_workers_resumes_with_the_same_data() -> None:
    alone = Recorder()
    run(make_recipe(), alone)
    together = run_together(2, resume=alone.snapshots[2])
    losses = [record.loss for record in alone.records[2:]]
    for hooks, _ in together:
        assert [record.loss for record in hooks.records] == pytest.approx(losses, abs=1e-4)


def test_one_worker_that_is_asked_to_stop_stops_all_at_the_same_step() -> None:
    together = run_together(2, resume=None, stop_after=2)
    assert [len(hooks.records) for hooks, _ in together] == [2, 2]


def test_a_parameter_that_no_row_uses_has_a_gradient_of_zeros() -> None:
    """Its steps count and its moments decay with one worker as with several, so that either resumes the other."""
    hooks, recipe = Recorder(), make_recipe()
    recipe.parameters = {**recipe.parameters, "unused": torch.nn.Parameter(torch.ones(2))}
    run(recipe, hooks)
    last = hooks.snapshots[len(hooks.records)]
    assert last.optimizer["unused/step"].item() == last.step
    assert torch.equal(last.parameters["unused"], torch.ones(2))


class Poisoner(Recorder):
    """Makes the weights diverge after some steps."""

    def __init__(self, recipe: Any, after: int) -> None:
        super().__init__()
        self.recipe, self.after = recipe, after

    def step_done(self, record: StepRecord) -> None:
        super().step_done(record)
        if record.step == self.after:
            poison(self.recipe)


def poison(recipe: Any) -> None:
    with torch.no_grad():
        next(iter(recipe.parameters.values())).fill_(float("nan"))


def test_a_loss_that_is_not_finite_ends_the_run_with_what_to_do() -> None:
    recipe = make_recipe()
    with pytest.raises(WorkerError, match=r"step 3: the loss is nan.*learningRate") as caught:
        run(recipe, Poisoner(recipe, after=2))
    assert caught.value.failure_class == FailureClass.USER_ERROR


def test_no_learning_rate_is_blamed_for_what_was_there_before_the_first_step() -> None:
    recipe = make_recipe()
    poison(recipe)
    with pytest.raises(WorkerError, match=r"step 1: the loss is nan.*the base or the parent adapter"):
        run(recipe, Recorder())


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_warms_up_and_decays(decay: Any, expected: list[float]) -> None:
    schedule = Schedule(peak=1.0, steps=6, decay=decay, warmup_ratio=0.3)
    assert [schedule.rate(step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"peak": 0}, "learning_rate"), ({"warmup_ratio": 1.5}, "warmup_ratio"), ({"steps": 0}, "steps")],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} is "):
        Schedule(**({"peak": 1.0, "steps": 3} | options))
