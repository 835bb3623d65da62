"""One worker process from job to adapter: fetch, load, resume, train, publish. Knows nothing of Ray."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass, TrainJob, TrainOutput
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import digest_tree, fetch, fetch_model, to_hex
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import model as models
from sluice_trainer.checkpoint import AdapterNames, Checkpointer, peft_names
from sluice_trainer.data import ROWS, read_rows, stream_rows
from sluice_trainer.dpo import DpoRecipe, Pair, pair_sizes, reference_log_probabilities, tokenize_pairs
from sluice_trainer.flops import Work
from sluice_trainer.fused import fuse
from sluice_trainer.hooks import PROBING, SessionHooks
from sluice_trainer.live import LiveModel
from sluice_trainer.loop import LoopConfig, Trained, train
from sluice_trainer.memory import Checkpointing, Shape, plan_memory
from sluice_trainer.phases import Phases, trained_roles
from sluice_trainer.plan import Plan, build_plan
from sluice_trainer.publish import Provenance, publish_adapter
from sluice_trainer.recipes import Recipe, SftRecipe, sft_sizes
from sluice_trainer.rows import fetch_rows, storage_failures
from sluice_trainer.schedule import Schedule
from sluice_trainer.settings import Settings, check_job
from sluice_trainer.snapshot import Snapshot
from sluice_trainer.surroundings import Surroundings
from sluice_trainer.token_cache import TokenCache
from sluice_trainer.tokenise import Document

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """Everything that training needs, fetched and checked."""

    base: ModelRef
    base_folder: Path
    tokenizer: Any
    model: Any
    recipe: Recipe
    plan: Plan


def run_session(job: TrainJob, around: Surroundings) -> TrainOutput | None:
    """Do a job; return its output on the first worker and None on the others.

    Raises:
        WorkerError: with the failure's class and what to do about it.
    """
    settings = check_job(job)
    around.progress.progress(stage="loading", inputs={"dataset": job.dataset.digest})
    with _out_of_memory(job):
        loaded = _load(settings, around)
        checkpointer = _checkpointer(settings, loaded)
        resume = _newest(checkpointer) if around.group.rank == 0 else None
        resumed_from = resume.step if resume else None
        around.progress.progress(
            stage="training", step=resumed_from or 0, of=len(loaded.plan.steps), resumed_from_step=resumed_from
        )
        trained = _train(settings, loaded, around, checkpointer, resume)
    if not trained.finished:
        checkpointer.wait(must_succeed=True)
        message = (
            f"asked to stop: saved at step {trained.step} of {len(loaded.plan.steps)}, the next attempt resumes there"
        )
        raise WorkerError(FailureClass.PREEMPTED, message)
    if around.group.rank != 0:
        return None
    around.progress.progress(stage="publishing", step=trained.step, of=trained.step)
    return _publish(settings, loaded, trained, checkpointer, resumed_from)


def _load(settings: Settings, around: Surroundings) -> _Loaded:
    job = settings.job
    files = fetch_rows(job, around.cache)
    with storage_failures("base model", FailureClass.USER_ERROR):
        folder = fetch_model(job.base_model, around.cache / "models")
    base = job.base_model.model_copy(update={"digest": job.base_model.digest or digest_tree(folder)})
    around.progress.progress(inputs={"baseModel": str(base.digest)})
    tokenizer = models.load_tokenizer(folder, base.uri)
    documents: Sequence[Document] = []
    pairs: Sequence[Pair] = []
    if job.method == "sft":
        documents = TokenCache(around.cache / "tokens").documents(
            job.dataset.digest, tokenizer, lambda: (row.conversations for row in stream_rows(files, *ROWS["sft"]))
        )
    else:
        pairs = tokenize_pairs(read_rows(files, *ROWS[job.method]), tokenizer)
    try:
        plan = build_plan(sft_sizes(documents) or pair_sizes(pairs), settings.plan)
    except ValueError as error:
        raise WorkerError(FailureClass.DATA, str(error)) from error
    if plan.left_out:
        _log.warning("%d of %d rows are longer than a row may be, and left out", plan.left_out, len(documents or pairs))
    model = _adapted(settings, base, folder, around)
    _fit_memory(job, model, plan, around)
    parameters = models.trained_parameters(model)
    recipe: Recipe
    if job.method == "sft":
        recipe = SftRecipe(model, documents, parameters, around.device)
    else:
        recipe = _dpo(settings, model, pairs, around)
    return _Loaded(base=base, base_folder=folder, tokenizer=tokenizer, model=model, recipe=recipe, plan=plan)


def _fit_memory(job: TrainJob, model: Any, plan: Plan, around: Surroundings) -> None:
    """Refuse what cannot fit, and have activations computed again where they would not."""
    sizes = plan.row_tokens
    width = next(model.get_base_model().parameters()).element_size()
    found = plan_memory(
        Shape.of(model, width),
        sizes,
        Checkpointing(job.activation_checkpointing),
        job.memory_bytes,
        shared=around.device.type == "cpu",
    )
    if found.checkpointing:
        models.recompute_activations(model)
    again = ", activations computed again" if found.checkpointing else ""
    _log.info("a row has up to %d tokens: the run needs about %s%s", sizes, found, again)


def _dpo(settings: Settings, model: Any, pairs: Sequence[Pair], around: Surroundings) -> DpoRecipe:
    """Preference training against the model as it is now: before a checkpoint is put back."""
    around.progress.progress(stage="reference")
    limit = min(settings.plan.max_length, settings.plan.tokens_per_step)
    reference = reference_log_probabilities(model, pairs, row_tokens=limit, device=around.device, group=around.group)
    return DpoRecipe(
        model,
        pairs,
        models.trained_parameters(model),
        reference=reference,
        beta=settings.job.dpo_beta,
        device=around.device,
    )


def _adapted(settings: Settings, base: ModelRef, folder: Path, around: Surroundings) -> Any:
    """The base with its adapter: fresh, or the parent's."""
    job = settings.job
    targets = job.target_modules if isinstance(job.target_modules, str) else tuple(job.target_modules)
    lora = models.LoraSettings(
        rank=job.lora_rank,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        target_modules=targets,
        roles=trained_roles(settings.phases),
    )
    weights = models.load_base(folder, base.uri, around.device)
    if job.parent is None:
        return fuse(models.add_adapter(weights, lora, job.seed))
    place = around.cache / "adapters" / to_hex(job.parent.digest)
    with storage_failures("parent adapter", FailureClass.USER_ERROR):
        manifest = fetch(job.parent, place, AdapterManifest)
    if manifest.base_model.digest != base.digest:
        message = (
            f"parent adapter {job.parent.digest}: its base model is {manifest.base_model.digest}, this run's is "
            f"{base.digest}: continue on the same base, or without parentRef"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)
    return fuse(models.continue_adapter(weights, place, lora))


