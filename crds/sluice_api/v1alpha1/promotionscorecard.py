"""PromotionScorecard: evidence to a verdict that a rollout may rely on."""

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
    Text,
    Timestamp,
    rule,
    validations,
)

GATE_NAMES = Literal[
    "task_pass_rate",
    "parser_validity",
    "grounding_accuracy",
    "forbidden_region_avoidance",
    "loop_rate_max",
    "gallery_recovery_rate",
    "escalation_rate_max",
    "done_completeness",
    "cost_per_success_usd_max",
]
"""The nine gates."""


class ScorecardCandidate(ApiModel):
    """The weights that are judged: exactly one of the fields."""

    fine_tune_run_ref: LocalRef | None = None
    """The adapter of this FineTuneRun."""
    digest: DigestString | None = None
    """Exact weights."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "has(self.fineTuneRunRef) != has(self.digest)",
                "give exactly one of fineTuneRunRef and digest",
            ),
        )
    }


class ShadowEvidence(ApiModel):
    """Shadow evidence of one step of a rollout."""

    rollout_ref: LocalRef
    """The rollout."""
    step: int = Field(ge=1, le=100)
    """Step, from 1."""
    summary_uri: Annotated[str, StringConstraints(max_length=1100)]
    """The published analysis."""
    summary_digest: DigestString
    """Its digest."""


class LabelledEvidence(ApiModel):
    """Labelled traces, recorded in the scorecard and never judged: a dataset does not say whose steps it holds."""

    dataset_ref: LocalRef
    """TraceDataset; its newest version at start."""


class ComparisonRule(ApiModel):
    """What the comparison with the champion must show, and the error budget behind it."""

    require: Literal["Better", "NotWorse"] = "Better"
    """`Better`: anything less than shown to be better is no Pass. `NotWorse`: only what is shown to be worse fails."""
    alpha: float = Field(default=0.05, ge=0.0001, le=0.5)
    """Chance that any candidate is ever called better than one champion without being so. The k-th candidate that is
    compared with a champion is judged at `alpha * 6 / (pi * k)^2`, counted in the history."""


class MetricValueSpec(ApiModel):
    """A metric given by hand; it wins over measured ones and is recorded with its source."""

    name: GATE_NAMES
    """Gate."""
    value: float = Field(ge=0.0, le=1000000.0)
    """Value."""
    source: Text = Field(min_length=1)
    """Who says so, and from what."""


class ThresholdOverride(ApiModel):
    """A threshold that replaces the tier's, with the person or policy that decided it."""

    name: GATE_NAMES
    """Gate."""
    value: float = Field(ge=0.0, le=1000000.0)
    """Threshold."""
    author: ShortText = Field(min_length=1)
    """Who decided it; recorded in the verdict."""


class PromotionScorecardSpec(ApiModel):
    """What to judge, by which measure. Immutable: a judgement is a record."""

    tier: Literal["base", "first_sft", "future"] = "first_sft"
    """How much is asked."""
    candidate: ScorecardCandidate
    """The weights that are judged; evidence about others is refused."""
    eval_run_ref: LocalRef | None = None
    """EvalRun whose report is evidence."""
    shadow: ShadowEvidence | None = None
    """Shadow evidence; absent for the offline scorecard."""
    labelled_traces: LabelledEvidence | None = None
    """Labelled traces for the record."""
    comparison: ComparisonRule | None = None
    """What the comparison with the champion must show; given, the scorecard is Inconclusive without a comparison.
    Absent, the same defaults apply where the EvalRun has a baseline."""
    required_gates: list[GATE_NAMES] = Field(default=["task_pass_rate"], min_length=1, max_length=9)
    """Gates whose absence is not a pass; the others, when missing, are shown as Missing and do not count."""
    metrics: list[MetricValueSpec] = Field(default_factory=list, max_length=9)
    """Metrics given by hand."""
    thresholds: list[ThresholdOverride] = Field(default_factory=list, max_length=9)
    """Thresholds that replace the tier's."""
    valid_for: Duration = "24h"
    """How long the verdict may be relied on."""
    output: StorageUri
    """Scorecards and their append-only history are published below it."""
    profile: ObjectName = "cpu"
    """Compute profile, from the operator's ConfigMap."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule("self == oldSelf", "spec is immutable: a scorecard is a record; create a new one"),
        )
    }


class GateStatus(StatusModel):
    """One gate."""

    name: ShortText
    """Gate."""
    value: float
    """Measured value; 0 when missing."""
    threshold: float | None = None
    """Threshold."""
    direction: Literal["min", "max"]
    """Which side passes; boundaries pass."""
    n: int | None = None
    """Units behind the value."""
    interval: list[float] | None = Field(default=None, max_length=2)
    """95 % interval."""
    verdict: Literal["Pass", "Fail", "Missing", "Inconclusive"]
    """Judgement."""
    source: Text = ""
    """Digest of the evidence."""
    note: Text = ""
    """Remark."""
    detail: Text = ""
    """What the value was measured on, or why there is no better verdict."""


class ComparisonVerdict(StatusModel):
    """The comparison with the champion, judged at what was left of the error budget."""

    verdict: Literal["Better", "Worse", "Equivalent", "Inconclusive"]
    """What the evidence shows at `level`."""
    p_value: float
    """Two-sided, exact."""
    level: float
    """Level of this candidate: `budget * 6 / (pi * candidate)^2`."""
    candidate: int
    """The how-manieth comparison with this champion, from 1."""
    budget: float
    """Chance that any candidate is ever called better than this champion without being so."""
    spent: float
    """What this comparison and those before it have used of the budget."""


class HistoryStatus(StatusModel):
    """The append-only history."""

    uri: Annotated[str, StringConstraints(max_length=1100)]
    """`SCORECARD_HISTORY.jsonl`."""


class PromotionScorecardStatus(BaseStatus):
    """The judgement."""

    verdict: Literal["Pass", "Fail", "Inconclusive"] | None = None
    """Pass only when every required gate is Pass and none is Fail; absent until judged."""
    candidate: DigestString | None = None
    """Weights that were judged."""
    gates: list[GateStatus] = Field(default_factory=list, max_length=16)
    """All nine gates."""
    comparison: ComparisonVerdict | None = None
    """The comparison with the champion; absent without one."""
    scorecard_uri: Annotated[str, StringConstraints(max_length=1100)] = ""
    """The published scorecard."""
    scorecard_digest: DigestString | None = None
    """Its digest."""
    evaluated_at: Timestamp | None = None
    """When it was judged."""
    expires_at: Timestamp | None = None
    """Until when it may be relied on."""
    history: HistoryStatus | None = None
    """The history."""


class PromotionScorecard(SluiceObject):
    """Judges a candidate by nine gates at one of three tiers. Missing evidence is visible and never a pass."""

    crd: ClassVar[CrdNames] = CrdNames(
        kind="PromotionScorecard",
        plural="promotionscorecards",
        short=("psc",),
        columns=(
            PrinterColumn(name="Verdict", path=".status.verdict"),
            PrinterColumn(name="Phase", path=".status.phase"),
            REASON,
            PrinterColumn(name="Tier", path=".spec.tier"),
            PrinterColumn(name="Comparison", path=".status.comparison.verdict"),
            PrinterColumn(name="Candidate", path=".status.candidate", wide=True),
            PrinterColumn(name="Expires", path=".status.expiresAt", wide=True),
            MESSAGE,
            AGE,
        ),
    )
    spec: PromotionScorecardSpec
    """What to judge."""
    status: PromotionScorecardStatus = PromotionScorecardStatus()
    """The judgement."""
