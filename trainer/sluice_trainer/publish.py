"""The adapter as an artifact: peft's format in safetensors, with a manifest that says where it comes from.

Nothing in it depends on time, place or the number of attempts, so a run that was killed and resumed publishes the same
digest as one that was not.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sluice_api.contracts.base import ArtifactRef, Contract, ModelRef
from sluice_api.contracts.dataset import FileEntry
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import publish
from sluice_trainer.checkpoint import ADAPTER_CONFIG_FILE, ADAPTER_FILE, save_tensors
from sluice_trainer.model import LoraSettings
from sluice_trainer.version import code_version

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files of the base that travel with the adapter, where they exist: servers read the chat template from them."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an adapter comes from."""

    base_model: ModelRef
    """Base weights, with their digest."""
    dataset: ArtifactRef
    """Data."""
    data_plan: str
    """Digest of the pack plan."""
    parent: ArtifactRef | None
    """Adapter that training continued from."""
    method: str
    """Training method."""
    lora: LoraSettings
    """Shape of the adapter."""
    targets: list[str]
    """Modules that carry it."""
    steps: int
    """Optimizer steps taken."""
    final_loss: float
    """Mean loss over the last steps."""
    metrics: Mapping[str, float]
    """Further figures that depend on data and settings alone."""


def publish_adapter(
    prefix: str, *, state: Mapping[str, torch.Tensor], config: bytes, base_folder: Path, provenance: Provenance
) -> ArtifactRef:
    """Publish an adapter below a prefix and return its reference.

    Args:
        prefix: where adapters lie side by side, by digest.
        state: the adapter's tensors under peft's names.
        config: `adapter_config.json`.
        base_folder: the base model's files.
        provenance: what the manifest says.

    Raises:
        ArtifactError: the storage failed.
        OSError: there is no room in the temporary folder.
    """

    def manifest(files: list[FileEntry]) -> Contract:
        return AdapterManifest(
            files=files,
            base_model=provenance.base_model,
            rank=provenance.lora.rank,
            alpha=provenance.lora.alpha,
            target_modules=provenance.targets,
            dataset=provenance.dataset,
            data_plan=provenance.data_plan,
            parent=provenance.parent,
            method=provenance.method,
            steps=provenance.steps,
            final_loss=provenance.final_loss,
            code_version=code_version(),
            metrics=dict(provenance.metrics),
        )

    with tempfile.TemporaryDirectory(prefix="sluice-adapter-") as scratch:
        weights = Path(scratch) / ADAPTER_FILE
        save_tensors({name: state[name] for name in sorted(state)}, weights)
        files: dict[str, Path | bytes] = {ADAPTER_CONFIG_FILE: config, ADAPTER_FILE: weights}
        files |= {name: base_folder / name for name in TOKENIZER_FILES if (base_folder / name).is_file()}
        return publish(prefix, files, manifest)
