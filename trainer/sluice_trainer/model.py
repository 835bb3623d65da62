"""Base model and adapter: loading, adding or continuing a LoRA adapter, its tensors under peft's names."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.files import file_path
from sluice_artifacts.reporting import WorkerError
from sluice_trainer import attention
from sluice_trainer.bases import check_loaded, read_config, readable
from sluice_trainer.checkpoint import ADAPTER_FILE
from sluice_trainer.parameter_groups import EXPERTS, NORM, ROUTER, role_of
from sluice_trainer.vision import language_targets

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
    roles: frozenset[str] = frozenset()
    """Of norm, router and experts, which `all-linear` leaves alone, those that are trained as well."""

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
    read_config(folder, uri)
    with readable(uri, "no tokenizer that transformers can load: add tokenizer.json and tokenizer_config.json"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_base(folder: Path, uri: str, device: torch.device, *, hold: bool = False) -> Any:
    """The base model, frozen, with per-document attention; fp32 on a CPU, bf16 on an accelerator.

    With `hold` it stays on the CPU, to be moved to the device later.

    Raises:
        WorkerError: `UserError`, naming `uri`, when transformers cannot load a causal language model from the folder,
            or finds no value for some of its weights.
    """
    disable_progress_bar()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config = read_config(folder, uri)
    _refuse_quantised(config, uri)
    seeing = getattr(config, "vision_config", None) is not None
    with readable(uri, "transformers cannot load it as a causal language model"):
        model, report = (AutoModelForImageTextToText if seeing else AutoModelForCausalLM).from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention.IMPLEMENTATION,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            # So that weights of another shape are named like the missing ones.
            ignore_mismatched_sizes=True,
        )
    check_loaded(uri, report)
    model.config.use_cache = False
    model.requires_grad_(False)
    return model if hold else model.to(device)


def _refuse_quantised(config: Any, uri: str) -> None:
    """Weights in four or eight bits need kernels that not every profile has, and no FineTuneRun can ask for them.

    Raises:
        WorkerError: `UserError`, with the method.
    """
    quantised = getattr(config, "quantization_config", None)
    if quantised is None:
        return
    method = quantised.get("quant_method", "") if isinstance(quantised, dict) else quantised.quant_method
    message = (
        f"spec.baseModel {uri} is quantised ({getattr(method, 'value', method) or 'method unknown'}): training reads "
        "weights in bf16 or fp32, on CUDA and on ROCm; name the model without quantisation, and share it out over "
        "several workers where it does not fit (spec.strategy fsdp)"
    )
    raise WorkerError(FailureClass.USER_ERROR, message)


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
    targets = _targets(base, settings)
    whole, fused = extra_targets(base, settings.roles)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=whole or None,
        target_parameters=fused or None,
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


def _targets(base: Any, settings: LoraSettings) -> str | tuple[str, ...]:
    """The modules asked for, as peft is told of them; `all-linear` among names is every linear layer besides these.

    Raises:
        WorkerError: `UserError` for a name that no module has: peft passes over it where another name fits.
    """
    targets = settings.target_modules
    names = [each for each in ((targets,) if isinstance(targets, str) else targets) if each != ALL_LINEAR]
    seeing = getattr(base.config, "vision_config", None) is not None
    if not isinstance(targets, str):
        fits = partial(language_targets, base, everything=ALL_LINEAR) if seeing else partial(_adapted_names, base)
        if unknown := [each for each in names if not fits([each])]:
            message = (
                f"lora.targetModules: the base model has no module {', '.join(map(repr, unknown))} to adapt: correct "
                f"the name, or use all-linear; its linear layers are {', '.join(_linear_names(base))}"
            )
            raise WorkerError(FailureClass.USER_ERROR, message[:1000])
    if seeing:
        return tuple(language_targets(base, targets, ALL_LINEAR)) or targets
    if not isinstance(targets, str) and ALL_LINEAR in targets:
        targets = tuple(sorted({*_linear_names(base), *names})) if names else ALL_LINEAR
    if targets == ALL_LINEAR and any(role_of(name) == EXPERTS and p.ndim > 2 for name, p in base.named_parameters()):
        return _linear_names(base)
    return targets


def _adapted_names(base: Any, targets: str | Iterable[str]) -> set[str]:
    """Full names of the modules that targets mean, read as peft reads them."""
    if targets == ALL_LINEAR:
        targets = _linear_names(base)
    names = [name for name, _ in base.named_modules() if name]
    if isinstance(targets, str):
        return {name for name in names if re.fullmatch(targets, name)}
    ends = tuple(f".{target}" for target in targets)
    return {name for name in names if f".{name}".endswith(ends)}


def _linear_names(base: Any) -> tuple[str, ...]:
    """Every linear layer but the output head, by the last part of its name.

    peft reads `all-linear` of a mixture of experts as naming the experts too, which here are a matter of phases.
    """
    head = base.get_output_embeddings()
    linear = (
        name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    )
    return tuple(sorted({name.rpartition(".")[2] for name in linear}))


def extra_targets(base: Any, roles: frozenset[str]) -> tuple[list[str], list[str]]:
    """What else an adapter needs for some roles: modules trained whole, and parameters that get an update of low rank.

    Norms and routers are small and are trained whole (`modules_to_save`); experts that a model keeps as one tensor a
    layer get a low-rank update of that tensor (`target_parameters`). Experts that are linear layers are `all-linear`'s.

    Raises:
        WorkerError: `UserError` when the model has nothing in one of the roles.
    """
    whole: set[str] = set()
    fused: set[str] = set()
    linear: set[str] = set()
    for name, module in base.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            role = role_of(f"{name}.{own}")
            if role not in roles:
                continue
            if isinstance(module, torch.nn.Linear):
                linear.add(role)
            elif role in (NORM, ROUTER):
                whole.add(".".join(name.split(".")[-2:]) if role == ROUTER else name.rpartition(".")[2])
            elif parameter.ndim >= 2:
                fused.add(".".join([*name.split(".")[-2:], own]))
    found = linear | {role_of(each) for each in (*whole, *fused)}
    if missing := roles - found:
        message = f"phases train {', '.join(sorted(missing))}, of which the base model has none: name other groups"
        raise WorkerError(FailureClass.USER_ERROR, message)
    return sorted(whole), sorted(fused)


def continue_adapter(base: Any, folder: Path, settings: LoraSettings) -> PeftModel:
    """The base with a published adapter, to be trained on.

    Raises:
        WorkerError: `UserError` when its rank, alpha or modules are not those asked for.
    """
    config = LoraConfig.from_pretrained(str(folder))
    for name, found, wanted in (("rank", config.r, settings.rank), ("alpha", config.lora_alpha, settings.alpha)):
        if found != wanted:
            message = f"lora.{name} is {wanted}, the parent adapter's is {found}: set lora.{name} to {found}"
            raise WorkerError(FailureClass.USER_ERROR, message)
    if _adapted_names(base, config.target_modules or ()) != _adapted_names(base, _targets(base, settings)):
        asked, parents = (
            each if isinstance(each, str) else ", ".join(sorted(each or ()))
            for each in (settings.target_modules, config.target_modules)
        )
        message = (
            f"lora.targetModules is {asked}, the parent adapter's modules are others: "
            f"set lora.targetModules to {parents}"
        )
        raise WorkerError(FailureClass.USER_ERROR, message[:1000])
    whole, fused = extra_targets(base, settings.roles)
    lacking = (set(whole) - set(config.modules_to_save or ())) | (set(fused) - set(config.target_parameters or ()))
    if lacking:
        names = ", ".join(sorted(lacking))
        message = f"phases train {names}, which the parent adapter does not have: leave parentRef out"
        raise WorkerError(FailureClass.USER_ERROR, message)
    config.lora_dropout = settings.dropout
    config.inference_mode = False
    with _quiet():
        return PeftModel.from_pretrained(base, str(folder), is_trainable=True, config=config).train()


def hold_masters(model: Any) -> Any:
    """Hold everything trained in fp32 where the base is narrower; returns the model.

    peft does so for low-rank updates, and leaves modules that are trained whole as the base has them: in bf16 a step of
    2e-5 on a weight near 1 is rounded away. Their parameters become fp32, which the optimizer changes, checkpoints keep
    and the adapter's file holds; their forward computes with a copy in the base's type, as a server does.
    """
    for module in model.modules():
        narrow = {
            name: parameter
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype.itemsize < 4
        }
        for name, parameter in narrow.items():
            module.register_parameter(name, torch.nn.Parameter(parameter.detach().float()))
        if narrow:
            dtypes = {name: parameter.dtype for name, parameter in narrow.items()}
            module.forward = partial(_forward_narrow, module, module.forward, dtypes)
    return model


def read_again(model: PeftModel, folder: Path) -> PeftModel:
    """Give an adapter the values of its file once more, now that its masters can hold them; returns the model."""
    set_peft_model_state_dict(model, load_file(folder / ADAPTER_FILE))
    return model


def _forward_narrow(
    module: torch.nn.Module, forward: Callable[..., Any], dtypes: Mapping[str, torch.dtype], *args: Any, **kwargs: Any
) -> Any:
    """A module's forward with copies of its parameters in the types given; gradients reach the parameters."""
    masters = {name: module._parameters[name] for name in dtypes}
    try:
        for name, master in masters.items():
            assert master is not None
            module._parameters[name] = master.to(dtypes[name])  # type: ignore[assignment]
        return forward(*args, **kwargs)
    finally:
        module._parameters.update(masters)


