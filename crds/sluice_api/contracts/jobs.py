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


class CriticRule(Contract):
    """Which generated candidates of a mixture's buckets are good enough to learn from."""

    languages: list[str] = Field(default_factory=lambda: ["python", "typescript"])
    """Programming languages that are parsed; code in others has no executed check."""
    require_accepted: bool = True
    """Leave out what the critic does not accept; false keeps it and counts only."""
    run_tests: bool = False
    """Run candidates' own tests, in limited processes of the worker."""


class MixtureBucket(Contract):
    """One source of rows of a mixture."""

    name: str
    """Its name in plan, manifest and messages."""
    weight: float
    """Its share, relative to the other weights."""
    source_uri: str | None = None
    """Prefix of JSONL files; None stands for the rows that the traces gave."""


class MixtureRule(Contract):
    """How the rows to train on are mixed."""

    rows: int
    """Rows in all."""
    max_repeats: int = 4
    """Times that a row may be used, at most."""
    seed: int = 0
    """Seed of ties and of the order."""
    tag_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of rows with a tag, below 1 for rarer."""
    buckets: list[MixtureBucket]
    """The sources."""


class DuplicateRule(Contract):
    """Which rows count as said before."""

    exact: bool = False
    """Remove rows that say the same, to the letter."""
    near: bool = False
    """Remove rows that say nearly the same."""
    threshold: float = 0.8
    """Jaccard similarity from which rows say nearly the same."""
    shingle_words: int = 3
    """Words a shingle."""


class LeakRule(Contract):
    """Evaluation suites whose tasks must not be in the rows."""

    suites: list[str] = Field(default_factory=list)
    """JSON files of tasks."""
    threshold: float = 0.8
    """Share of a task in a row that makes a leak."""
    shingle_words: int = 3
    """Words a shingle."""


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
    critic: CriticRule | None = None
    """Judges the candidates of the mixture's buckets; None takes every well-formed row."""
    mixture: MixtureRule | None = None
    """Mixes the rows to train on; None takes the rows of the traces as they are."""
    duplicates: DuplicateRule = DuplicateRule()
    """Which rows count as said before."""
    leaks: LeakRule = LeakRule()
    """Evaluation suites to keep out of the rows."""
    workers: int = 1
    """Processes that read, judge and convert; more than one are tasks of Ray Data."""
    dataset_uri: str
    """Prefix below which the version is published as `<sha256>/`."""
    parent: Digest | None = None
    """Previous version."""
    append: bool = False
    """Keep the previous version's rows of runs whose traces are gone."""


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
    """JSON file of tasks, rows of a benchmark, or `builtin:NAME`."""
    suite_digest: str = ""
    """Pinned digest: of the file's bytes, or of a built-in suite's tasks. Another suite is not run. Empty pins
    nothing."""
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
    """UID of the rollout whose assignments count. Empty behind a gateway, where agents know no rollout: weights and
    instants bind the evidence then."""
    paired: bool = False
    """Compare what both arms made of the same mirrored requests, pair by pair, instead of two arms of users."""
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
    """Error level of the test for non-inferiority, and of the one for harm where `harm_alpha` is None."""
    harm_alpha: float | None = None
    """Error level of this step's test for harm: its part of what the whole rollout may spend."""


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
    threshold_authors: dict[str, str] = Field(default_factory=dict)
    """Who decided each of them, for the record."""
    required_gates: list[str] = Field(default_factory=list)
    """Gates whose absence is not a pass."""
    comparison_require: Literal["Better", "NotWorse"] = "NotWorse"
    """What the comparison with the champion must show for a Pass."""
    comparison_needed: bool = False
    """Whether a scorecard without a comparison is Inconclusive."""
    comparison_alpha: float = 0.05
    """Error budget over all candidates that are compared with one champion."""
    valid_for_s: float | None = None
    """Seconds that the verdict may be relied on, for the record; None leaves it open."""
    now: str
    """Instant of the judgement, from the operator's clock."""
    scorecard_uri: str
    """Prefix below which the scorecard is published."""
    history_uri: str = ""
    """The lineage's `SCORECARD_HISTORY.jsonl`; empty keeps one beside the scorecard."""


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
    bad_reasons: dict[str, int] = Field(default_factory=dict)
    """Trace files that could not be read, by reason."""
    quarantined: int = 0
    """Steps and traces that privacy kept back whole."""
    duplicates: dict[str, int] = Field(default_factory=dict)
    """Rows removed because another says the same, by kind."""
    leaks: int = 0
    """Rows removed because they hold a task of an evaluation suite."""
    tenants: dict[str, int] = Field(default_factory=dict)
    """Rows to train on of the largest tenants."""
    buckets: dict[str, int] = Field(default_factory=dict)
    """Rows to train on by bucket of the mixture."""
    screens: int = 0
    """Different screenshots that rows refer to."""
    kept_rows: int = 0
    """Rows of the previous version whose traces are gone."""
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
    stop_reason: StopReason = StopReason.COMPLETED
    """Why training ended."""
    tokens_per_second: float = 0.0
    """Real tokens per second, all workers together."""
    probes: list[ProbeResult] = Field(default_factory=list)
    """What the probes showed, in order."""


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
    interval: tuple[float, float] | None = None
    """95 % interval of the paired difference in pass rate."""
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
    baseline_digest: str = ""
    """Weights of the baseline that was measured beside them; empty without one, or when unknown."""
    suite_digest: str = ""
    """Suite that was read: digest of the file's bytes, or of a built-in suite's tasks."""
    harness_digest: str = ""
    """What judged: scorer versions, limits, protocol."""


class ShadowOutput(Contract):
    """Result of a ShadowJob."""

    worker: Literal["shadow"] = "shadow"
    """Discriminator."""
    summary: ShadowSummary
    """The analysis."""
    report: ArtifactRef
    """The same, published."""


class ComparisonRecord(Contract):
    """The comparison with the champion, judged at what was left of the error budget."""

    verdict: str
    """Better, Worse, Equivalent or Inconclusive, at `level`."""
    p_value: float
    """Two-sided, exact."""
    level: float
    """Level of this candidate."""
    candidate: int
    """The how-manieth comparison with this champion, from 1."""
    budget: float
    """Error budget over all candidates that are compared with the champion."""
    spent: float
    """What this comparison and those before it have used of the budget."""


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
    comparison: ComparisonRecord | None = None
    """The comparison with the champion; None without one."""


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
