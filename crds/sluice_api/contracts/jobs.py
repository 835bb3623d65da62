"""What the operator gives a worker, and the two files it reads back.

A worker gets one `JobInput` (JSON, inline in the submission; references and digests, never payloads), writes
`progress.json` while it works and `result.json` last, both under the attempt's own `output_uri`. A worker that died
leaves no result; a slow zombie writes to its own attempt's prefix, where nobody looks any more.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sluice_api.contracts.base import ArtifactRef, Contract, Digest, ModelRef, RunRef
from sluice_api.contracts.scorecard import GateResult, ScorecardVerdict, Tier
from sluice_api.contracts.shadow import ShadowSummary

JOB_INPUT_VARIABLE = "SLUICE_JOB_INPUT"
"""Environment variable that carries the job input."""
PROGRESS_FILE = "progress.json"
"""Below `output_uri`; rewritten atomically while the worker works."""
RESULT_FILE = "result.json"
"""Below `output_uri`; written once, last."""


class FailureClass(StrEnum):
    """Why an attempt failed; each class has its own retry rule."""

    PREEMPTED = "Preempted"
    """The node was taken away, or the job was asked to stop: retried without counting."""
    NODE_LOST = "NodeLost"
    """A worker or the head vanished: retried."""
    HANG = "Hang"
    """No progress within the limit: stopped and retried."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Out of memory: not retried, the message names the fix."""
    DATA = "Data"
    """The input data is missing, empty or wrong: not retried until the spec changes."""
    USER_ERROR = "UserError"
    """The spec asks for what cannot be: not retried until the spec changes."""
    STORAGE = "Storage"
    """Artifact storage refused or failed: retried with back-off."""
    INFRASTRUCTURE = "Infrastructure"
    """The compute backend is unreachable or broken: retried with back-off."""
    UNKNOWN = "Unknown"
    """None of the others: retried."""


class Failure(Contract):
    """A failed attempt."""

    failure_class: FailureClass
    """Class, decides the retry."""
    message: str
    """What happened and what to do about it; never trace text."""


class JobBase(Contract):
    """What every job input has."""

    schema_version: int = 1
    """Version of this document."""
    run: RunRef
    """Owner of the job."""
    attempt: int
    """Attempt number, from 1."""
    output_uri: str
    """Attempt-scoped prefix for progress, result and by-products; ends in `/`."""


class PrivacyRule(Contract):
    """What is looked for in every text before a row leaves the worker, and what happens to it."""

    detectors: list[str] = Field(
        default_factory=lambda: ["privateKey", "secret", "email", "iban", "card", "phone", "ip", "highEntropy"]
    )
    """Detectors by name; an empty list looks for nothing."""
    on_finding: Literal["redact", "quarantine"] = "redact"
    """Put a placeholder in its place, or keep the step back."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """Further regular expressions by name."""


class LabelJob(JobBase):
    """TraceDataset: traces to training rows."""

    worker: Literal["label"] = "label"
    """Discriminator."""
    source_uri: str
    """Prefix that holds `<tenant>/<run_id>.json`."""
    tenants: list[str] = Field(default_factory=list)
    """Only these tenants; empty means all."""
    variants: list[str] = Field(default_factory=list)
    """Only runs of these arms; empty means all."""
    since: str = ""
    """Only runs that started at or after this instant (RFC 3339)."""
    keep: list[str] = Field(default_factory=lambda: ["positive"])
    """Labels to keep."""
    format: Literal["sft", "preference"] = "sft"
    """Shape of the rows."""
    screen_width: int = 1280
    """Pixels, for the prompt."""
    screen_height: int = 720
    """Pixels, for the prompt."""
    require_screenshot: bool = True
    """Drop steps whose screenshot is missing."""
    holdout: float = 0.1
    """Share of runs held out."""
    split_by: Literal["time", "group"] = "time"
    """Newest runs, or whole tenants, are held out; never single rows."""
    require_review: bool = False
    """Only traces whose `review_status` is `approved`."""
    privacy: PrivacyRule = PrivacyRule()
    """Private text is found and replaced before anything is published."""
    max_bad_fraction: float = 1.0
    """More unreadable trace files than this share fail the build; they are counted and named in any case."""
    dataset_uri: str
    """Prefix below which the version is published as `<sha256>/`."""
    parent: Digest | None = None
    """Previous version."""


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
    checkpoint_every: int = 250
    """Steps between full checkpoints."""
    checkpoint_keep: int = 3
    """Full checkpoints kept."""
    checkpoint_uri: str
    """Run-scoped prefix of the full checkpoints: every attempt resumes from the newest verified one."""
    adapter_uri: str
    """Prefix below which the adapter is published as `<sha256>/`."""
    workers: int = 1
    """Ray Train workers."""
    use_gpu: bool = False
    """Whether the profile gives every worker an accelerator."""
    seed: int = 0
    """Seed of data order and initialisation."""


class EvalTarget(Contract):
    """One model to evaluate: weights by digest, or an endpoint that serves them."""

    name: str
    """Name in the report."""
    digest: str = ""
    """Digest of the weights; empty when only an endpoint is known."""
    base_model: ModelRef | None = None
    """Base weights to serve."""
    adapter: ArtifactRef | None = None
    """Adapter to serve on the base."""
    endpoint_url: str | None = None
    """Endpoint that already serves the model."""
    token_env: str | None = None
    """Environment variable of the worker that holds the endpoint's token."""


