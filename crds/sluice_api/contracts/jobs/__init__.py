"""What the operator gives a worker, and the two files it reads back.

A worker gets one `JobInput` (JSON, inline in the submission; references and digests, never payloads), writes
`progress.json` while it works and `result.json` last, both under the attempt's own `output_uri`. A worker that died
leaves no result; a slow zombie writes to its own attempt's prefix, where nobody looks any more.
"""

from typing import Annotated

from pydantic import Field, TypeAdapter

from sluice_api.contracts.base import Contract, RunRef
from sluice_api.contracts.jobs.base import (
    JOB_INPUT_VARIABLE,
    PROGRESS_FILE,
    RESULT_FILE,
    Failure,
    FailureClass,
    JobBase,
)
from sluice_api.contracts.jobs.eval import (
    AGENT_TOKEN_VARIABLE,
    BASELINE_TOKEN_VARIABLE,
    CANDIDATE_TOKEN_VARIABLE,
    EvalComparison,
    EvalJob,
    EvalOutput,
    EvalSummary,
    EvalTarget,
    may_be_sent,
)
from sluice_api.contracts.jobs.label import (
    CriticRule,
    DuplicateRule,
    LabelJob,
    LabelOutput,
    LeakRule,
    MixtureBucket,
    MixtureRule,
    PrivacyRule,
)
from sluice_api.contracts.jobs.scorecard import ComparisonRecord, MetricOverride, ScorecardJob, ScorecardOutput
from sluice_api.contracts.jobs.shadow import ShadowJob, ShadowOutput
from sluice_api.contracts.jobs.train import (
    ProbeGate,
    ProbePlan,
    ProbeResult,
    StopReason,
    StopRule,
    TrainJob,
    TrainOutput,
    TrainPhase,
)

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


__all__ = [
    "AGENT_TOKEN_VARIABLE",
    "BASELINE_TOKEN_VARIABLE",
    "CANDIDATE_TOKEN_VARIABLE",
    "JOB_INPUT",
    "JOB_INPUT_VARIABLE",
    "PROGRESS_FILE",
    "RESULT_FILE",
    "ComparisonRecord",
    "CriticRule",
    "DuplicateRule",
    "EvalComparison",
    "EvalJob",
    "EvalOutput",
    "EvalSummary",
    "EvalTarget",
    "Failure",
    "FailureClass",
    "JobBase",
    "JobInput",
    "JobOutput",
    "LabelJob",
    "LabelOutput",
    "LeakRule",
    "MetricOverride",
    "MixtureBucket",
    "MixtureRule",
    "PrivacyRule",
    "ProbeGate",
    "ProbePlan",
    "ProbeResult",
    "Progress",
    "Result",
    "ScorecardJob",
    "ScorecardOutput",
    "ShadowJob",
    "ShadowOutput",
    "StopReason",
    "StopRule",
    "TrainJob",
    "TrainOutput",
    "TrainPhase",
    "may_be_sent",
]
