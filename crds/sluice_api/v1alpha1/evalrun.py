"""EvalRun: a candidate against the champion, on the same tasks."""

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
    EndpointUrl,
    LocalRef,
    ObjectName,
    PrinterColumn,
    RunProgress,
    ShortText,
    SluiceObject,
    StatusModel,
    StorageUri,
    SuiteUri,
    immutable_once,
    rule,
    validations,
    wire_fields,
)


class SecretKeyRef(ApiModel):
    """One key of a Secret that the profile lists as a token (`tokenSecrets`); the operator never reads it."""

    name: ObjectName
    """Secret."""
    key: ShortText = "token"
    """Key."""


class Endpoint(ApiModel):
    """An endpoint that already serves the model."""

    url: EndpointUrl
    """Base URL."""
    token_secret_ref: SecretKeyRef | None = None
    """Token for the endpoint."""
    digest: DigestString | None = None
    """Digest of the weights that it serves, where known."""


class ModelTarget(ApiModel):
    """One model to evaluate: exactly one of the fields."""

    fine_tune_run_ref: LocalRef | None = None
    """The adapter of this FineTuneRun."""
    channel: ObjectName | None = None
    """What this channel points to at start, e.g. `stable`."""
    endpoint: Endpoint | None = None
    """An endpoint."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "(has(self.fineTuneRunRef) ? 1 : 0) + (has(self.channel) ? 1 : 0) + (has(self.endpoint) ? 1 : 0) == 1",
                "give exactly one of fineTuneRunRef, channel and endpoint",
            ),
        )
    }


class ReportRef(ApiModel):
    """A finished report."""

    uri: StorageUri
    """The report, as an EvalRun's status names it."""
    digest: DigestString
    """Its digest."""


class BaselineTarget(ModelTarget):
    """What a candidate is compared with: exactly one of the fields."""

    report: ReportRef | None = None
    """A finished report over the same suite by the same harness; nothing is run for it."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "(has(self.fineTuneRunRef) ? 1 : 0) + (has(self.channel) ? 1 : 0) + (has(self.endpoint) ? 1 : 0) + "
                "(has(self.report) ? 1 : 0) == 1",
                "give exactly one of fineTuneRunRef, channel, endpoint and report",
            ),
        )
    }


class Suite(ApiModel):
    """The tasks."""

    uri: SuiteUri
    """JSON file of tasks, `.jsonl` file of HumanEval or MBPP rows, or built-in suite such as `builtin:smoke-8`. The
    digest is pinned at start; a suite whose own reference answers fail does not run."""


class AgentService(ApiModel):
    """The agent that runs a task with a named model: `POST /v1/predict`."""

    url: EndpointUrl
    """Base URL, reachable from the job."""
    token_secret_ref: SecretKeyRef | None = None
    """Token for the agent."""


class EvalLimits(ApiModel):
    """What ends a task or the run."""

    infra_error_fraction: float = Field(default=0.02, ge=0.0, le=1.0)
    """More infrastructure errors than this share fail the run: they are never scored as the model's failures."""
    task_timeout: Duration = "600s"
    """For one task."""


class EvalRunSpec(ApiModel):
    """What to evaluate."""

    candidate: ModelTarget
    """The candidate."""
    baseline: BaselineTarget | None = None
    """What it is compared with, on the same tasks."""
    suite: Suite
    """The tasks."""
    agent: AgentService | None = None
    """The agent that runs the tasks; without it the job serves the model itself and asks it directly."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Tasks in flight."""
    repeats: int = Field(default=1, ge=1, le=100)
    """Times that each task is run."""
    limits: EvalLimits = EvalLimits()
    """What ends a task or the run."""
    output: StorageUri
    """Reports are published below it."""
    channels: StorageUri | None = None
    """Root of the channels; needed where a target names one."""
    profile: ObjectName = "cpu"
    """Compute profile, from the operator's ConfigMap."""
    deadline: Duration = "2h"
    """From the start until it ends."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Attempts that count."""
    suspend: bool = False
    """Stop the job while true."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "has(self.channels) || !(has(self.candidate.channel) || "
                "(has(self.baseline) && has(self.baseline.channel)))",
                "spec.channels is needed where candidate or baseline names a channel",
            ),
        )
    }


class ReportStatus(StatusModel):
    """A published report."""

    uri: Annotated[str, StringConstraints(max_length=1100)]
    """The report."""
    digest: DigestString
    """Its digest."""


class SummaryStatus(StatusModel):
    """Figures of a report."""

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
    """Over the tasks that could be judged."""
    interval: list[float] = Field(max_length=2)
    """95 % Wilson interval."""


class ComparisonStatus(StatusModel):
    """Candidate against baseline."""

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
    """Smallest difference in pass rate that the common tasks could show."""
    interval: list[float] | None = Field(default=None, max_length=2)
    """95 % interval of the paired difference in pass rate."""
    verdict: Literal["Better", "Worse", "Equivalent", "Inconclusive"]
    """What the evidence shows."""


class EvalInputs(StatusModel):
    """Digests of the inputs, pinned at start."""

    candidate: DigestString | None = None
    """Weights of the candidate."""
    baseline: DigestString | None = None
    """Weights of the baseline."""
    baseline_report: DigestString | None = None
    """Finished report that is the baseline."""
    suite: DigestString | None = None
    """Suite: of the file's bytes, or of a built-in suite's tasks."""


class EvalRunStatus(BaseStatus):
    """What was measured."""

    inputs: EvalInputs = EvalInputs()
    """Pinned inputs."""
    progress: RunProgress | None = None
    """Where the present attempt stands."""
    report: ReportStatus | None = None
    """Report of the candidate."""
    baseline_report: ReportStatus | None = None
    """Report of the baseline."""
    compare_report: ReportStatus | None = None
    """Comparison."""
    summary: SummaryStatus | None = None
    """Figures of the candidate."""
    baseline_summary: SummaryStatus | None = None
    """Figures of the baseline."""
    comparison: ComparisonStatus | None = None
    """Figures of the comparison."""


class EvalRun(SluiceObject):
    """Runs a candidate and the champion on the same tasks and says, with intervals, which is better."""

    crd: ClassVar[CrdNames] = CrdNames(
        kind="EvalRun",
        plural="evalruns",
        short=("evr",),
        columns=(
            PrinterColumn(name="Phase", path=".status.phase"),
            REASON,
            PrinterColumn(name="Tasks", path=".status.summary.tasks", type="integer"),
            PrinterColumn(name="PassRate", path=".status.summary.passRate", type="number"),
            PrinterColumn(name="Baseline", path=".status.baselineSummary.passRate", type="number"),
            PrinterColumn(name="Verdict", path=".status.comparison.verdict"),
            PrinterColumn(name="Report", path=".status.report.digest", wide=True),
            MESSAGE,
            AGE,
        ),
        root_rules=immutable_once(
            "has(oldSelf.status) && has(oldSelf.status.inputs) && has(oldSelf.status.inputs.suite)",
            wire_fields(EvalRunSpec, but=("suspend",)),
        ),
    )
    spec: EvalRunSpec
    """What to evaluate."""
    status: EvalRunStatus = EvalRunStatus()
    """What was measured."""
