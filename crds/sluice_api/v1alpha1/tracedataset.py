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
    SuiteUri,
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
    """Only runs served by these arms; empty means all. Mirrored requests never count."""
    since: Timestamp | None = None
    """Only runs that started at or after this instant."""


class LabelOptions(ApiModel):
    """Which judged steps become rows."""

    keep: list[Literal["positive", "negative", "neutral"]] = Field(default=["positive"], min_length=1, max_length=3)
    """Labels to keep. Supervised training refuses anything but `positive`."""


DetectorName = Literal["privateKey", "secret", "email", "iban", "card", "phone", "ip", "highEntropy"]
"""What privacy can look for."""
_LIST_MAP: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class PrivacyPattern(ApiModel):
    """One regular expression of the user's own."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-zA-Z0-9]*$", max_length=32)]
    """Its name in counts and placeholders: `badge` becomes `[BADGE_1]`."""
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    """The expression, in Python's syntax; it must not match the empty text."""


class PrivacyOptions(ApiModel):
    """What is looked for in every text before a row leaves the worker, and what happens to it."""

    detectors: list[DetectorName] = Field(
        default=["privateKey", "secret", "email", "iban", "card", "phone", "ip", "highEntropy"], max_length=8
    )
    """Detectors; an empty list looks only for the patterns."""
    on_finding: Literal["redact", "quarantine"] = "redact"
    """`redact`: a placeholder takes the text's place, the same for the same text of a run; `quarantine`: the step
    becomes no row."""
    patterns: list[PrivacyPattern] = Field(default_factory=list, max_length=32, json_schema_extra=_LIST_MAP)
    """Further expressions; each match is a finding."""


class CriticOptions(ApiModel):
    """Which generated candidates of the mixture's buckets are good enough to learn from."""

    languages: list[Literal["python", "typescript"]] = Field(default=["python", "typescript"], max_length=2)
    """Programming languages that are parsed; code in others has no executed check, and so is not accepted."""
    require_accepted: bool = True
    """Leave out what the critic does not accept; false keeps it and only counts."""
    run_tests: bool = False
    """Run the candidates' own Python tests, in a sandbox without network, files and processes; a node whose kernel
    cannot fence code fails the build."""


class BucketSource(ApiModel):
    """Where a bucket's rows come from."""

    uri: StorageUri
    """Prefix of JSONL files, a candidate a line."""


class Bucket(ApiModel):
    """One source of rows."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """Its name in plan, counts and messages."""
    weight: float = Field(gt=0, le=1_000_000)
    """Its share, relative to the other weights."""
    source: BucketSource | None = None
    """Where its rows come from; absent in the one bucket that stands for the rows of the traces."""


class TagWeight(ApiModel):
    """How often rows with a tag are used."""

    name: ShortText
    """The tag."""
    weight: float = Field(ge=0, le=1)
    """Below 1 makes them rarer, 0 leaves them out."""


class MixtureOptions(ApiModel):
    """How the rows to train on are mixed: integer quotas by weight, repeats within bounds."""

    rows: int = Field(ge=1, le=5_000_000)
    """Rows in all."""
    max_repeats: int = Field(default=4, ge=1, le=100)
    """Times that a row may be used, at most."""
    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    """Seed of ties and of the order."""
    tag_weights: list[TagWeight] = Field(default_factory=list, max_length=64, json_schema_extra=_LIST_MAP)
    """Tags whose rows are used less."""
    buckets: list[Bucket] = Field(min_length=1, max_length=32, json_schema_extra=_LIST_MAP)
    """The sources; an empty one is an error."""

    model_config = ApiModel.model_config | {
        "json_schema_extra": validations(
            rule(
                "self.buckets.filter(b, !has(b.source)).size() <= 1",
                "spec.mixture.buckets: only one bucket may have no source, it stands for the rows of the traces",
            ),
        )
    }


class DeduplicationOptions(ApiModel):
    """Which rows are removed because another says the same. What is held out stays and what is trained on goes, unless
    an earlier version has trained on it."""

    exact: bool = True
    """Remove rows that say the same, to the letter."""
    near: bool = False
    """Remove rows that say nearly the same. Pages of one site resemble each other: look at the counts."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of the rows' shingles from which they say nearly the same."""
    shingle_words: int = Field(default=3, ge=1, le=5)
    """Words a shingle."""


