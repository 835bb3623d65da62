"""ShadowRollout: traffic that climbs only on evidence, and comes back by itself."""

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
    ShortText,
    SluiceObject,
    StatusModel,
    StorageUri,
    Timestamp,
    rule,
    validations,
)
from sluice_api.v1alpha1.promotionscorecard import GATE_NAMES
from sluice_api.v1alpha1.shadowrollout_traffic import Assignment, Traffic


class RolloutCandidate(ApiModel):
    """What is rolled out."""

    fine_tune_run_ref: LocalRef
    """The adapter of this FineTuneRun."""


class StableTarget(ApiModel):
    """What serves the rest, and what the candidate replaces when it has climbed to 100 %."""

    channel: ObjectName = "stable"
    """Channel; moved by compare-and-set at the end."""
    root: StorageUri
    """Root of the channels: the pointer is `<root>/channels/<channel>.json`."""


class Shadow(ApiModel):
    """A copy of requests for the candidate, whose answers no user sees."""

    mirror: int = Field(ge=1, le=100)
    """Per cent of the requests that the gateway copies to the candidate, which must serve them dry: no tool may act."""


class RolloutStep(ApiModel):
    """One weight on the way."""

    weight: int = Field(ge=0, le=100)
    """Per cent of the traffic that the candidate serves; 0 only in a first step that mirrors."""
    shadow: Shadow | None = None
    """Mirror requests instead of serving them, and compare the answers pair by pair. Router `httpRoute` only."""
    soak: Duration = "30m"
    """How long it stays at least."""
    min_runs: int = Field(default=100, ge=1)
    """Matured candidate runs asked for."""


class AnalysisSource(ApiModel):
    """Traces of both arms."""

    uri: StorageUri
    """Prefix of the trace store."""


class Guard(ApiModel):
    """A fast check on a Prometheus query: harm that shows in seconds, like 5xx or latency."""

    name: ObjectName
    """Name in messages and status."""
    query: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """PromQL instant query that gives one value about the candidate."""
    max: float
    """Largest value that is accepted."""
    for_: Duration = Field(default="0s", alias="for")
    """How long the value must stay above `max` until the rollout rolls back."""


class Analysis(ApiModel):
    """How the arms are compared."""

    source: AnalysisSource
    """Traces of both arms."""
    interval: Duration = "5m"
    """Time between analyses."""
    method: Literal["sequential", "tolerance"] = "sequential"
    """`sequential`: tests valid under peeking; `tolerance`: the candidate's step escalation rate may exceed the
    stable arm's by `tolerance`."""
    margin: float = Field(default=0.01, ge=0.0, le=1.0)
    """Non-inferiority margin on the escalation rate of runs (sequential)."""
    tolerance: float = Field(default=0.0, ge=0.0, le=1.0)
    """Allowed excess of the escalation rate of steps (tolerance)."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Error level: of non-inferiority at each step, and of harm over the whole rollout (half of it is spent at the
    first step, half of what is left at each further one)."""
    maturity: Duration = "15m"
    """Time after a run's end before it counts: escalations arrive late."""
    max_duration: Duration = "7d"
    """How long a step may stay undecided."""
    guards: list[Guard] = Field(default_factory=list, max_length=8)
    """Fast checks beside the analysis, at any weight. One above its maximum rolls back; one without an answer holds."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "!has(self.interval) || self.interval.matches('[1-9]')",
                "spec.analysis.interval must be at least 1s",
            ),
            rule(
                "!has(self.guards) || self.guards.all(a, self.guards.exists_one(b, b.name == a.name))",
                "spec.analysis.guards: every name must be another one",
            ),
        )
    }


class StepScorecard(ApiModel):
    """The scorecard that the rollout creates for each step."""

    tier: Literal["base", "first_sft", "future"] = "first_sft"
    """Tier."""
    required_gates: list[GATE_NAMES] = Field(default=["escalation_rate_max"], min_length=1, max_length=9)
    """Gates whose absence is not a pass."""
    valid_for: Duration = "24h"
    """How long its verdict may be relied on."""


class ShadowRolloutSpec(ApiModel):
    """What to roll out, and how carefully."""

    candidate: RolloutCandidate
    """What is rolled out. Changing it starts again from 0."""
    stable: StableTarget
    """What it replaces."""
    scorecard_ref: LocalRef | None = None
    """Offline PromotionScorecard that must say Pass for the candidate's digest before any traffic moves. Leaving it
    out is a decision to go without, and shows in the conditions."""
    steps: list[RolloutStep] = Field(
        min_length=2,
        max_length=20,
        json_schema_extra=validations(
            rule("self[self.size() - 1].weight == 100", "spec.steps: the last step's weight must be 100"),
            rule(
                "self.all(a, self.exists_one(b, b.weight == a.weight)) && self.map(s, s.weight).isSorted()",
                "spec.steps: weights must increase strictly",
            ),
            rule(
                "self.all(s, (s.weight == 0) == has(s.shadow))",
                "spec.steps: a step has the weight 0 exactly where it has a shadow",
            ),
        ),
    )
    """Weights, strictly increasing, the last 100. At least two: at 100 % there is no stable arm to compare with."""
    assignment: Assignment = Assignment()
    """How a run gets its arm."""
    traffic: Traffic = Traffic()
    """How the weight reaches the agent."""
    analysis: Analysis
    """How the arms are compared."""
    scorecard: StepScorecard = StepScorecard()
    """The scorecard of each step."""
    output: StorageUri
    """Analyses and scorecards are published below it."""
    on_inconclusive: Literal["Hold", "Rollback"] = "Hold"
    """What to do when `analysis.maxDuration` passes without a decision."""
    approval: list[Annotated[int, Field(ge=1, le=20)]] = Field(default_factory=list, max_length=20)
    """Steps (from 1) that wait for the promote annotation once their evidence is in."""
    profile: ObjectName = "cpu"
    """Compute profile of analyses and scorecards."""
    bake: Duration = "0s"
    """Time at 100 % before the channel moves."""
    paused: bool = False
    """Hold the present weight while true; harm still rolls back."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "!has(self.approval) || self.approval.all(step, step <= self.steps.size())",
                "spec.approval names a step that spec.steps has not",
            ),
            rule(
                "!self.steps.exists(s, has(s.shadow)) || "
                "(has(self.traffic) && has(self.traffic.router) && self.traffic.router == 'httpRoute')",
                "spec.steps: only spec.traffic.router httpRoute can mirror requests",
            ),
        )
    }


