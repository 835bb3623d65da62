"""A shop model for tests: the storefront's tokenizer and architecture, hardly trained, and random LoRA adapters."""

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import digest_tree, publish
from storefront.base_model import BaseRecipe, save, train_base

RECIPE = BaseRecipe(width=32, layers=2, heads=2, tasks=60, steps=4, batch=8, threads=1)
"""Small and hardly trained: answers are nonsense, but always the same nonsense."""


def make_base(folder: Path) -> Path:
    """Trains the model of `RECIPE` for its few steps and saves it."""
    model, tokenizer = train_base(RECIPE)
    save(model, tokenizer, folder)
    return folder


def publish_adapter(base: Path, root: Path, *, seed: int, base_digest: str | None = None) -> ArtifactRef:
    """Publishes a random LoRA adapter of the base: large enough to change answers."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    folder = root / f"adapter-{seed}"
    model.save_pretrained(folder)
    reference = ModelRef(uri=base.as_uri(), digest=base_digest or digest_tree(base))
    files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")}
    return publish(
        (root / "adapters").as_uri(),
        files,
        lambda entries: AdapterManifest(
            files=entries,
            base_model=reference,
            rank=4,
            alpha=8,
            target_modules=["all-linear"],
            dataset=ArtifactRef(uri=(root / "data").as_uri(), digest="sha256:" + "0" * 64),
            data_plan="sha256:" + "0" * 64,
        ),
    )
