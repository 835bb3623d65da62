"""FineTuneRun: a dataset version to a LoRA adapter, on Ray."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from sluice_api.v1alpha1.common import (
    AGE,
    MESSAGE,
    REASON,
    ApiModel,
    BaseStatus,
    CrdNames,
    DigestString,
    Duration,
    LocalRef,
    ObjectName,
    PrinterColumn,
    RunProgress,
    ShortText,
    SluiceObject,
    StatusModel,
    StorageUri,
    Uri,
    immutable_once,
    rule,
    validations,
    wire_fields,
)


class DatasetRef(ApiModel):
    """The data: the newest version of a TraceDataset at start, or one exact version."""

    name: ObjectName
    """TraceDataset in the same namespace."""
    digest: DigestString | None = None
    """Exact version; without it the newest at start is taken and pinned."""


class BaseModelSource(ApiModel):
    """Base weights. Only safetensors are loaded, never pickles or remote code."""

    uri: Uri
    """`hf://owner/name`, `s3://bucket/prefix` or `file:///path`."""
    revision: ShortText = ""
    """Revision on the hub; pin one for repeatable runs."""
    digest: DigestString | None = None
    """Digest to verify; without it the digest found at start is pinned."""


class Lora(ApiModel):
    """Low-rank adaptation (Hu et al., 2021)."""

    rank: int = Field(default=32, ge=1, le=512)
    """Rank of the update."""
    alpha: int = Field(default=64, ge=1, le=2048)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, le=0.9)
    """Dropout on the adapter's input."""
    target_modules: Annotated[str, StringConstraints(max_length=512)] = "all-linear"
    """`all-linear`, or module names separated by commas, e.g. `q_proj,v_proj`."""


class Optimizer(ApiModel):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=1.0e-4, gt=0.0, le=1.0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up."""
    warmup_ratio: float = Field(default=0.03, ge=0.0, le=0.5)
    """Share of the steps that warm up linearly."""
    tokens_per_step: int = Field(default=65536, ge=64)
    """Real tokens per optimizer step, all workers together."""
    epochs: float = Field(default=1.0, gt=0.0, le=100.0)
    """Passes over the data; ignored where `maxSteps` is given."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""


class Sequence(ApiModel):
    """How rows become sequences."""

    max_length: int = Field(default=4096, ge=16, le=1048576)
    """Longest row in tokens; longer ones are dropped and counted."""
    packing: bool = True
    """Pack several rows into one sequence, each attending to itself only."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass: less memory, slower. `auto` does it where they would not fit.
    YAML reads a bare `on` or `off` as a boolean: write `"on"`."""


GroupName = Annotated[
    str, StringConstraints(pattern=r"^(attention|router|norm|experts|mlp|other|layers:[0-9]+-[0-9]+)$", max_length=32)
]
"""Named parameters: a role in the model, or a range of layers such as `layers:8-15`, both ends included."""


class GroupRate(ApiModel):
    """Learning rate of one group."""

    group: GroupName
    """The group."""
    learning_rate: float = Field(gt=0.0, le=1.0)
    """Its peak learning rate."""


class TrainingPhase(ApiModel):
    """What is trained during some of the steps."""

    until: int | None = Field(default=None, ge=1)
    """First step that no longer belongs to it; the last phase holds to the end in any case."""
    train: list[GroupName] = Field(default_factory=list, max_length=16)
    """Groups that are trained; empty means all."""
    freeze: list[GroupName] = Field(default_factory=list, max_length=16)
    """Groups that are not; it wins over `train`."""
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    """Peak learning rate; without it the optimizer's."""
    learning_rates: list[GroupRate] = Field(default_factory=list, max_length=16)
    """Peak learning rate by group where one differs; of several that fit, the last counts."""


class ProbeGateSpec(ApiModel):
    """What a probe must show before the run is extended."""

    at_step: int = Field(ge=1)
    """Step of the probe; one is run there in any case."""
    pass_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """Least pass rate."""
    syntax_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    """Least share of answers that are well-formed."""