class Weight(StatusModel):
    """Share of the candidate, per cent."""

    desired: int = 0
    """What the rollout wants."""
    actual: int = 0
    """What the router was last seen to have."""


class ArmStatus(StatusModel):
    """Matured runs of an arm since the step began."""

    runs: int = 0
    """Runs."""
    escalations: int = 0
    """Runs with at least one escalation."""
    steps: int = 0
    """Steps of these runs."""
    step_escalations: int = 0
    """Steps that escalated."""


class Arms(StatusModel):
    """Both arms."""

    stable: ArmStatus = ArmStatus()
    """The stable arm."""
    candidate: ArmStatus = ArmStatus()
    """The candidate arm."""


class ServedModel(StatusModel):
    """Weights that an arm serves, pinned at start: a rollback must not depend on anything that may have gone."""

    digest: DigestString
    """Digest of the adapter, or of the base where no adapter is served."""
    base_uri: Annotated[str, StringConstraints(max_length=1100)]
    """Base weights."""
    base_revision: ShortText = ""
    """Revision of the base on the hub."""
    base_digest: DigestString | None = None
    """Digest of the base."""
    adapter_uri: Annotated[str, StringConstraints(max_length=1100)] | None = None
    """Adapter; absent where the base is served alone."""


class StepScorecardStatus(StatusModel):
    """The scorecard of a step."""

    step: int
    """Step, from 1."""
    round: int = 1
    """Round that it belongs to."""
    name: ShortText
    """PromotionScorecard."""
    verdict: ShortText = ""
    """Its verdict; empty until it has one."""
    evidence: DigestString | None = None
    """The analysis that it judges."""


class EvidenceStatus(StatusModel):
    """The newest analysis of the present step."""

    uri: Annotated[str, StringConstraints(max_length=1100)]
    """The published analysis."""
    digest: DigestString
    """Its digest."""
    step: int
    """Step that it is about."""
    verdict: ShortText
    """What it shows."""
    at: Timestamp
    """Instant of the analysis."""
    attempt: int = 0
    """Attempt that made it."""
    harm: float | None = None
    """E-value for harm."""
    non_inferiority: float | None = None
    """E-value for non-inferiority."""
    candidate_share: float | None = None
    """Measured share of the candidate arm."""
    evaluator: DigestString | None = None
    """Digest of the code that made it."""
    unreadable: float | None = None
    """Share of the traces that could not be read: they may hide one arm's harm."""