def recompute_activations(model: Any) -> None:
    """Have every layer keep only its input, and compute the rest again in the backward pass."""
    model.get_base_model().activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Parameters that training changes, by the model's own names, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that peft and vLLM read, copied to the CPU."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(state.items())}


def target_names(model: PeftModel) -> list[str]:
    """Names of the modules that carry an adapter, sorted: last parts where these say it all, else full names."""
    modules = [
        name
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper)
    ]
    short = {name.rpartition(".")[2] for name in modules}
    others = (name for name, _ in model.get_base_model().named_modules() if name not in set(modules))
    ambiguous = any(name.rpartition(".")[2] in short for name in others)
    return sorted(modules if ambiguous else short)


def trained_names(model: PeftModel) -> list[str]:
    """Everything that the adapter changes: modules with an update, modules trained whole, parameters with an update."""
    config = model.peft_config["default"]
    return [*target_names(model), *sorted(config.modules_to_save or ()), *sorted(config.target_parameters or ())]


def adapter_config(model: PeftModel, base: ModelRef) -> bytes:
    """`adapter_config.json`, as peft reads it; the same bytes for the same adapter of the same base.

    It names the base as peft's and transformers' loaders take it: `owner/name` of the hub, or a folder; of `s3://` the
    URI, which they cannot load.
    """
    document = model.peft_config["default"].to_dict()
    name = str(file_path(base.uri)) if base.uri.startswith("file://") else base.uri.removeprefix("hf://")
    document |= {"base_model_name_or_path": name, "revision": base.revision or None, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in document.items()}
    plain["target_modules"] = target_names(model)
    return (json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n").encode()
