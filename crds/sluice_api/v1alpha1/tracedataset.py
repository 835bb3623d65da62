"""TraceDataset: production traces to versioned training data."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from sluice_api.v1alpha1.common import (
    AGE,
    MESSAGE,
    REASON,
    ApiModel,
    BaseStatus,
    CrdNames,
    DigestString,
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


class TraceSource(ApiModel):
    """Which traces."""

    uri: StorageUri
    """Prefix that holds `<tenant>/<run_id>.json`, as the trace exporter writes them."""
    tenants: list[ShortText] = Field(default_factory=list, max_length=256)
    """Only these tenants; empty means all. Runs without a tenant are in `__shared__`."""
    variants: list[Literal["baseline", "candidate", "__unassigned__"]] = Field(default_factory=list, max_length=3)
    """Only runs served by these arms; empty means all."""
    since: Timestamp | None = None
    """Only runs that started at or after this instant."""


class LabelOptions(ApiModel):
    """Which judged steps become rows."""

    keep: list[Literal["positive", "negative", "neutral"]] = Field(default=["positive"], min_length=1, max_length=3)
    """Labels to keep. Supervised training refuses anything but `positive`."""


class Screen(ApiModel):
    """Screen that coordinates refer to."""

    width: int = Field(default=1280, ge=1, le=16384)
    """Pixels."""
    height: int = Field(default=720, ge=1, le=16384)
    """Pixels."""


class ConvertOptions(ApiModel):
    """How a labelled step becomes a row."""

    format: Literal["sft", "preference"] = "sft"
    """`sft`: one answer a row; `preference`: chosen and rejected answer, for DPO."""
    screen: Screen = Screen()
    """Screen size named in the prompt."""
    require_screenshot: bool = True
    """Drop steps whose screenshot is missing; false for text-only agents."""


class SplitOptions(ApiModel):
    """What is held out of training, for ever, in this lineage."""

    holdout: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of the runs."""
    by: Literal["time", "group"] = "time"
    """`time`: the newest runs; `group`: whole tenants. Never single rows."""


class ReviewOptions(ApiModel):
    """Whether a person must have approved a trace."""

    required: bool = False
    """Use only traces whose `review_status` is `approved`."""


class DatasetOutput(ApiModel):
    """Where versions are published."""

    uri: StorageUri
    """Each version lies below it, immutable, as `<sha256>/`."""


class OnNewVersion(ApiModel):
    """Closes the loop: templates of the later kinds, created once for each new version, named by its digest."""

    min_new_rows: int = Field(default=1, ge=1)
    """Rows that the previous version had not, below which nothing is created."""
    fine_tune_run: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Spec of the FineTuneRun; `datasetRef` is filled in."""
    eval_run: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Spec of the EvalRun; `candidate` is filled in."""
    promotion_scorecard: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Spec of the PromotionScorecard; `candidate` and `evalRunRef` are filled in."""
    shadow_rollout: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    """Spec of the ShadowRollout; `candidate` and `scorecardRef` are filled in."""


class TraceDatasetSpec(ApiModel):
    """What to build."""

    source: TraceSource
    """Which traces."""
    schedule: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Cron expression, UTC. Without one a version is built on each spec change and on the refresh annotation."""
    label: LabelOptions = LabelOptions()
    """Which judged steps become rows."""
    convert: ConvertOptions = ConvertOptions()
    """How a labelled step becomes a row."""
    split: SplitOptions = SplitOptions()
    """What is held out."""
    review: ReviewOptions = ReviewOptions()
    """Whether a person must have approved a trace."""
    output: DatasetOutput
    """Where versions are published."""
    profile: ObjectName = "cpu"
    """Compute profile, from the operator's ConfigMap."""
    history_limit: int = Field(default=10, ge=1, le=50)
    """Versions kept in status; published data is never deleted."""
    on_new_version: OnNewVersion | None = None
    """What a new version sets in motion."""
    suspend: bool = False
    """Build nothing while true; a running build is stopped."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "self.convert.format != 'sft' || self.label.keep == ['positive']",
                "spec.label.keep must be [positive] where spec.convert.format is sft: other labels must not be taught",
            ),
        )
    }


class DatasetVersion(StatusModel):
    """One published version."""

    digest: DigestString
    """Digest of its manifest."""
    uri: Annotated[str, StringConstraints(max_length=1100)]
    """Its prefix."""
    rows: int
    """Rows to train on."""
    holdout_rows: int = 0
    """Rows held out."""
    new_rows: int = 0
    """Rows that the version before had not."""
    traces: int = 0
    """Traces used."""
    bad_files: int = 0
    """Trace files that could not be read."""
    labels: dict[str, int] = Field(default_factory=dict, max_length=8)
    """Steps by label."""
    created_at: Timestamp
    """When it was published."""


class TraceDatasetStatus(BaseStatus):
    """What was built."""

    latest: DatasetVersion | None = None
    """The newest version."""
    versions: list[DatasetVersion] = Field(default_factory=list, max_length=50)
    """The newest versions, oldest first."""
    next_refresh: Timestamp | None = None
    """When the schedule asks for the next build."""
    lineages: list[DigestString] = Field(default_factory=list, max_length=50)
    """Versions for which `onNewVersion` has created its children."""


class TraceDataset(SluiceObject):
    """Turns production traces into versioned training data: labelled, converted, split, with every row's lineage."""

    crd: ClassVar[CrdNames] = CrdNames(
        kind="TraceDataset",
        plural="tracedatasets",
        short=("tds",),
        columns=(
            PrinterColumn(name="Phase", path=".status.phase"),
            REASON,
            PrinterColumn(name="Rows", path=".status.latest.rows", type="integer"),
            PrinterColumn(name="Holdout", path=".status.latest.holdoutRows", type="integer"),
            PrinterColumn(name="Digest", path=".status.latest.digest", wide=True),
            MESSAGE,
            AGE,
        ),
    )
    spec: TraceDatasetSpec
    """What to build."""
    status: TraceDatasetStatus = TraceDatasetStatus()
    """What was built."""