class SuiteSource(ApiModel):
    """One evaluation suite."""

    uri: SuiteUri
    """JSON file of tasks, `.jsonl` file of HumanEval or MBPP rows, or built-in suite such as `builtin:smoke-8`."""


class LeakOptions(ApiModel):
    """Evaluation suites whose tasks must not be in the rows: a row that holds one is removed and counted."""

    suites: list[SuiteSource] = Field(default_factory=list, max_length=32)
    """The suites; the one of `onNewVersion.evalRun` is looked for in any case."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Share of a task's shingles in a row that makes a leak."""
    shingle_words: int = Field(default=3, ge=1, le=5)
    """Words a shingle."""


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
    """Rows that came with versions since children were last created, below which none are created."""
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
    privacy: PrivacyOptions = PrivacyOptions()
    """What is looked for in every text before a row leaves the worker."""
    critic: CriticOptions | None = None
    """Judges the candidates of the mixture's buckets; absent takes every well-formed row of them."""
    convert: ConvertOptions = ConvertOptions()
    """How a labelled step becomes a row."""
    mixture: MixtureOptions | None = None
    """How the rows to train on are mixed; absent takes the rows of the traces as they are."""
    deduplication: DeduplicationOptions = DeduplicationOptions()
    """Which rows are removed because another says the same."""
    leaks: LeakOptions = LeakOptions()
    """Evaluation suites whose tasks must not be in the rows."""
    split: SplitOptions = SplitOptions()
    """What is held out."""
    review: ReviewOptions = ReviewOptions()
    """Whether a person must have approved a trace."""
    append: bool = False
    """Keep the rows of the version before whose traces are gone from the source, so that the set stands while traces
    expire. What was forgotten does not stay."""
    max_bad_fraction: float = Field(default=1.0, ge=0, le=1)
    """More trace files than this share that cannot be used fail the build. They are counted and named in any case."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that read, judge and convert; more than one are tasks of Ray Data. The digest is the same."""
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
            rule(
                "!has(self.mixture) || self.convert.format == 'sft'",
                "spec.mixture mixes supervised rows: spec.convert.format must be sft",
            ),
            rule(
                "!has(self.mixture) || !self.append",
                "spec.append keeps rows as they were, which spec.mixture does not have: remove one of them",
            ),
            rule(
                "!has(self.critic) || has(self.mixture)",
                "spec.critic judges the candidates of spec.mixture.buckets: give a mixture, or remove the critic",
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
    reasons: dict[str, int] = Field(default_factory=dict, max_length=16)
    """Steps by ladder rule."""
    redactions: dict[str, int] = Field(default_factory=dict, max_length=64)
    """Private texts that were found, by detector; never the texts."""
    quarantined: int = 0
    """Steps and traces that privacy kept back whole."""
    duplicates: dict[str, int] = Field(default_factory=dict, max_length=8)
    """Rows removed because another says the same, by kind."""
    leaks: int = 0
    """Rows removed because they hold a task of an evaluation suite."""
    bad_reasons: dict[str, int] = Field(default_factory=dict, max_length=32)
    """Trace files that could not be read, by reason."""
    tenants: dict[str, int] = Field(default_factory=dict, max_length=33)
    """Rows to train on of the largest tenants, the others under `__others__`."""
    buckets: dict[str, int] = Field(default_factory=dict, max_length=32)
    """Rows to train on by bucket of the mixture."""
    screens: int = 0
    """Different screenshots that rows refer to."""
    kept_rows: int = 0
    """Rows of the version before whose traces are gone."""
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
    """Versions that `onNewVersion` is done with: its children were created, or there was too little new."""
    pending_new_rows: int = 0
    """Rows that came with versions since `onNewVersion` last created children."""


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
