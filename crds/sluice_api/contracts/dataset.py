"""Training data: rows and the manifest of a dataset version."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from sluice_api.contracts.base import Contract, Digest

RowFormat = Literal["sft", "preference"]
"""Shape of the rows."""
TRAIN_PART = "train"
"""Rows to train on."""
HOLDOUT_PART = "holdout"
"""Rows kept out of training, for ever, in this lineage."""
SHARD_SUFFIX = ".parquet"
"""Ending of a shard; the shards of a part are `<part>-00000.parquet` and so on."""
TRAIN_FILE = "train.jsonl"
"""Rows to train on that somebody wrote by hand: the whole part as lines of JSON, instead of shards."""
RUNS_FILE = "runs.parquet"
"""Lineage: a row for every run with its trace file, and whether its rows are trained on or held out."""
REPORT_FILE = "report.json"
"""What the build met: every count, and the first of the files that it could not use."""
BAD_FILES_FILE = "bad-files.jsonl"
"""Every file that the build could not use, a line each with path, reason and detail; never a trace's text."""
MIXTURE_FILE = "mixture.json"
"""Plan of the mixture; only in versions that are mixed."""
SCREENS_FOLDER = "_screens"
"""Screenshots of all versions of a dataset, beside the versions, each named by the SHA-256 of its bytes."""


def part_files(files: Iterable["FileEntry"], part: str) -> list["FileEntry"]:
    """Return the files that hold the rows of a part, in the order of the rows: its shards, or `<part>.jsonl`."""
    shards = (e for e in files if e.path.startswith(f"{part}-") and e.path.endswith(SHARD_SUFFIX))
    found = sorted(shards, key=lambda entry: entry.path)
    return found or [entry for entry in files if entry.path == f"{part}.jsonl"]


class Turn(Contract):
    """One turn of a conversation in the seed's chat shape."""

    role: Literal["system", "human", "gpt"] = Field(alias="from")
    """Who speaks; `from` on disk."""
    value: str
    """What is said."""


class RowMetadata(Contract):
    """Where a row came from."""

    source: str = "labelled_trace"
    """Producer of the row."""
    run_id: str = ""
    """Run of the step."""
    tenant_id: str = ""
    """Tenant of the run."""
    step: int = 0
    """Index of the step in its run."""
    label: str = ""
    """Label of the step; the trainer refuses anything but `positive` for SFT."""
    label_reason: str = ""
    """Ladder rule behind the label."""
    action_type: str = ""
    """Action that the row teaches."""


class SftRow(Contract):
    """One supervised example: the assistant's turn is what is learnt."""

    conversations: list[Turn]
    """System, human and gpt turn."""
    image: str | None = None
    """Screenshot that the `<image>` placeholder stands for, relative to the screenshots root: `_screens/` beside a
    version, where its name is the SHA-256 of its bytes."""
    metadata: RowMetadata = Field(default_factory=RowMetadata)
    """Lineage of the row."""


class PreferenceRow(Contract):
    """One preference pair for DPO."""

    prompt: list[Turn]
    """Turns before the answer."""
    chosen: str
    """The preferred answer."""
    rejected: str
    """The answer it is preferred to."""
    image: str | None = None
    """Screenshot of the state, as in `SftRow`."""
    metadata: RowMetadata = Field(default_factory=RowMetadata)
    """Lineage of the pair."""


class FileEntry(Contract):
    """One file of an immutable artifact."""

    path: str
    """Path below the artifact's prefix."""
    sha256: str
    """SHA-256 of the bytes, hexadecimal."""
    size: int
    """Bytes."""


class BucketCounts(Contract):
    """What one bucket gave to a mixture."""

    rows: int = 0
    """Rows of the mixture that come from it, repeats included."""
    used_rows: int = 0
    """Different rows among them."""
    candidates: int = 0
    """Lines that its source held."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Candidates left out, by the critic's reason."""
    bad_rows: dict[str, int] = Field(default_factory=dict)
    """Lines that are no candidates, by reason."""


class ScreenCounts(Contract):
    """Screenshots of a version."""

    files: int = 0
    """Different screenshots that rows refer to."""
    bytes: int = 0
    """Their size in all."""
    bad: dict[str, int] = Field(default_factory=dict)
    """Screenshots that could not be used, by reason; their steps count as steps without one."""


class DatasetManifest(Contract):
    """`manifest.json` of a dataset version; its digest is the dataset's digest."""

    schema_version: int = 2
    """Version of this document; 2 brought Parquet shards."""
    files: list[FileEntry]
    """Every file of the version."""
    format: RowFormat = "sft"
    """Shape of the rows."""
    rows: int
    """Rows to train on."""
    holdout_rows: int
    """Rows held out."""
    traces: int = 0
    """Trace files used."""
    labels: dict[str, int] = Field(default_factory=dict)
    """Steps by label."""
    label_reasons: dict[str, int] = Field(default_factory=dict)
    """Steps by ladder rule."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Steps left out, by reason; `private` counts those that privacy kept back."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Good traces left out, by reason."""
    bad_files: dict[str, int] = Field(default_factory=dict)
    """Trace files that could not be used, by reason; named in `bad-files.jsonl`."""
    redactions: dict[str, int] = Field(default_factory=dict)
    """Private texts that were replaced, by detector."""
    duplicates: dict[str, int] = Field(default_factory=dict)
    """Rows removed because another says the same, by kind."""
    leaks: int = 0
    """Rows removed because they hold a task of an evaluation suite."""
    tenants: dict[str, int] = Field(default_factory=dict)
    """Rows to train on by tenant, `__shared__` for runs without one; all but the largest under `__others__`."""
    buckets: dict[str, BucketCounts] = Field(default_factory=dict)
    """What each bucket gave, where rows are mixed."""
    screens: ScreenCounts = ScreenCounts()
    """Screenshots that rows refer to; they lie in `../_screens/`."""
    kept_rows: int = 0
    """Rows of the previous version whose traces are gone, kept as they were; counts of steps do not have them."""
    parent: Digest | None = None
    """Previous version of the same dataset."""
    code_version: str = ""
    """Version of Sluice that built it."""
    writer: str = ""
    """Library and version that wrote the shards: another one may write other bytes for the same rows."""
