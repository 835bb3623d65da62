"""One worker process from job to adapter: fetch, load, resume, train, publish. Knows nothing of Ray."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass, TrainJob, TrainOutput
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import fetch, fetch_model_and_digest, to_hex
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import model as models
from sluice_trainer.activity import at_work
from sluice_trainer.checkpoint import AdapterNames, Checkpointer, peft_names
from sluice_trainer.documents import read_documents, read_pairs
from sluice_trainer.dpo import DpoRecipe, Pair, pair_sizes, reference_log_probabilities
from sluice_trainer.endings import out_of_memory, room, stopped
from sluice_trainer.fitting import fit_memory
from sluice_trainer.flops import Work
from sluice_trainer.fused import fuse
from sluice_trainer.group import Group, shares
from sluice_trainer.hardware import TorchDevice, check_device
from sluice_trainer.hooks import PROBING, SessionHooks
from sluice_trainer.live import LiveModel
from sluice_trainer.loop import LoopConfig, Trained, train
from sluice_trainer.memory import Strategy
from sluice_trainer.phases import Phases, trained_roles
from sluice_trainer.plan import Plan, build_plan
from sluice_trainer.probes import SuiteLeft
from sluice_trainer.publish import Provenance, publish_adapter
from sluice_trainer.recipes import Recipe, SftRecipe, sft_sizes
from sluice_trainer.reference import ReferenceStore, reference_key, reference_of
from sluice_trainer.rows import fetch_rows, storage_failures
from sluice_trainer.schedule import Schedule
from sluice_trainer.screens import Screens
from sluice_trainer.settings import Settings, check_job
from sluice_trainer.snapshot import Snapshot
from sluice_trainer.stages import LOADING, REFERENCE
from sluice_trainer.surroundings import Surroundings
from sluice_trainer.tokenise import Document, Picture
from sluice_trainer.vision import Eyes, Sight

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What there is to learn, and the files of the base that learns it."""

    base: ModelRef
    folder: Path
    tokenizer: Any
    eyes: Eyes | None
    rows: Sequence[Document] | Sequence[Pair]
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """Everything that training needs, fetched and checked."""

    base: ModelRef
    base_folder: Path
    tokenizer: Any
    model: Any
    recipe: Recipe
    plan: Plan
    strategy: Strategy


def run_session(job: TrainJob, around: Surroundings) -> TrainOutput | None:
    """Do a job; return its output on the first worker and None on the others.

    Asked to stop once there is something to save, only the first worker raises, when its checkpoint is written; before,
    whoever sees it does.

    Raises:
        WorkerError: with the failure's class and what to do about it.
    """
    settings = check_job(job)
    check_device(job, TorchDevice(around.device))
    around.progress.progress(stage=LOADING, inputs={"dataset": job.dataset.digest})
    with out_of_memory(job):
        loaded = _load(settings, around)
        checkpointer = _checkpointer(settings, loaded)
        resume = _newest(checkpointer) if around.group.rank == 0 else None
        resumed_from = resume.step if resume else None
        around.progress.progress(
            stage="training", step=resumed_from or 0, of=len(loaded.plan.steps), resumed_from_step=resumed_from
        )
    with around.saving():
        with out_of_memory(job):
            try:
                trained = _train(settings, loaded, around, checkpointer, resume)
            except BaseException:
                # What is being written is what the next attempt goes on from.
                with suppress(Exception):
                    checkpointer.wait()
                raise
        # The others end quietly, stopped or done: an error of theirs would have the group torn down while this saves.
        if around.group.rank != 0:
            return None
        if not trained.finished:
            checkpointer.wait(must_succeed=True)
            raise stopped(trained.step, len(loaded.plan.steps), resumed_from)
        around.progress.progress(stage="publishing", step=trained.step, of=trained.step)
        output = _publish(settings, loaded, trained, checkpointer, resumed_from)
        return output.model_copy(update={"strategy": loaded.strategy.value, "workers": around.group.size})


def _read(settings: Settings, around: Surroundings) -> _Read:
    """Rows and base fetched, the rows tokenised and planned."""
    job = settings.job

    def told(done: int, of: int) -> None:
        around.progress.progress(stage=LOADING, step=done, of=of)
        around.end_if_asked()

    files = fetch_rows(job, around.cache)
    around.end_if_asked()
    with storage_failures("base model", FailureClass.USER_ERROR):
        folder, digest = fetch_model_and_digest(job.base_model, around.cache / "models")
    base = job.base_model.model_copy(update={"digest": digest})
    around.progress.progress(inputs={"baseModel": str(base.digest)})
    around.end_if_asked()
    tokenizer = models.load_tokenizer(folder, base.uri)
    documents: Sequence[Document] = []
    pairs: Sequence[Pair] = []
    with storage_failures("screenshots", FailureClass.DATA):
        eyes = Eyes.of(folder, base.uri, tokenizer, Screens(job.dataset.uri, around.cache / "screens"))
        if job.method == "sft":
            documents = read_documents(
                files, tokenizer, eyes, dataset=job.dataset.digest, cache=around.cache, told=told
            )
        else:
            pairs = read_pairs(files, tokenizer, eyes, told=told)
    around.end_if_asked()
    try:
        plan = build_plan(sft_sizes(documents) or pair_sizes(pairs), settings.plan, told)
    except ValueError as error:
        raise WorkerError(FailureClass.DATA, str(error)) from error
    rows = documents or pairs
    if plan.left_out:
        _log.warning("%d of %d rows are longer than a row may be, and left out", plan.left_out, len(rows))
    return _Read(base=base, folder=folder, tokenizer=tokenizer, eyes=eyes, rows=rows, plan=plan)


