"""A model put where it trains: on one device or shared out, its activations kept or computed again, or refused."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import model as models
from sluice_trainer.memory import Checkpointing, Estimate, Shape, Strategy, plan_memory, strategies_for
from sluice_trainer.plan import Plan
from sluice_trainer.sharding import shard
from sluice_trainer.surroundings import Surroundings

_log = logging.getLogger(__name__)


def fit_memory(job: TrainJob, model: Any, plan: Plan, around: Surroundings) -> Strategy:
    """Refuse what cannot fit, have activations computed again where they would not, and put the model in its place.

    Raises:
        WorkerError: `OutOfMemory` where it fits nowhere, `Infrastructure` where more workers would hold it, `UserError`
            where rows are longer than the base model knows positions.
    """
    check_positions(model.get_base_model().config, plan)
    width = next(model.get_base_model().parameters()).element_size()
    for_workers = partial(
        planned,
        job,
        Shape.of(model, width, on_cpu=around.device.type == "cpu"),
        plan.row_tokens,
        shared=around.device.type == "cpu",
    )
    try:
        found = for_workers(around.group.size)
    except WorkerError as error:
        raise too_few(job, around.group.size, for_workers, error) from error
    if found.checkpointing:
        models.recompute_activations(model)
    if found.sharded:
        shard(model, around.device, around.group.size)
        around.group.lockstep = True
    model.to(around.device)
    again = ", activations computed again" if found.checkpointing else ""
    strategy = Strategy.FSDP if found.sharded else Strategy.DDP
    _log.info("a row has up to %d tokens: a worker needs about %s%s, %s", plan.row_tokens, found, again, strategy)
    return strategy


def check_positions(config: Any, plan: Plan) -> None:
    """Refuse documents that go on where the base model was never trained; it would answer there, and badly.

    Args:
        config: the base model's configuration. The number of positions is `max_position_embeddings`, or more where its
            rotary embedding is stretched by a factor.
        plan: the run's.

    Raises:
        WorkerError: `UserError`, naming the field to change.
    """
    text = config.get_text_config()
    known = getattr(text, "max_position_embeddings", None)
    if not isinstance(known, int):
        return
    rotary = getattr(text, "rope_parameters", None) or {}
    for each in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        known = max(known, int((each.get("factor") or 1) * (each.get("original_max_position_embeddings") or known)))
    if plan.positions > known:
        message = (
            f"rows have up to {plan.positions} tokens, the base model knows {known} positions "
            f"(max_position_embeddings): set sequence.maxLength to {known}, which leaves longer rows out, or choose a "
            "base for longer texts"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)


def planned(job: TrainJob, shape: Shape, row_tokens: int, workers: int, *, shared: bool) -> Estimate:
    """The memory plan of a run with so many workers."""
    return plan_memory(
        shape,
        row_tokens,
        Checkpointing(job.activation_checkpointing),
        job.memory_bytes,
        shared=shared,
        strategies=strategies_for(Strategy(job.strategy), workers=workers, probing=job.probes is not None),
        workers=workers,
    )


def too_few(job: TrainJob, size: int, for_workers: Callable[[int], Estimate], error: WorkerError) -> WorkerError:
    """What ends a run that does not fit: `error`, unless it would fit on more workers than this attempt found."""
    for workers in range(size + 1, job.workers + 1):
        with suppress(WorkerError):
            for_workers(workers)
            message = (
                f"there was room for {size} of {job.workers} workers, and the base fits only where at least {workers} "
                f"share it out: set minWorkers to {workers}, so that no attempt starts with fewer"
            )
            return WorkerError(FailureClass.INFRASTRUCTURE, message)
    return error