class GuardStatus(StatusModel):
    """What a fast check last said."""

    name: ShortText
    """Name of the guard."""
    state: Literal["Ok", "Breached", "Unknown"] = "Unknown"
    """`Unknown`: no answer, no series, or not a number; the weight holds."""
    since: Timestamp | None = None
    """Since when it has been in that state."""


class Approval(StatusModel):
    """A manual approval."""

    step: int
    """Step."""
    at: Timestamp
    """When."""
    by: ShortText = ""
    """Who: the annotation `sluice.dev/promoted-by` where it was set, else the field manager of the promote annotation,
    which is all that the API server records on an object. Its audit log has the user."""


class ShadowRolloutStatus(BaseStatus):
    """Where the rollout stands."""

    step: int = 0
    """Present step, from 1; 0 before the first and after a rollback."""
    step_started_at: Timestamp | None = None
    """When the present weight was verified: evidence before it never counts."""
    weight: Weight = Weight()
    """Share of the candidate."""
    arms: Arms = Arms()
    """Matured runs of the present step."""
    verdict: ShortText = ""
    """What the newest analysis shows."""
    evidence: EvidenceStatus | None = None
    """The newest analysis."""
    scorecards: list[StepScorecardStatus] = Field(default_factory=list, max_length=40)
    """Scorecards of the steps."""
    approvals: list[Approval] = Field(default_factory=list, max_length=20)
    """Manual approvals."""
    guards: list[GuardStatus] = Field(default_factory=list, max_length=8)
    """What the fast checks last said."""
    evaluator: DigestString | None = None
    """Digest of the code that made the round's first analysis: one of other code holds."""
    assignment: Assignment | None = None
    """How runs get their arm, pinned at start. Changing the spec's starts again from 0."""
    traffic: Traffic | None = None
    """How the weight reaches the agent, pinned at start. Changing the spec's starts again from 0 on the new route."""
    candidate_digest: DigestString | None = None
    """Weights that are rolled out, pinned at start."""
    candidate_uri: Annotated[str, StringConstraints(max_length=1100)] | None = None
    """Where they lie."""
    candidate_run: ShortText = ""
    """FineTuneRun that they came from."""
    candidate_model: ServedModel | None = None
    """What the candidate arm serves."""
    stable_model: ServedModel | None = None
    """What the stable arm serves."""
    stable_digest: DigestString | None = None
    """Weights that serve the rest, pinned at start."""
    last_good: DigestString | None = None
    """What the channel pointed to before promotion."""
    round: int = 0
    """Times that the rollout has started from the first step."""
    previous_step_started_at: Timestamp | None = None
    """When the step before the present one began: at 100 % there is no stable arm beside the candidate, and harm is
    judged against the stable runs since this instant."""
    bake_started_at: Timestamp | None = None
    """When everything but the bake time was in at 100 %."""
    outcome: Literal["", "RolledBack", "Superseded", "Completed"] = ""
    """How the rollout ended; empty while it goes on. `RolledBack` and `Superseded` stay until the retry annotation or
    another candidate."""


class ShadowRollout(SluiceObject):
    """Shifts traffic to a candidate step by step, each on fresh evidence and a fresh scorecard; harm rolls back."""

    crd: ClassVar[CrdNames] = CrdNames(
        kind="ShadowRollout",
        plural="shadowrollouts",
        short=("shr",),
        columns=(
            PrinterColumn(name="Phase", path=".status.phase"),
            PrinterColumn(name="Step", path=".status.step", type="integer"),
            PrinterColumn(name="Desired", path=".status.weight.desired", type="integer"),
            PrinterColumn(name="Actual", path=".status.weight.actual", type="integer"),
            REASON,
            PrinterColumn(name="Runs", path=".status.arms.candidate.runs", type="integer"),
            PrinterColumn(name="Verdict", path=".status.verdict", wide=True),
            PrinterColumn(name="Candidate", path=".status.candidateDigest", wide=True),
            MESSAGE,
            AGE,
        ),
    )
    spec: ShadowRolloutSpec
    """What to roll out."""
    status: ShadowRolloutStatus = ShadowRolloutStatus()
    """Where the rollout stands."""