class ProbesSpec(ApiModel):
    """Evaluations on the live weights while training."""

    every: int = Field(default=250, ge=1)
    """Steps between probes; the first, before step 1, is the baseline."""
    suite: Annotated[str, StringConstraints(pattern=r"^([a-z0-9-]+|(builtin:|s3://|file://).+)$", max_length=1024)]
    """Built-in suite by name, e.g. `smoke-8`, or the URI of one."""
    stop_rules: list[Literal["syntaxDropsTwice", "passRateStalls"]] = Field(default_factory=list, max_length=2)
    """Rules that end the run early; the reason is in `status.stopReason`."""
    patience_steps: int = Field(default=750, ge=1)
    """Steps without a new best pass rate that `passRateStalls` waits for."""
    gates: list[ProbeGateSpec] = Field(default_factory=list, max_length=16)
    """What the extension asks for."""
    extend_to: int | None = Field(default=None, ge=1)
    """Steps in all once every gate is met; without it, or with a gate missed, `optimizer.maxSteps`."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "!has(self.gates) || size(self.gates) == 0 || has(self.extendTo)", "probes.gates needs probes.extendTo"
            ),
            rule(
                "!has(self.extendTo) || (has(self.gates) && size(self.gates) > 0)", "probes.extendTo needs probes.gates"
            ),
        )
    }


class Dpo(ApiModel):
    """Direct preference optimisation (Rafailov et al., 2023)."""

    beta: float = Field(default=0.1, gt=0.0, le=100.0)
    """Pull towards the reference: the larger, the closer the model keeps to it. The default is the authors'."""


class Checkpoint(ApiModel):
    """Full checkpoints: adapter, optimizer, schedule, random states, data position."""

    every: int = Field(default=250, ge=1)
    """Optimizer steps between checkpoints."""
    keep: int = Field(default=3, ge=1, le=100)
    """Newest checkpoints kept."""


class Deadlines(ApiModel):
    """How long each part of the run may take."""

    queued: Duration = "6h"
    """From submission until it starts."""
    running: Duration = "24h"
    """From the start until it ends."""
    hang: Duration = "15m"
    """Without any progress while running."""


class Retry(ApiModel):
    """Attempts by failure class: preemptions do not count, data and user errors wait for a corrected spec."""

    max_attempts: int = Field(default=3, ge=1, le=20)
    """Attempts that count."""