def _load(settings: Settings, around: Surroundings) -> _Loaded:
    job, told = settings.job, around.progress.progress
    with at_work(around.cache, told):
        found = _read(settings, around)
        around.end_if_asked()
        model = _adapted(settings, found.base, found.folder, around)
    around.end_if_asked()
    strategy = fit_memory(job, model, found.plan, around)
    parameters = models.trained_parameters(model)
    sight = Sight(causal=model.get_base_model(), eyes=found.eyes) if found.eyes is not None else None
    if sight is not None:
        sight.follow(_pictures(found.plan, found.rows, around.group))
    recipe: Recipe
    if job.method == "sft":
        recipe = SftRecipe(model, cast(Sequence[Document], found.rows), parameters, around.device, sight=sight)
    else:
        recipe = _dpo(settings, found.base, model, cast(Sequence[Pair], found.rows), around, sight)
    around.end_if_asked()
    return _Loaded(
        base=found.base,
        base_folder=found.folder,
        tokenizer=found.tokenizer,
        model=model,
        recipe=recipe,
        plan=found.plan,
        strategy=strategy,
    )


def _pictures(plan: Plan, shown: Sequence[Document] | Sequence[Pair], group: Group) -> Iterator[list[Picture]]:
    """Pictures of each row that this worker will take, in order."""
    for step in plan.steps:
        for number, _ in shares(len(step.rows), group):
            yield [picture for each in step.rows[number] for picture in shown[each].pictures]


def _dpo(
    settings: Settings, base: ModelRef, model: Any, pairs: Sequence[Pair], around: Surroundings, sight: Sight | None
) -> DpoRecipe:
    """Preference training against the model as it is now: before a checkpoint is put back."""
    job = settings.job
    around.progress.progress(stage=REFERENCE)
    limit = min(settings.plan.max_length, settings.plan.tokens_per_step)
    key = reference_key(
        pairs,
        base=str(base.digest),
        parent=job.parent.digest if job.parent else "",
        row_tokens=limit,
        device=around.device.type,
    )

    def told(done: int, of: int) -> None:
        around.progress.progress(stage=REFERENCE, step=done, of=of)
        around.end_if_asked()

    compute = partial(
        reference_log_probabilities,
        model,
        pairs,
        row_tokens=limit,
        device=around.device,
        group=around.group,
        sight=sight,
        told=told,
    )
    with storage_failures("checkpoints", FailureClass.STORAGE):
        kept = ReferenceStore(job.checkpoint_uri, key, len(pairs))
    reference = reference_of(kept, len(pairs), around.group, around.device, compute)
    return DpoRecipe(
        model,
        pairs,
        models.trained_parameters(model),
        reference=reference,
        beta=job.dpo_beta,
        device=around.device,
        sight=sight,
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
    # A base that may have to be shared out must not need to fit on one worker's device first.
    weights = models.load_base(folder, base.uri, around.device, hold=around.group.size > 1)
    if job.parent is None:
        return models.hold_masters(fuse(models.add_adapter(weights, lora, job.seed)))
    place = around.cache / "adapters" / to_hex(job.parent.digest)
    with storage_failures("parent adapter", FailureClass.USER_ERROR):
        manifest = fetch(job.parent, place, AdapterManifest)
    if manifest.base_model.digest != base.digest:
        message = (
            f"parent adapter {job.parent.digest}: its base model is {manifest.base_model.digest}, this run's is "
            f"{base.digest}: continue on the same base, or without parentRef"
        )
        raise WorkerError(FailureClass.USER_ERROR, message)
    return models.read_again(models.hold_masters(fuse(models.continue_adapter(weights, place, lora))), place)


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
    with storage_failures("checkpoints", FailureClass.STORAGE), room("checkpoints"):
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

    def answered(done: int, of: int) -> None:
        around.progress.progress(stage=PROBING, step=done, of=of)
        if around.stop_requested():
            raise SuiteLeft

    hooks = SessionHooks(
        job=job,
        plan=loaded.plan,
        recipe=loaded.recipe,
        live=LiveModel(loaded.model, loaded.tokenizer, around.device, answered),
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
    with storage_failures("adapter", FailureClass.STORAGE), room("the adapter"):
        adapter = publish_adapter(
            job.adapter_uri,
            state=models.adapter_state(loaded.model),
            config=models.adapter_config(loaded.model, loaded.base),
            base_folder=loaded.base_folder,
            provenance=provenance,
        )
    try:
        checkpointer.wait()
    except WorkerError as error:
        _log.warning("the run is done, and its adapter published: %s", error)
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
