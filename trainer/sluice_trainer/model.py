"""Base model and adapter: loading, adding or continuing a LoRA adapter, its tensors under peft's names."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import attention

ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the output head."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Shape of the adapter."""

    rank: int
    """Rank of the update."""
    alpha: int
    """Numerator of the update's factor `alpha / rank`."""
    dropout: float = 0.0
    """Dropout before the update."""
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    """Modules that get an adapter: names, or `all-linear`."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora_rank is {self.rank}: it must be at least 1")
        if self.alpha < 1:
            raise ValueError(f"lora_alpha is {self.alpha}: it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora_dropout is {self.dropout}: it must be at least 0 and below 1")
        if not self.target_modules:
            raise ValueError("target_modules is empty: name modules, or use all-linear")


def load_tokenizer(folder: Path, uri: str) -> Any:
    """The tokenizer of a base model.

    Raises:
        WorkerError: `UserError`, naming `uri`, when there is none that transformers can read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        message = f"{uri}: no tokenizer that transformers can load: add tokenizer.json and tokenizer_config.json"
        raise WorkerError(FailureClass.USER_ERROR, message) from error


def load_base(folder: Path, uri: str, device: torch.device) -> Any:
    """The base model, frozen, with per-document attention; fp32 on a CPU, bf16 on an accelerator.

    Raises:
        WorkerError: `UserError`, naming `uri`, when transformers cannot load a causal language model from the folder.
    """
    disable_progress_bar()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention.IMPLEMENTATION,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        message = f"{uri}: transformers cannot load it as a causal language model ({type(error).__name__}): {error}"
        raise WorkerError(FailureClass.USER_ERROR, message[:1000]) from error
    model.config.use_cache = False
    return model.requires_grad_(False).to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for an attribute under its former name, which warns; nothing follows from it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def add_adapter(base: Any, settings: LoraSettings, seed: int) -> PeftModel:
    """The base with a fresh adapter, initialised from `seed`: the same on every worker.

    Raises:
        WorkerError: `UserError` when no module has the names asked for.
    """
    targets = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with _quiet():
            return get_peft_model(base, config).train()
    except ValueError as error:
        message = f"lora.targetModules {targets!r} does not fit the base model: {error}"
        raise WorkerError(FailureClass.USER_ERROR, message[:1000]) from error


def continue_adapter(base: Any, folder: Path, settings: LoraSettings) -> PeftModel:
    """The base with a published adapter, to be trained on.

    Raises:
        WorkerError: `UserError` when its rank or alpha is not the one asked for.
    """
    config = LoraConfig.from_pretrained(str(folder))
    for name, found, wanted in (("rank", config.r, settings.rank), ("alpha", config.lora_alpha, settings.alpha)):
        if found != wanted:
            message = f"lora.{name} is {wanted}, the parent adapter's is {found}: set lora.{name} to {found}"
            raise WorkerError(FailureClass.USER_ERROR, message)
    config.lora_dropout = settings.dropout
    config.inference_mode = False
    with _quiet():
        return PeftModel.from_pretrained(base, str(folder), is_trainable=True, config=config).train()


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters that training changes, by the model's own names, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that peft and vLLM read, copied to the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(state.items())}


def target_names(model: PeftModel) -> list[str]:
    """Names of the modules that carry an adapter, sorted: last parts where these say it all, else full names."""
    modules = [name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)]
    short = {name.rpartition(".")[2] for name in modules}
    others = (name for name, _ in model.get_base_model().named_modules() if name not in set(modules))
    ambiguous = any(name.rpartition(".")[2] in short for name in others)
    return sorted(modules if ambiguous else short)


def adapter_config(model: PeftModel, base: ModelRef) -> bytes:
    """`adapter_config.json`, as peft reads it; the same bytes for the same adapter, and no path of this machine."""
    document = model.peft_config["default"].to_dict()
    document |= {"base_model_name_or_path": base.uri, "revision": base.revision or None, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in document.items()}
    plain["target_modules"] = target_names(model)
    return (json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n").encode()
