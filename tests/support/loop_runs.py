"""Runs of the trainer's loop on a tiny model, and a recorder of what it tells."""

import pickle
import time
from pathlib import Path
from typing import Any

import torch

from documents import tokenize_rows
from sluice_api.contracts.dataset import SftRow
from sluice_api.contracts.jobs import ProbeResult, TrainJob
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.fused import fuse
from sluice_trainer.loop import LoopConfig, StepRecord, Trained, train
from sluice_trainer.model import LoraSettings, add_adapter, trained_parameters
from sluice_trainer.plan import Plan, PlanConfig, Step, build_plan
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.schedule import Schedule
from sluice_trainer.sharding import shard
from sluice_trainer.snapshot import PendingSnapshot, Snapshot, Take
from tiny_models import sft_row, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
DOCUMENTS = tokenize_rows([SftRow.model_validate(sft_row(number)) for number in range(24)], tiny_tokenizer())


class Recorder:
    """Keeps what the loop tells; asks to stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[StepRecord] = []
        self.pending: dict[int, PendingSnapshot] = {}
        self.stop_after = stop_after

    def step_done(self, record: StepRecord) -> None:
        self.records.append(record)

    def stop_requested(self) -> bool:
        return len(self.records) + 1 == self.stop_after

    def checkpoint(self, step: int, take: Take) -> None:
        pending = take()
        assert pending.step == step
        self.pending[step] = pending

    def probe(self, step: int) -> ProbeResult:
        raise AssertionError(f"no probe is due at step {step}")

    @property
    def snapshots(self) -> dict[int, Snapshot]:
        """Looked at only after training went on: a snapshot that later steps changed would show."""
        return {step: pending.result() for step, pending in self.pending.items()}


def make_plan(**options: Any) -> Plan:
    settings = {"seed": 5, "max_length": 300, "tokens_per_step": 700, "epochs": 2} | options
    return build_plan(sft_sizes(DOCUMENTS), PlanConfig(**settings))


def make_recipe(
    dropout: float = 0.0, shards: int = 1, architecture: str = "llama", roles: frozenset[str] = frozenset()
) -> SftRecipe:
    base = tiny_model(tiny_tokenizer(), architecture=architecture).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    model = fuse(add_adapter(base, LoraSettings(rank=8, alpha=16, dropout=dropout, roles=roles), seed=5))
    if shards > 1:
        shard(model, CPU, shards)
    return SftRecipe(model, DOCUMENTS, trained_parameters(model), CPU)


def config(plan: Plan, every: int = 1, peak: float = 5e-3) -> LoopConfig:
    return LoopConfig(schedule=Schedule(peak=peak, steps=len(plan.steps), warmup_ratio=0.2), checkpoint_every=every)


def weights(recipe: SftRecipe) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in recipe.parameters.values()])


def run(recipe: SftRecipe, hooks: Recorder, **options: Any) -> Trained:
    plan = options.pop("plan", None) or make_plan()
    return train(plan, hooks, recipe=recipe, config=options.pop("config", None) or config(plan), **options)


def train_in_a_group(
    rank: int,
    size: int,
    store: str,
    results: Any,
    stop_after: int | None,
    resume: bytes,
    sharded: bool = False,
    model: dict[str, Any] | None = None,
) -> None:
    """Train in one of several processes and tell what it saw; process 0 resumes from, and gives, a pickled snapshot.

    Pickled, because tensors sent between processes would be shared memory of one that may be gone.
    """
    from sluice_trainer.group import ProcessGroup

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        hooks, recipe = Recorder(stop_after), make_recipe(shards=size if sharded else 1, **(model or {}))
        group = ProcessGroup()
        group.lockstep = sharded
        run(recipe, hooks, group=group, resume=pickle.loads(resume) if rank == 0 else None)
        losses = [record.loss for record in hooks.records]
        last = hooks.snapshots[max(hooks.snapshots)]
        results.put((rank, losses, weights(recipe).numpy(), pickle.dumps(last if rank == 0 else None)))
    finally:
        torch.distributed.destroy_process_group()


def sessions_in_a_group(rank: int, size: int, store: str, results: Any, jobs: list[str], cache: str) -> None:
    """Do jobs one after the other in one of several processes, as a Ray Train worker does; process 0 tells outputs."""
    from sluice_trainer.group import ProcessGroup
    from sluice_trainer.session import run_session
    from sluice_trainer.surroundings import NoProgress, Surroundings

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        outputs = []
        for text in jobs:
            around = Surroundings(
                group=ProcessGroup(),
                device=CPU,
                progress=NoProgress(),
                stop_requested=lambda: False,
                checkpoint_taken=lambda step, record: None,
                cache=Path(cache),
            )
            output = run_session(TrainJob.model_validate_json(text), around)
            outputs.append(output.model_dump_json() if output else "")
        results.put((rank, outputs))
    finally:
        torch.distributed.destroy_process_group()


def stopped_session(rank: int, size: int, store: str, results: Any, job: str, cache: str, go: str) -> None:
    """Do a job that is asked to stop in its first step, in one of several processes, and tell how it ended there.

    Process 0 may not write its checkpoint before the file `go` is there.
    """
    from sluice_artifacts.reporting import WorkerError
    from sluice_trainer import loop
    from sluice_trainer.checkpoint import Checkpointer
    from sluice_trainer.group import ProcessGroup
    from sluice_trainer.session import run_session
    from sluice_trainer.surroundings import NoProgress, Surroundings

    def held(self: Checkpointer, pending: PendingSnapshot) -> None:
        while not Path(go).exists():
            time.sleep(0.01)
        write(self, pending)

    def stepping(self: loop._Run, step: Step) -> bool:
        begun.append(step)
        return take(self, step)

    begun: list[Step] = []
    write, Checkpointer._write = Checkpointer._write, held  # type: ignore[method-assign]
    take, loop._Run._step = loop._Run._step, stepping  # type: ignore[method-assign]
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        around = Surroundings(
            group=ProcessGroup(),
            device=CPU,
            progress=NoProgress(),
            stop_requested=lambda: rank == 0 and bool(begun),
            checkpoint_taken=lambda step, record: None,
            cache=Path(cache),
        )
        try:
            results.put((rank, "returned", run_session(TrainJob.model_validate_json(job), around)))
        except WorkerError as error:
            results.put((rank, error.failure_class.value, error.message))
    finally:
        torch.distributed.destroy_process_group()