class FineTuneRunSpec(ApiModel):
    """What to train."""

    dataset_ref: DatasetRef
    """The data."""
    base_model: BaseModelSource
    """The base weights."""
    parent_ref: LocalRef | None = None
    """FineTuneRun whose adapter training continues from."""
    method: Literal["sft", "dpo"] = "sft"
    """Supervised fine-tuning, or direct preference optimisation."""
    dpo: Dpo | None = None
    """Settings of method `dpo`; without them its defaults."""
    lora: Lora = Lora()
    """The adapter."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and schedule."""
    sequence: Sequence = Sequence()
    """How rows become sequences."""
    phases: list[TrainingPhase] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra=validations(
            rule(
                "self.filter(p, !has(p.until)).size() == 0 || "
                "(self.filter(p, !has(p.until)).size() == 1 && !has(self[self.size() - 1].until))",
                "spec.phases: only the last phase may have no until",
            ),
            rule(
                "self.filter(p, has(p.until)).all(a, self.exists_one(b, has(b.until) && b.until == a.until)) && "
                "self.filter(p, has(p.until)).map(p, p.until).isSorted()",
                "spec.phases: until must increase strictly",
            ),
        ),
    )
    """What is trained when, by step; empty trains the whole adapter throughout."""
    probes: ProbesSpec | None = None
    """Evaluations while training, and the rules that read them."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is saved."""
    workers: int = Field(default=1, ge=1, le=1024)
    """Ray Train workers, at most; one accelerator each where the profile has them."""
    min_workers: int | None = Field(default=None, ge=1, le=1024)
    """Makes the run elastic: it starts and goes on with any number of workers from this to `workers`, as there is room.
    The tokens of a step stay `optimizer.tokensPerStep`, and their order the same."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Whether every worker holds the whole base (`ddp`) or a part of every layer (`fsdp`). `auto` is `ddp` unless the
    memory plan says that it would not fit."""
    output: StorageUri
    """Adapters are published below it as `<sha256>/`; checkpoints and attempts lie beside them."""
    profile: ObjectName = "cpu"
    """Compute profile, from the operator's ConfigMap."""
    deadlines: Deadlines = Deadlines()
    """Time limits."""
    retry: Retry = Retry()
    """When it is tried again."""
    seed: int = Field(default=0, ge=0)
    """Seed of data order and initialisation."""
    suspend: bool = False
    """Stop the job and keep its checkpoints while true."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "!has(self.baseModel.revision) || self.baseModel.revision == '' || self.baseModel.uri.startsWith('hf://')",
                "spec.baseModel.revision is only for hf:// models",
            ),
            rule(
                "!has(self.dpo) || (has(self.method) && self.method == 'dpo')",
                "spec.dpo is only for spec.method dpo",
            ),
            rule(
                "!has(self.minWorkers) || (has(self.workers) ? self.minWorkers <= self.workers : self.minWorkers == 1)",
                "spec.minWorkers must not exceed spec.workers",
            ),
            rule(
                "!has(self.strategy) || self.strategy != 'fsdp' || !has(self.probes)",
                "spec.strategy fsdp cannot have spec.probes: one worker answers a probe, which needs all weights",
            ),
            rule(
                "!has(self.strategy) || self.strategy != 'fsdp' || (has(self.workers) && self.workers > 1)",
                "spec.strategy fsdp needs spec.workers of at least 2",
            ),
            rule(
                "!has(self.probes) || !has(self.probes.extendTo) || (has(self.optimizer) && "
                "has(self.optimizer.maxSteps) && self.optimizer.maxSteps < self.probes.extendTo)",
                "spec.probes.extendTo needs a smaller spec.optimizer.maxSteps",
            ),
            rule(
                "!has(self.probes) || !has(self.probes.gates) || (has(self.optimizer) && "
                "has(self.optimizer.maxSteps) && self.probes.gates.all(g, g.atStep <= self.optimizer.maxSteps))",
                "spec.probes.gates[].atStep must not exceed spec.optimizer.maxSteps",
            ),
        )
    }


class PinnedInputs(StatusModel):
    """Digests of the inputs: pinned at start, the same for every attempt."""

    dataset: DigestString | None = None
    """Dataset version."""
    dataset_uri: Annotated[str, StringConstraints(max_length=1100)] | None = None
    """Its prefix."""
    base_model: DigestString | None = None
    """Base weights."""
    parent: DigestString | None = None
    """Parent adapter."""
    parent_uri: Annotated[str, StringConstraints(max_length=1100)] | None = None
    """Its prefix."""


class AdapterStatus(StatusModel):
    """The result."""

    uri: Annotated[str, StringConstraints(max_length=1100)]
    """Prefix of the adapter."""
    digest: DigestString
    """Digest of its manifest."""
    rank: int
    """LoRA rank."""
    final_loss: float
    """Mean loss per scored token over the last steps, in nats."""
    steps: int = 0
    """Optimizer steps taken."""


class ProbeStatus(StatusModel):
    """What a probe showed."""

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


class FineTuneRunStatus(BaseStatus):
    """What happened."""

    inputs: PinnedInputs = PinnedInputs()
    """Pinned inputs."""
    progress: RunProgress | None = None
    """Where the present attempt stands."""
    adapter: AdapterStatus | None = None
    """The adapter, once published."""
    resumed_from_step: int | None = None
    """Step that the newest attempt resumed from."""
    stop_reason: ShortText = ""
    """Why training ended: `Completed`, `SyntaxDropsTwice`, `PassRateStalls` or `GatesNotMet`."""
    last_probe: ProbeStatus | None = None
    """What the last probe showed, once the run has ended."""
    strategy: ShortText = ""
    """Who held the base's weights, `ddp` or `fsdp`, once the run has ended."""
    trained_by: int | None = None
    """Workers of the last attempt when it ended."""


class FineTuneRun(SluiceObject):
    """Trains a LoRA adapter on a dataset version with Ray, resumes after interruptions, publishes it by digest."""

    crd: ClassVar[CrdNames] = CrdNames(
        kind="FineTuneRun",
        plural="finetuneruns",
        short=("ftr",),
        columns=(
            PrinterColumn(name="Phase", path=".status.phase"),
            REASON,
            PrinterColumn(name="Step", path=".status.progress.step", type="integer"),
            PrinterColumn(name="Of", path=".status.progress.of", type="integer"),
            PrinterColumn(name="Loss", path=".status.adapter.finalLoss", type="number"),
            PrinterColumn(name="Attempt", path=".status.attemptsTotal", type="integer"),
            PrinterColumn(name="Adapter", path=".status.adapter.digest", wide=True),
            MESSAGE,
            AGE,
        ),
        root_rules=immutable_once(
            "has(oldSelf.status) && has(oldSelf.status.inputs) && has(oldSelf.status.inputs.baseModel)",
            wire_fields(FineTuneRunSpec, but=("suspend",)),
        ),
    )
    spec: FineTuneRunSpec
    """What to train."""
    status: FineTuneRunStatus = FineTuneRunStatus()
    """What happened."""
