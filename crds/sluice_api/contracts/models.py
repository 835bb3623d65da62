"""Adapters and the channels that name the one in service."""

from pydantic import Field

from sluice_api.contracts.base import ArtifactRef, Contract, Digest, ModelRef
from sluice_api.contracts.dataset import FileEntry


class AdapterManifest(Contract):
    """`manifest.json` of a trained adapter; its digest is the adapter's digest."""

    schema_version: int = 1
    """Version of this document."""
    files: list[FileEntry]
    """Every file of the adapter: `adapter_config.json`, `adapter_model.safetensors`, tokenizer files."""
    base_model: ModelRef
    """Base weights, with their digest."""
    rank: int
    """LoRA rank."""
    alpha: int
    """LoRA alpha."""
    target_modules: list[str]
    """Names of the modules that carry an adapter."""
    dataset: ArtifactRef
    """Data that it was trained on."""
    data_plan: Digest
    """Digest of the order in which rows were seen: a pure function of seed and data."""
    parent: ArtifactRef | None = None
    """Adapter that training continued from."""
    method: str = "sft"
    """Training method."""
    steps: int = 0
    """Optimizer steps taken."""
    final_loss: float | None = None
    """Mean loss per scored token over the last steps, in nats."""
    code_version: str = ""
    """Version of Sluice that trained it."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Further figures of the run."""


class Channel(Contract):
    """`channels/<name>.json`: a small pointer, changed by compare-and-set only."""

    schema_version: int = 1
    """Version of this document."""
    name: str
    """Name of the channel, e.g. `stable`."""
    digest: Digest
    """What the channel points to: an adapter's digest, or the base model's when `adapter` is absent."""
    base_model: ModelRef
    """Base weights to serve."""
    adapter: ArtifactRef | None = None
    """Adapter to serve on the base; None serves the base alone."""
    last_good: Digest | None = None
    """What it pointed to before."""
    changed_by: str = ""
    """Object that moved it: `namespace/name/uid` of a ShadowRollout, or `init`."""
    changed_at: str = ""
    """When, RFC 3339, UTC."""