class EvalJob(JobBase):
    """EvalRun: a candidate, and where given a baseline, on the same tasks."""

    worker: Literal["eval"] = "eval"
    """Discriminator."""
    candidate: EvalTarget
    """The candidate."""
    baseline: EvalTarget | None = None
    """The baseline."""
    baseline_report: ArtifactRef | None = None
    """A finished report to compare with instead."""
    suite_uri: str
    """JSON file of tasks."""
    agent_url: str | None = None
    """Agent that runs a task with the model named in the request (`POST /v1/predict`)."""
    agent_token_env: str | None = None
    """Environment variable of the worker that holds the agent's token."""
    concurrency: int = 16
    """Tasks in flight."""
    repeats: int = 1
    """Times that each task is run; a task passes by majority."""
    infra_error_fraction: float = 0.02
    """More infrastructure errors than this share fail the run."""
    task_timeout_s: float = 600.0
    """Seconds for one task."""
    cache_uri: str | None = None
    """Run-scoped prefix of judged tasks: every attempt goes on where the last one ended. None keeps nothing."""


class ShadowJob(JobBase):
    """ShadowRollout: the arms of the present step."""

    worker: Literal["shadow"] = "shadow"
    """Discriminator."""
    source_uri: str
    """Prefix of the trace store."""
    since: str
    """Start of the step: evidence before it never counts."""
    baseline_since: str = ""
    """Start of the stable arm's evidence where it differs: at 100 % no stable arm runs beside the candidate, and the
    stable runs of the step before are the comparison. Empty takes `since`."""
    now: str
    """Instant of the analysis, from the operator's clock: decides maturity, so that a repeated job agrees."""
    rollout: str
    """UID of the rollout whose assignments count."""
    candidate_digest: Digest
    """Weights of the candidate arm."""
    stable_digest: Digest
    """Weights of the stable arm."""
    maturity_s: float
    """Seconds after a run's end before it counts."""
    min_runs: int
    """Matured candidate runs asked for."""
    method: Literal["sequential", "tolerance"] = "sequential"
    """Decision rule."""
    margin: float = 0.01
    """Non-inferiority margin on the run escalation rate (sequential), absolute."""
    tolerance: float = 0.0
    """Allowed excess of the step escalation rate (tolerance)."""
    alpha: float = 0.05
    """Error level of each sequential test."""


class MetricOverride(Contract):
    """A metric given by hand; it wins over measured ones and is recorded with its source."""

    name: str
    """Gate name."""
    value: float
    """Value."""
    source: str = ""
    """Who says so."""


class ScorecardJob(JobBase):
    """PromotionScorecard: evidence to a verdict."""

    worker: Literal["scorecard"] = "scorecard"
    """Discriminator."""
    tier: Tier = Tier.FIRST_SFT
    """Tier of the thresholds."""
    candidate_digest: Digest
    """Weights that are judged; evidence about others is refused."""
    eval_report: ArtifactRef | None = None
    """Report of the candidate."""
    compare_report: ArtifactRef | None = None
    """Comparison with the champion; its verdict Worse fails the scorecard."""
    shadow_summary: ArtifactRef | None = None
    """Shadow evidence of one step."""
    labelled: ArtifactRef | None = None
    """Dataset whose label counts feed the labeller's gates."""
    metrics: list[MetricOverride] = Field(default_factory=list)
    """Overrides."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Per-gate thresholds that replace the tier's."""
    required_gates: list[str] = Field(default_factory=list)
    """Gates whose absence is not a pass."""
    now: str
    """Instant of the judgement, from the operator's clock."""
    scorecard_uri: str
    """Prefix below which the scorecard is published and `SCORECARD_HISTORY.jsonl` is kept."""


JobInput = Annotated[LabelJob | TrainJob | EvalJob | ShadowJob | ScorecardJob, Field(discriminator="worker")]
"""Any job input, told apart by `worker`."""

JOB_INPUT: TypeAdapter[LabelJob | TrainJob | EvalJob | ShadowJob | ScorecardJob] = TypeAdapter(JobInput)
"""Parses a job input: `JOB_INPUT.validate_json(text)`."""


