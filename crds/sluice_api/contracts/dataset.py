"""Training data: rows and the manifest of a dataset version."""

from typing import Literal

from pydantic import Field

from sluice_api.contracts.base import Contract, Digest

TRAIN_FILE = "train.jsonl"
"""Rows to train on."""
HOLDOUT_FILE = "holdout.jsonl"
"""Rows kept out of training, for ever, in this lineage."""
RUNS_FILE = "runs.jsonl"
"""Lineage: a line for every run with its trace file, and whether its rows are trained on or held out."""


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
    """Screenshot that the `<image>` placeholder stands for, relative to the screenshots root."""
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


class DatasetManifest(Contract):
    """`manifest.json` of a dataset version; its digest is the dataset's digest."""

    schema_version: int = 1
    """Version of this document."""
    files: list[FileEntry]
    """Every file of the version."""
    format: Literal["sft", "preference"] = "sft"
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
    """Steps left out, by reason."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """Good traces left out, by reason."""
    redactions: dict[str, int] = Field(default_factory=dict)
    """Private texts that were replaced, by detector."""
    parent: Digest | None = None
    """Previous version of the same dataset."""
    code_version: str = ""
    """Version of Sluice that built it."""
