"""The job that turns traces into a dataset version, and what it came to."""

from typing import Literal

from pydantic import Field

from sluice_api.contracts.base import ArtifactRef, Contract, Digest
from sluice_api.contracts.jobs.base import JobBase


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
    """Run candidates' own tests, in a sandbox."""


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
