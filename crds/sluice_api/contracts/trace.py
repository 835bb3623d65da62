"""Traces of an agent's runs, schema version 3, and the same traces with a label on every step.

Version 2 added `variant`; version 3 added the per-step `envelope`. Sluice adds `model_digest` and `rollout`, so that
evidence can be bound to the weights that produced it.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from sluice_api.contracts.base import Contract

TRACE_SCHEMA_VERSION = 3
"""Current version of the trace export schema; raised on incompatible changes."""

SHARED_TENANT_FOLDER = "__shared__"
"""Folder for runs without a tenant; their `tenant_id` stays empty."""


class RunStatus(StrEnum):
    """How a run ended. Only ended runs are exported."""

    COMPLETED = "completed"
    HALTED = "halted"
    CANCELLED = "cancelled"
    PAUSED = "paused"


class Variant(StrEnum):
    """The arm of a rollout that served a run."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"
    MIRROR = "mirror"
    """A copy of a user's request that the candidate served dry: no user saw it, and it is no example to train on."""
    UNASSIGNED = "__unassigned__"


class Label(StrEnum):
    """The judgement of one step."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NEUTRAL = "neutral"


class LabelReason(StrEnum):
    """The rule of the ladder that fired; first match wins, in this order."""

    ESCALATION = "escalation"
    FAILED_STEP = "failed_step"
    GATE_VERIFY_PASS = "gate_verify_pass"
    SUCCESS_WITH_OBSERVED_DELTA = "success_with_observed_delta"
    SUCCESS_NO_DELTA = "success_no_delta"


class Costs(Contract):
    """Cost of a run in US dollars, four decimal places."""

    gpu: float = 0.0
    """GPU share."""
    claude: float = 0.0
    """Share of the expert model that takes over on escalation."""
    proxy: float = 0.0
    """Network proxy share."""
    total: float = 0.0
    """Sum of the shares."""


class TraceAction(Contract):
    """The last action that a step took."""

    action_type: str
    """`click`, `double_click`, `type_text`, `type`, `key_press`, `scroll`, `wait` or `done`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the action, e.g. `x` and `y` of a click."""


class HumanEdit(Contract):
    """The answer that a person says a step should have given; becomes the chosen side of a preference pair."""

    last_action: TraceAction
    """The action."""
    predicted_outcome: str = ""
    """What it is expected to do."""
    edited_by: str = ""
    """Who says so: a name or a role, no e-mail address."""
    edited_at: str = ""
    """When, RFC 3339, UTC."""


class TraceStep(Contract):
    """One step of a run."""

    step_index: int
    """Position in the run, from 0."""
    intent: str = ""
    """What the step was to achieve."""
    type: str = ""
    """Kind of step, as the agent names it."""
    success: bool | None = None
    """Whether the step succeeded; missing counts as failed."""
    data: str | None = None
    """What the environment answered, e.g. `gate:PASS …` or an escalation keyword."""
    steps_used: int = 0
    """Actions spent on the step."""
    duration: float = 0.0
    """Seconds spent on the step."""
    reversed: bool = False
    """Whether the step was rolled back."""
    last_action: TraceAction | None = None
    """The action the model answered with last."""
    predicted_outcome: str | None = None
    """What the model expected to happen."""
    observed_outcome: str | None = None
    """What was seen to change; empty when nothing did."""
    reasoning: str | None = None
    """The model's reasoning."""
    envelope: dict[str, Any] | None = None
    """The request as the model saw it (schema 3): at least `prompt`, the page state given to the model."""
    human_edit: HumanEdit | None = None
    """What a person says the answer should have been."""


class Trace(Contract):
    """One run of the agent, as exported to `<dir>/<tenant>/<run_id>.json`."""

    schema_version: int = TRACE_SCHEMA_VERSION
    """Version of this schema."""
    run_id: str
    """Identity of the run; falls back to run key, then session name, then `unknown`."""
    tenant_id: str = ""
    """Tenant; empty for shared runs."""
    session_name: str = ""
    """Name of the session."""
    plan_signature: str = ""
    """Signature of the plan that the run followed."""
    variant: str = ""
    """Arm that served the run: `baseline`, `candidate`, or empty."""
    status: str = RunStatus.COMPLETED
    """How the run ended."""
    started_at: str = ""
    """Start, RFC 3339, UTC."""
    ended_at: str = ""
    """End, RFC 3339, UTC."""
    total_time_s: float = 0.0
    """Wall time in seconds."""
    costs: Costs = Field(default_factory=Costs)
    """Costs of the run."""
    step_count: int = 0
    """Number of steps."""
    steps: list[TraceStep] = Field(default_factory=list)
    """The steps, in order."""
    model_digest: str = ""
    """Digest of the adapter or base model that served the run; empty when unknown."""
    rollout: str = ""
    """UID of the ShadowRollout that assigned the arm; empty outside a rollout."""
    request_id: str = ""
    """ID of the request that the run served: joins a mirrored run with the one that the user saw."""


class LabelledStep(TraceStep):
    """A step with its judgement."""

    label: Label
    """The judgement."""
    label_reason: LabelReason
    """The ladder rule that fired."""


class LabelSummary(Contract):
    """Steps of a trace by label."""

    positive: int = 0
    """Positive steps."""
    negative: int = 0
    """Negative steps."""
    neutral: int = 0
    """Neutral steps."""


class LabelledTrace(Contract):
    """A trace with a label on every step, as written by `sluice trace label`."""

    schema_version: int = TRACE_SCHEMA_VERSION
    """Schema version of the trace it came from."""
    run_id: str
    """Identity of the run."""
    tenant_id: str = ""
    """Tenant; empty for shared runs."""
    variant: str = ""
    """Arm that served the run, carried so that shadow analysis can compare arms."""
    status: str = ""
    """How the run ended."""
    started_at: str = ""
    """Start of the run."""
    ended_at: str = ""
    """End of the run."""
    source_path: str = ""
    """File that the trace was read from."""
    costs: Costs = Field(default_factory=Costs)
    """Costs of the run."""
    model_digest: str = ""
    """Digest of the weights that served the run."""
    rollout: str = ""
    """UID of the rollout that assigned the arm."""
    request_id: str = ""
    """ID of the request that the run served."""
    label_summary: LabelSummary = Field(default_factory=LabelSummary)
    """Steps by label."""
    review_status: str = "pending"
    """Human review: `pending`, `approved` or `rejected`."""
    steps: list[LabelledStep] = Field(default_factory=list)
    """The labelled steps, in order."""
