"""The model that is being trained, as something that answers: what a probe evaluates.

Answers are those of the model server: the same chat template, greedy, up to one of the same end tokens. The weights are
not copied; training waits meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from sluice_api.chat import end_tokens
from sluice_api.contracts.jobs import ProbePlan, ProbeResult
from sluice_trainer.tokenise import render

BATCH = 16
"""Prompts that are answered together."""
SERVING_ATTENTION = "sdpa"
"""Attention that knows about caches and padding, which packed training has no use for."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question."""

    text: str
    """The user's turn."""
    max_tokens: int
    """Longest answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said."""

    text: str
    """Without special tokens."""
    stopped: bool
    """Whether it ended by itself."""


class Answers(Protocol):
    """Something that answers prompts."""

    def __call__(self, prompts: Sequence[Prompt], /) -> list[Answer]:
        """One answer a prompt, in order."""
        ...


class Prober(Protocol):
    """Runs a suite on answers; the evaluator is one. Passed between processes by name, so a function of a module."""

    def __call__(self, plan: ProbePlan, answers: Answers, step: int, output_uri: str, /) -> ProbeResult:
        """Judge the suite; keeps the report below `output_uri`.

        Raises:
            WorkerError: the suite cannot be read or run at all.
        """
        ...


class LiveModel:
    """Answers with the weights as they are at the moment."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        answered: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Wrap a transformers model with its tokenizer; `answered` is told how many prompts of how many are done."""
        self._answered = answered
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        configured = getattr(_base_of(model), "generation_config", None)
        self._ends = end_tokens(getattr(configured, "eos_token_id", None), tokenizer.eos_token_id)

    def __call__(self, prompts: Sequence[Prompt], /) -> list[Answer]:
        """One answer a prompt, in order."""
        token_ids = [self._prompt_ids(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: (prompts[index].max_tokens, len(token_ids[index])))
        answers: dict[int, Answer] = {}
        with _serving(self._model, self._ends), torch.no_grad():
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                found = self._generate([token_ids[index] for index in chosen], [prompts[i].max_tokens for i in chosen])
                answers.update(zip(chosen, found, strict=True))
                self._answered(len(answers), len(prompts))
        return [answers[index] for index in range(len(prompts))]

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        messages = [{"role": "user", "content": prompt.text}]
        text = render(self._tokenizer, messages, generation=True)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _generate(self, batch: list[list[int]], limits: list[int]) -> list[Answer]:
        """Greedy answers of prompts padded on the left."""
        width, pad = max(map(len, batch)), self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(each)) + each for each in batch], device=self._device)
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in batch], device=self._device)
        output = _base_of(self._model).generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max(limits), pad_token_id=pad
        )
        return [self._answer(row[width:].tolist(), limit) for row, limit in zip(output, limits, strict=True)]

    def _answer(self, tokens: list[int], limit: int) -> Answer:
        tokens = tokens[:limit]
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return Answer(text=text, stopped=end is not None)


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _serving(model: Any, ends: Sequence[int]) -> Iterator[None]:
    """The model as it serves: no dropout, with a cache, greedy; afterwards as it trains.

    The base's own generation configuration is put aside: a repetition penalty in it is none of the model server's.
    """
    base = _base_of(model)
    generation = base.generation_config
    attention, caches, training = base.config._attn_implementation, base.config.use_cache, model.training
    random = torch.get_rng_state()
    model.eval()
    base.set_attn_implementation(SERVING_ATTENTION)
    base.config.use_cache = True
    base.generation_config = GenerationConfig(do_sample=False, use_cache=True, eos_token_id=list(ends) or None)
    try:
        yield
    finally:
        base.generation_config = generation
        base.set_attn_implementation(attention)
        base.config.use_cache = caches
        model.train(training)
        torch.set_rng_state(random)
