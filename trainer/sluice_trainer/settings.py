"""From a job to the settings of each part, checked before anything is fetched."""

import math
from dataclasses import dataclass
from typing import Any

from sluice_api.contracts.jobs import FailureClass, ProbePlan, TrainJob, TrainPhase
from sluice_artifacts import canonical_json, digest_bytes
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.phases import Phase, check_phases
from sluice_trainer.plan import PlanConfig

_IDENTITY = (
    "method",
    "dpo_beta",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "phases",
    "probes",
    "max_steps",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A job, checked."""

    job: TrainJob
    """The job."""
    plan: PlanConfig
    """Shape of the plan."""
    phases: tuple[Phase, ...] = ()
    """What is trained when."""

    def fingerprint(self, *, plan_digest: str, base_digest: str) -> str:
        """Digest of everything that decides the result: a checkpoint with another one is of another run."""
        document: dict[str, Any] = self.job.model_dump(mode="json", include=set(_IDENTITY))
        document |= {
            "plan": plan_digest,
            "base": base_digest,
            "parent": self.job.parent.digest if self.job.parent else "",
        }
        return digest_bytes(canonical_json(document))


def check_job(job: TrainJob) -> Settings:
    """The settings of a job.

    Raises:
        WorkerError: `UserError`, naming the field, for a value that cannot be.
    """
    try:
        plan = PlanConfig(
            seed=job.seed,
            max_length=job.max_length,
            tokens_per_step=job.tokens_per_step,
            epochs=job.epochs,
            max_steps=_most_steps(job),
            packing=job.packing,
        )
        phases = tuple(_phase(phase) for phase in job.phases)
        check_phases(phases)
        _check(job)
        _check_workers(job)
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, str(error)) from error
    return Settings(job=job, plan=plan, phases=phases)


def _most_steps(job: TrainJob) -> int | None:
    """Steps of the plan: those of an extended run, where there may be one."""
    if job.probes is None or job.probes.extend_to is None:
        return job.max_steps
    if job.max_steps is None or job.max_steps >= job.probes.extend_to:
        raise ValueError(f"probes.extend_to is {job.probes.extend_to}: it needs a smaller max_steps ({job.max_steps})")
    return job.probes.extend_to


def _phase(phase: TrainPhase) -> Phase:
    return Phase(
        until=phase.until,
        train=tuple(phase.train),
        freeze=tuple(phase.freeze),
        learning_rate=phase.learning_rate,
        learning_rates=phase.learning_rates,
    )


def _check_probes(probes: ProbePlan, max_steps: int | None) -> None:
    if probes.every < 1:
        raise ValueError(f"probes.every is {probes.every}: it must be at least 1")
    if probes.patience_steps < 1:
        raise ValueError(f"probes.patience_steps is {probes.patience_steps}: it must be at least 1")
    if bool(probes.gates) != (probes.extend_to is not None):
        raise ValueError("probes.gates and probes.extend_to need each other: gates decide whether the run is extended")
    if not 0 <= probes.infra_error_fraction <= 1:
        raise ValueError(f"probes.infra_error_fraction is {probes.infra_error_fraction}: it must lie between 0 and 1")
    for number, gate in enumerate(probes.gates):
        for name, rate in (("pass_rate", gate.pass_rate), ("syntax_rate", gate.syntax_rate)):
            if rate is not None and not 0 <= rate <= 1:
                raise ValueError(f"probes.gates[{number}].{name} is {rate}: it must lie between 0 and 1")
        if max_steps is not None and not 1 <= gate.at_step <= max_steps:
            raise ValueError(f"probes.gates[{number}].at_step is {gate.at_step}: it must lie within 1 and {max_steps}")


def _check(job: TrainJob) -> None:
    if job.probes is not None:
        _check_probes(job.probes, job.max_steps)
    if job.lora_rank < 1:
        raise ValueError(f"lora_rank is {job.lora_rank}: it must be at least 1")
    if job.lora_alpha < 1:
        raise ValueError(f"lora_alpha is {job.lora_alpha}: it must be at least 1")
    if not 0 <= job.lora_dropout < 1:
        raise ValueError(f"lora_dropout is {job.lora_dropout}: it must be at least 0 and below 1")
    if not job.target_modules:
        raise ValueError("target_modules is empty: name modules, or use all-linear")
    if not 0 < job.dpo_beta < math.inf:
        raise ValueError(f"dpo_beta is {job.dpo_beta}: it must be greater than 0, and finite")
    if not 0 < job.learning_rate < math.inf:
        raise ValueError(f"learning_rate is {job.learning_rate}: it must be greater than 0, and finite")
    if not -(2**63) <= job.seed < 2**64:
        raise ValueError(f"seed is {job.seed}: it must lie between -2^63 and 2^64 - 1")
    if not 0 <= job.warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio is {job.warmup_ratio}: it must lie between 0 and 1")
    if job.checkpoint_every < 1:
        raise ValueError(f"checkpoint_every is {job.checkpoint_every}: it must be at least 1")
    if job.checkpoint_keep < 1:
        raise ValueError(f"checkpoint_keep is {job.checkpoint_keep}: it must be at least 1")


def _check_workers(job: TrainJob) -> None:
    if job.workers < 1:
        raise ValueError(f"workers is {job.workers}: it must be at least 1")
    if job.min_workers is not None and not 1 <= job.min_workers <= job.workers:
        raise ValueError(f"min_workers is {job.min_workers}: it must lie between 1 and workers ({job.workers})")
    if job.strategy == "fsdp" and job.workers < 2:
        raise ValueError(f"strategy fsdp shares the base out over workers, there is {job.workers}: set workers or ddp")
    if job.strategy == "fsdp" and job.min_workers is not None and job.min_workers < 2:
        raise ValueError(f"min_workers is {job.min_workers}: strategy fsdp shares the base out over at least 2; set it")
    if job.strategy == "fsdp" and job.probes is not None:
        raise ValueError("strategy fsdp cannot have probes: one worker answers them, which needs all weights; set ddp")


def out_of_memory_advice(job: TrainJob) -> str:
    """What to say of a job that ran out of memory, by the fields of its manifest."""
    return (
        f"out of memory: lower sequence.maxLength (now {job.max_length}), which bounds a row, set "
        f"sequence.activationCheckpointing to 'on', in quotes (now {job.activation_checkpointing}), lower lora.rank "
        f"(now {job.lora_rank}), share the base out over several workers (strategy fsdp), or choose a profile with "
        "more memory; optimizer.tokensPerStep does not matter"
    )