def _checkpointer(settings: Settings, loaded: _Loaded) -> Checkpointer:
    job = settings.job
    state = models.adapter_state(loaded.model)
    return Checkpointer(
        uri=job.checkpoint_uri,
        fingerprint=settings.fingerprint(plan_digest=loaded.plan.digest, base_digest=str(loaded.base.digest)),
        attempt=job.attempt,
        keep=job.checkpoint_keep,
        names=AdapterNames(
            config=models.adapter_config(loaded.model, loaded.base),
            by_parameter=peft_names(loaded.recipe.parameters, state),
        ),
    )


def _newest(checkpointer: Checkpointer) -> Snapshot | None:
    with storage_failures("checkpoints", FailureClass.STORAGE):
        return checkpointer.newest()


def _train(
    settings: Settings, loaded: _Loaded, around: Surroundings, checkpointer: Checkpointer, resume: Snapshot | None
) -> Trained:
    job = settings.job
    schedule = Schedule(
        peak=job.learning_rate,
        steps=len(loaded.plan.steps),
        decay=job.schedule,
        warmup_ratio=job.warmup_ratio,
    )
    try:
        Phases(settings.phases, loaded.recipe.parameters)
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, str(error)) from error
    hooks = SessionHooks(
        job=job,
        plan=loaded.plan,
        recipe=loaded.recipe,
        live=LiveModel(
            loaded.model,
            loaded.tokenizer,
            around.device,
            lambda done, total: around.progress.progress(stage=PROBING, step=done, of=total),
        ),
        work=Work.of(loaded.model),
        around=around,
        checkpointer=checkpointer,
    )
    with closing(hooks):
        return _carried_out(settings, loaded, around, hooks, schedule, resume)


def _carried_out(
    settings: Settings,
    loaded: _Loaded,
    around: Surroundings,
    hooks: SessionHooks,
    schedule: Schedule,
    resume: Snapshot | None,
) -> Trained:
    job = settings.job
    return train(
        loaded.plan,
        hooks,
        recipe=loaded.recipe,
        config=LoopConfig(
            schedule=schedule,
            checkpoint_every=job.checkpoint_every,
            phases=settings.phases,
            probes=job.probes,
            base_steps=job.max_steps,
        ),
        group=around.group,
        resume=resume,
    )


def _publish(
    settings: Settings, loaded: _Loaded, trained: Trained, checkpointer: Checkpointer, resumed_from: int | None
) -> TrainOutput:
    job = settings.job
    provenance = Provenance(
        base_model=loaded.base,
        dataset=job.dataset,
        data_plan=loaded.plan.digest,
        parent=job.parent,
        method=job.method,
        lora=models.LoraSettings(rank=job.lora_rank, alpha=job.lora_alpha),
        targets=models.trained_names(loaded.model),
        steps=trained.step,
        final_loss=trained.final_loss,
        metrics={
            "tokens": float(sum(step.tokens for step in loaded.plan.steps[: trained.step])),
            "rows_left_out": float(loaded.plan.left_out),
        },
    )
    with storage_failures("adapter", FailureClass.STORAGE):
        adapter = publish_adapter(
            job.adapter_uri,
            state=models.adapter_state(loaded.model),
            config=models.adapter_config(loaded.model, loaded.base),
            base_folder=loaded.base_folder,
            provenance=provenance,
        )
    checkpointer.wait()
    return TrainOutput(
        adapter=adapter,
        base_model=loaded.base,
        rank=job.lora_rank,
        steps=trained.step,
        final_loss=trained.final_loss,
        resumed_from_step=resumed_from,
        stop_reason=trained.stop_reason,
        tokens_per_second=trained.tokens_per_second,
        probes=list(trained.probes),
    )


@contextmanager
def _out_of_memory(job: TrainJob) -> Iterator[None]:
    """Out of memory as a failure that names the fix."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and not _says_memory(error)
        ):
            raise
        message = (
            f"out of memory: lower sequence.maxLength (now {job.max_length}), which bounds a row, set "
            f"sequence.activationCheckpointing to on (now {job.activation_checkpointing}), lower lora.rank (now "
            f"{job.lora_rank}), or choose a profile with more memory; optimizer.tokensPerStep does not matter"
        )
        raise WorkerError(FailureClass.OUT_OF_MEMORY, message) from error


def _says_memory(error: RuntimeError) -> bool:
    text = str(error)
    return "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