class Progress(Contract):
    """`progress.json`: where an attempt stands."""

    schema_version: int = 1
    """Version of this document."""
    attempt: int
    """The attempt."""
    updated_at: str
    """When it was written, RFC 3339, UTC; the operator takes a stale one for a hang."""
    stage: str = ""
    """What the worker does, e.g. `loading`, `training`, `publishing`."""
    step: int = 0
    """Units done."""
    of: int = 0
    """Units in all; 0 when unknown."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """E.g. `loss`, `tokens_per_second`, `epoch`, `learning_rate`."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Digests of the inputs, once verified: the operator pins them in status, e.g. `dataset`, `baseModel`."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that the attempt resumed from."""


class LabelOutput(Contract):
    """Result of a LabelJob."""

    worker: Literal["label"] = "label"
    """Discriminator."""
    dataset: ArtifactRef
    """The published version; the same digest as before when nothing changed."""
    rows: int
    """Rows to train on."""
    holdout_rows: int
    """Rows held out."""
    new_rows: int
    """Rows that the parent version has not."""
    labels: dict[str, int] = Field(default_factory=dict)
    """Steps by label."""
    label_reasons: dict[str, int] = Field(default_factory=dict)
    """Steps by ladder rule."""
    traces: int = 0
    """Trace files used."""
    bad_files: int = 0
    """Trace files that could not be read."""
    bad_examples: list[str] = Field(default_factory=list)
    """At most five of them, `path: reason`; never trace text."""
    redactions: dict[str, int] = Field(default_factory=dict)
    """Private texts that were found, by detector; never the texts."""
    reused_files: int = 0
    """Trace files that an earlier version had read and that have not changed since."""


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
    stop_reason: str = "Completed"
    """Why training ended."""
    tokens_per_second: float = 0.0
    """Real tokens per second, all workers together."""


class EvalSummary(Contract):
    """Figures of one report."""

    tasks: int
    """Tasks of the suite."""
    passed: int
    """Tasks passed."""
    failed: int
    """Tasks judged and not passed."""
    errored: int
    """Tasks that could not be judged."""
    unscored: int = 0
    """Tasks without a score."""
    pass_rate: float
    """`passed / (passed + failed)`: over the tasks that could be judged."""
    interval: tuple[float, float]
    """95 % Wilson interval of the pass rate."""


class EvalComparison(Contract):
    """Figures of a comparison."""

    common: int
    """Tasks judged on both sides."""
    wins: int
    """Only the candidate passed."""
    losses: int
    """Only the baseline passed."""
    win_rate: float
    """`wins / (wins + losses)`, 0.5 without either."""
    p_value: float
    """Exact two-sided McNemar test."""
    minimum_detectable_effect: float
    """Smallest detectable difference."""
    verdict: str
    """Better, Worse, Equivalent or Inconclusive."""


class EvalOutput(Contract):
    """Result of an EvalJob."""

    worker: Literal["eval"] = "eval"
    """Discriminator."""
    report: ArtifactRef
    """Report of the candidate."""
    baseline_report: ArtifactRef | None = None
    """Report of the baseline."""
    compare_report: ArtifactRef | None = None
    """Comparison."""
    summary: EvalSummary
    """Figures of the candidate."""
    baseline_summary: EvalSummary | None = None
    """Figures of the baseline."""
    comparison: EvalComparison | None = None
    """Figures of the comparison."""
    candidate_digest: str = ""
    """Weights that the report is about."""


class ShadowOutput(Contract):
    """Result of a ShadowJob."""

    worker: Literal["shadow"] = "shadow"
    """Discriminator."""
    summary: ShadowSummary
    """The analysis."""
    report: ArtifactRef
    """The same, published."""


class ScorecardOutput(Contract):
    """Result of a ScorecardJob."""

    worker: Literal["scorecard"] = "scorecard"
    """Discriminator."""
    scorecard: ArtifactRef
    """The published scorecard."""
    history_uri: str
    """Append-only history."""
    verdict: ScorecardVerdict
    """Fail-closed judgement."""
    gates: list[GateResult]
    """All nine gates."""


JobOutput = Annotated[
    LabelOutput | TrainOutput | EvalOutput | ShadowOutput | ScorecardOutput, Field(discriminator="worker")
]
"""Any job output, told apart by `worker`."""


class Result(Contract):
    """`result.json`: exactly one of `output` and `failure`."""

    schema_version: int = 1
    """Version of this document."""
    run: RunRef
    """Owner of the job."""
    attempt: int
    """The attempt."""
    finished_at: str
    """When, RFC 3339, UTC."""
    output: JobOutput | None = None
    """What was produced; absent on failure."""
    failure: Failure | None = None
    """Why nothing was; absent on success."""
