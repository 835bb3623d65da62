"""Text generation with a causal model and LoRA adapters that come and go: batched, with a key-value cache.

The engine is synchronous and owned by one thread; `sluice_runtime.server` puts a queue before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice_api.chat import end_tokens, pinned_template
from sluice_runtime.errors import AdapterError, ModelLoadError

BASE = "base"
"""Name of the base model among the models that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One answer wanted."""

    messages: Sequence[dict[str, str]]
    """Chat messages, `role` and `content`."""
    max_tokens: int = 128
    """Tokens of the answer at most."""
    temperature: float = 0.0
    """0 takes the likeliest token every time; above, tokens are drawn."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature <= 10:
            raise ValueError(f"temperature must be within 0 and 10, got {self.temperature}")
        if not self.messages:
            raise ValueError("messages must not be empty")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    """Tokens of the answer, the end token included."""
    finish_reason: str
    """`stop` when the model ended the answer, `length` when the limit did."""


@dataclass
class _Batch:
    """State of the rows that still generate."""

    answers: list[list[int]] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)


class TextEngine:
    """A base model from a folder, and adapters by name.

    Args:
        directory: transformers folder with safetensors weights and a tokenizer with a chat template.
        threads: torch threads; None leaves torch's choice.

    Raises:
        ModelLoadError: the folder is no such model.
    """

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                directory, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelLoadError(f"{directory}: not a model that transformers can load: {error}") from error
        if self._tokenizer.chat_template is None:
            raise ModelLoadError(f"{directory}: the tokenizer has no chat template; add chat_template.jinja")
        self._torch = torch
        self._model.eval()
        self._adapters: dict[str, str] = {}
        self._active: str | None = None
        pad = self._tokenizer.pad_token_id
        self._end = self._end_tokens()
        self._pad = pad if pad is not None else self._end[0]

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are loaded."""
        return sorted(self._adapters)

    def load_adapter(self, name: str, directory: Path) -> None:
        """Loads a LoRA adapter in peft's format; a name that is loaded already keeps its weights.

        Raises:
            AdapterError: the folder is no adapter, or does not fit the base model.
        """
        if name in self._adapters:
            return
        # Module names must not contain dots, and a name may be any string.
        inner = "adapter_" + "".join(c if c.isalnum() else "_" for c in name)
        try:
            self._attach(inner, directory)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise AdapterError(f"adapter {name}: does not load on this base model: {error}") from error
        self._adapters[name] = inner
        self._active = None

    def _attach(self, inner: str, directory: Path) -> None:
        import warnings

        from peft import PeftModel

        with warnings.catch_warnings():
            # peft warns about keys it misses and goes on with random weights: that must end the load.
            # peft still asks transformers for a property under its old name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            warnings.filterwarnings("error", message=".*missing adapter keys.*", category=UserWarning)
            try:
                if isinstance(self._model, PeftModel):
                    self._model.load_adapter(str(directory), adapter_name=inner, is_trainable=False)
                else:
                    self._model = PeftModel.from_pretrained(self._model, str(directory), adapter_name=inner)
            except UserWarning as warning:
                raise ValueError(str(warning)) from warning
        self._model.eval()

    def unload_adapter(self, name: str) -> bool:
        """Drops an adapter; False when it was not loaded."""
        inner = self._adapters.pop(name, None)
        if inner is None:
            return False
        if self._adapters:
            self._model.delete_adapter(inner)
        else:
            self._model = self._model.unload()
        self._active = None
        return True

    def generate(self, model: str, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Answers of one model to a batch of requests, in their order.

        Raises:
            AdapterError: the model is neither `base` nor a loaded adapter.
        """
        from contextlib import nullcontext

        if model != BASE and model not in self._adapters:
            raise AdapterError(f"model {model!r} is not loaded; known: {[BASE, *self.adapters]}")
        prompts = [self._encode(request) for request in requests]
        if model != BASE and self._active != model:
            self._model.set_adapter(self._adapters[model])
            self._active = model
        without = self._model.disable_adapter() if model == BASE and self._adapters else nullcontext()
        with self._torch.inference_mode(), without:
            batch = self._decode(prompts, requests)
        return [
            Generation(
                text=self._tokenizer.decode(answer, skip_special_tokens=True),
                prompt_tokens=len(prompt),
                completion_tokens=len(answer),
                finish_reason="stop" if stopped else "length",
            )
            for prompt, answer, stopped in zip(prompts, batch.answers, batch.stopped, strict=True)
        ]

    def _encode(self, request: GenerationRequest) -> list[int]:
        template = pinned_template(self._tokenizer.get_chat_template())
        text = self._tokenizer.apply_chat_template(
            list(request.messages), chat_template=template, add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) + request.max_tokens > limit:
            raise ValueError(f"prompt of {len(ids)} tokens and max_tokens {request.max_tokens} exceed {limit}")
        return ids

    def _decode(self, prompts: list[list[int]], requests: Sequence[GenerationRequest]) -> _Batch:
        """The decoding loop: one forward pass over the prompts, then one a token for the rows that still run."""
        torch = self._torch
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        batch = _Batch(answers=[[] for _ in prompts], stopped=[False for _ in prompts])
        cache = None
        for _ in range(max(request.max_tokens for request in requests)):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            tokens = self._pick(output.logits[:, -1], requests, generators)
            if self._record(tokens, requests, batch):
                break
            ids = torch.tensor(tokens)[:, None]
            mask = torch.cat([mask, mask.new_ones((len(prompts), 1))], dim=1)
            positions = positions[:, -1:] + 1
        return batch

    def _pick(self, logits: Any, requests: Sequence[GenerationRequest], generators: list[Any]) -> list[int]:
        """The next token of every row."""
        tokens: list[int] = logits.argmax(-1).tolist()
        for row, request in enumerate(requests):
            if request.temperature > 0:
                shares = (logits[row] / request.temperature).softmax(-1)
                tokens[row] = int(self._torch.multinomial(shares, 1, generator=generators[row]))
        return tokens

    def _record(self, tokens: list[int], requests: Sequence[GenerationRequest], batch: _Batch) -> bool:
        """Appends the tokens to the answers that still run; True once none does."""
        running = False
        for row, token in enumerate(tokens):
            answer = batch.answers[row]
            if batch.stopped[row] or len(answer) >= requests[row].max_tokens:
                continue
            answer.append(token)
            batch.stopped[row] = token in self._end
            running = running or (not batch.stopped[row] and len(answer) < requests[row].max_tokens)
        return not running

    def _end_tokens(self) -> list[int]:
        ends = end_tokens(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        if not ends:
            raise ModelLoadError("the model names no end token; set eos_token_id in its generation configuration")
        return ends
