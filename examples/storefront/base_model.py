"""The base model, all from code: tokenizer, architecture, and under a minute of training on careless demonstrations."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storefront.demonstrations import Demonstration, demonstrations

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Role token, text; an answer ends with `<|end|>`. The generation block marks what a trainer scores."""

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """How the base model is made."""

    vocabulary: int = 768
    """Entries of the tokenizer at most, the 256 bytes included."""
    width: int = 96
    """Size of the hidden state."""
    layers: int = 3
    """Decoder layers."""
    heads: int = 4
    """Attention heads."""
    context: int = 512
    """Longest sequence in tokens."""
    tasks: int = 4000
    """Tasks demonstrated."""
    carelessness: float = 0.8
    """Share of traps in which the demonstrator does the wrong thing."""
    batch: int = 32
    """Rows a step."""
    steps: int = 500
    """Optimizer steps."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    warmup: int = 20
    """Steps of linear warm-up."""
    seed: int = 0
    """Seed of initialisation and order."""
    threads: int | None = None
    """Torch threads; None leaves torch's choice."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.carelessness <= 1:
            raise ValueError(f"carelessness must be within 0 and 1, got {self.carelessness}")
        if min(self.steps, self.batch, self.tasks) < 1:
            raise ValueError("steps, batch and tasks must be at least 1")
        if self.vocabulary < 256 + len(SPECIAL_TOKENS):
            raise ValueError(f"vocabulary must hold every byte, got {self.vocabulary}")


def make_tokenizer(recipe: BaseRecipe) -> Any:
    """A byte-level BPE tokenizer trained on the shop's own grammar, with the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = demonstrations(0, min(recipe.tasks, 1500), carelessness=0.5)
    tokenizer.train_from_iterator((m["content"] for row in corpus for m in row.messages()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def make_model(recipe: BaseRecipe, tokenizer: Any) -> Any:
    """A Llama of a few hundred thousand parameters with fresh weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        initializer_range=0.1,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    scored_from: int
    """First position whose token is part of the answer."""


def _encode(tokenizer: Any, rows: Sequence[Demonstration]) -> list[_Row]:
    encoded = []
    for row in rows:
        messages = row.messages()
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        encoded.append(_Row(tokenizer(whole, add_special_tokens=False)["input_ids"], start))
    return encoded


def _batches(rows: list[_Row], recipe: BaseRecipe) -> Iterator[list[_Row]]:
    """Endless batches in an order that the seed decides."""
    from random import Random

    rng = Random(recipe.seed)
    while True:
        order = rng.sample(rows, len(rows))
        yield from (order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch))


def train_base(recipe: BaseRecipe, report: Callable[[int, float], None] | None = None) -> tuple[Any, Any]:
    """Trains the base model.

    Args:
        recipe: how.
        report: called after every step with the step's number and its mean loss per answer token in nats.

    Returns:
        Model and tokenizer.
    """
    import torch
    from torch.nn import functional

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    tokenizer = make_tokenizer(recipe)
    model = make_model(recipe, tokenizer)
    rows = _encode(tokenizer, list(demonstrations(0, recipe.tasks, carelessness=recipe.carelessness)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    model.train()
    for step, batch in zip(range(1, recipe.steps + 1), _batches(rows, recipe), strict=False):
        width = max(len(row.ids) for row in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        scored = torch.zeros((len(batch), width), dtype=torch.bool)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            scored[index, row.scored_from : len(row.ids)] = True
        # Right padding under a causal mask never reaches a scored token, so no attention mask is needed.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][scored[:, 1:]]
        loss = functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][scored[:, 1:]])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if report is not None:
            report(step, loss.item())
    model.eval()
    return model, tokenizer


def _rate(step: int, recipe: BaseRecipe) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def save(model: Any, tokenizer: Any, directory: Path) -> None:
    """Writes the model (safetensors), its configuration and the tokenizer: a folder that transformers loads."""
    model.generation_config.do_sample = False
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def main(argv: list[str] | None = None) -> int:
    """`python -m storefront.base_model --output DIR`: trains the base model and saves it."""
    parser = argparse.ArgumentParser(prog="storefront.base_model", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=BaseRecipe.steps)
    parser.add_argument("--seed", type=int, default=BaseRecipe.seed)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args(argv)
    recipe = BaseRecipe(steps=arguments.steps, seed=arguments.seed, threads=arguments.threads)
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 25 == 0 or step == recipe.steps:
            print(f"step {step}/{recipe.steps}  loss {loss:.3f}  {time.monotonic() - started:.0f} s", file=sys.stderr)

    model, tokenizer = train_base(recipe, report)
    save(model, tokenizer, arguments.output)
    print(f"{model.num_parameters():,} parameters in {arguments.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
