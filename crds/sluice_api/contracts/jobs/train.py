"""The job that turns a dataset into an adapter, and what it came to."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from sluice_api.contracts.base import ArtifactRef, Contract, ModelRef
from sluice_api.contracts.jobs.base import JobBase


class TrainPhase(Contract):
    """What is trained during some of the steps. Groups: `attention`, `router`, `norm`, `experts`, `mlp`, `other`, and
    `layers:8-15` for a range of layers, both ends included."""

    until: int | None = None
    """First step that no longer belongs to the phase; None, and the last phase in any case, holds to the end."""
    train: list[str] = Field(default_factory=list)
    """Groups that are trained; empty means all."""
    freeze: list[str] = Field(default_factory=list)
    """Groups that are not; it wins over `train`."""
    learning_rate: float | None = None
    """Peak learning rate of the phase; None takes the run's."""
    learning_rates: dict[str, float] = Field(default_factory=dict)
    """Peak learning rate by group, where one differs; of several that a parameter is in, the last named counts."""


class StopRule(StrEnum):
    """When probes end a run early."""

    SYNTAX_DROPS_TWICE = "syntaxDropsTwice"
    """The syntax rate fell at two probes in a row."""
    PASS_RATE_STALLS = "passRateStalls"
    """The pass rate has not exceeded its best for `patience_steps`; the baseline probe counts as step 0."""


class StopReason(StrEnum):
    """Why training ended."""

    COMPLETED = "Completed"
    """All steps are done."""
    SYNTAX_DROPS_TWICE = "SyntaxDropsTwice"
    """The stop rule `syntaxDropsTwice`."""
    PASS_RATE_STALLS = "PassRateStalls"
    """The stop rule `passRateStalls`."""
    GATES_NOT_MET = "GatesNotMet"
    """The run was not extended: a gate was missed, or its probe could not be judged."""


class ProbeGate(Contract):
    """What a probe must show before the run is extended. Unknown is not met."""

    at_step: int
    """Step of the probe; one is run there in any case."""
    pass_rate: float | None = None
    """Least pass rate."""
    syntax_rate: float | None = None
    """Least share of answers that are well-formed."""


class ProbePlan(Contract):
    """A suite that is run on the live weights while training, and what follows from it."""

    every: int = 250
    """Steps between probes; the first is before step 1."""
    suite_uri: str
    """`builtin:NAME`, or the URI of a suite."""
    stop_rules: list[StopRule] = Field(default_factory=list)
    """Rules that end the run."""
    patience_steps: int = 750
    """Steps without a new best that `passRateStalls` waits for."""
    gates: list[ProbeGate] = Field(default_factory=list)
    """What the extension asks for."""
    extend_to: int | None = None
    """Steps in all once every gate is met; the run's `max_steps` otherwise."""
    infra_error_fraction: float = 0.02
    """A probe of which more tasks than this share could not be judged says nothing."""


class ProbeResult(Contract):
    """What one probe showed. A rate is None where the probe could not be judged."""

    step: int
    """Steps done."""
    tasks: int
    """Tasks of the suite."""
    judged: int
    """Tasks that could be judged."""
    passed: int
    """Tasks passed."""
    pass_rate: float | None = None
    """`passed / judged`."""
    syntax_rate: float | None = None
    """Share of judged tasks whose answer is well-formed."""
    report: ArtifactRef | None = None
    """The whole report."""


class TrainJob(JobBase):
    """FineTuneRun: a dataset to an adapter."""

    worker: Literal["train"] = "train"
    """Discriminator."""
    dataset: ArtifactRef
    """Data, by digest."""
    base_model: ModelRef
    """Base weights; the digest is verified where given, computed and reported where not."""
    parent: ArtifactRef | None = None
    """Adapter to continue from."""
    method: Literal["sft", "dpo"] = "sft"
    """Training method."""
    dpo_beta: float = 0.1
    """Strength of the pull towards the reference; only for `dpo`."""
    lora_rank: int = 32
    """LoRA rank."""
    lora_alpha: int = 64
    """LoRA alpha."""
    lora_dropout: float = 0.0
    """LoRA dropout."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up."""
    warmup_ratio: float = 0.03
    """Share of the steps that warm up linearly."""
    tokens_per_step: int = 65536
    """Real tokens per optimizer step over all workers, at most."""
    epochs: float = 1.0
    """Passes over the data; ignored where `max_steps` is given."""
    max_steps: int | None = None
    """Optimizer steps; None derives them from `epochs`."""
    max_length: int = 4096
    """Longest row in tokens."""
    packing: bool = True
    """Pack several rows into one sequence."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether activations are computed again in the backward pass; `auto` only where they would not fit."""
    memory_bytes: int | None = None
    """Memory of a worker's accelerator, or of the worker without one; None refuses nothing."""
    phases: list[TrainPhase] = Field(default_factory=list)
    """What is trained when; empty trains the whole adapter throughout."""
    probes: ProbePlan | None = None
    """Evaluations on the live weights, and the stop rules that read them."""
    checkpoint_every: int = 250
    """Steps between full checkpoints."""
    checkpoint_keep: int = 3
    """Full checkpoints kept."""
    checkpoint_uri: str
    """Run-scoped prefix of the full checkpoints: every attempt resumes from the newest verified one."""
    adapter_uri: str
    """Prefix below which the adapter is published as `<sha256>/`."""
    workers: int = 1
    """Ray Train workers, at most."""
    min_workers: int | None = None
    """Workers with which the run starts and goes on where there is no room for all; None: it needs all of them. The
    tokens of a step are the same for any number."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Whether every worker holds the base (`ddp`) or a part of every layer (`fsdp`); `auto` shares out what would not
    fit otherwise."""
    use_gpu: bool = False
    """Whether the profile gives every worker an accelerator."""
    platform: Literal["", "cpu", "cuda", "rocm"] = ""
    """What the profile's nodes compute with; a worker that finds something else ends. Empty: not checked."""
    device: str = ""
    """What the accelerator's own name must hold, e.g. `A100`, in any case; empty: not checked."""
    seed: int = 0
    """Seed of data order and initialisation."""


class TrainOutput(Contract):
    """Result of a TrainJob."""

    worker: Literal["train"] = "train"
    """Discriminator."""
    adapter: ArtifactRef
    """The published adapter."""
    base_model: ModelRef
    """Base weights, with their digest."""
    rank: int
    """LoRA rank."""
    steps: int
    """Optimizer steps taken."""
    final_loss: float
    """Mean loss per scored token over the last steps, in nats."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that the last attempt resumed from."""
    stop_reason: StopReason = StopReason.COMPLETED
    """Why training ended."""
    tokens_per_second: float = 0.0
    """Real tokens per second, all workers together."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Who held the base's weights in the last attempt."""
    workers: int = 1
    """Workers of the last attempt when it ended."""
    probes: list[ProbeResult] = Field(default_factory=list)
    """What the probes showed, in order."""
