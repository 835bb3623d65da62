"""What the contenders work on: a toy of the usual shape, chats and preference pairs of made-up tokens, all seeded."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice_trainer.dpo import Pair
from sluice_trainer.tokenise import Document

VOCABULARY = 32_000
"""Tokens of the toy."""
ROW_TOKENS = 4096
"""Longest row, and tokens of an optimizer step at most."""
CHATS = 48
"""Conversations; an epoch of them is about seven steps."""
PAIRS = 64
"""Preference pairs."""
PAIRS_PER_STEP = 8
"""Pairs of an optimizer step."""
RANK = 16
"""LoRA rank, on every linear layer."""
ALPHA = 32
"""LoRA alpha."""
RATE = 1e-4
"""Learning rate, constant."""
BETA = 0.1
"""Pull towards the reference."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Shape, device and precision of the model; the defaults are the toy that is measured on a CPU."""

    size: int = 256
    """Width."""
    layers: int = 6
    """Layers."""
    middle: int = 0
    """Width of the gated unit; 0 means three times the width."""
    head: int = 64
    """Width of a head."""
    device: str = "cpu"
    """Where it lies."""
    bf16: bool = False
    """Weights and activations in bf16, as on an accelerator; else fp32."""
    chats: int = CHATS
    """Conversations to train on."""
    row: int = ROW_TOKENS
    """Longest row, and tokens of an optimizer step at most."""
    pairs: int = PAIRS_PER_STEP
    """Preference pairs of an optimizer step."""


def toy_model(toy: Toy) -> Any:
    """A Qwen3 of the toy's shape with a tied head over 32,000 tokens and random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=toy.size,
        intermediate_size=toy.middle or 3 * toy.size,
        num_hidden_layers=toy.layers,
        num_attention_heads=max(1, toy.size // toy.head),
        num_key_value_heads=max(1, toy.size // toy.head // 2),
        head_dim=toy.head,
        max_position_embeddings=2 * ROW_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if toy.bf16 else torch.float32)
    try:
        with torch.device(toy.device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def lengths(rng: np.random.Generator, count: int, mean: float, *, low: int, high: int) -> np.ndarray:
    """Lengths in tokens, log-normal with a spread of a factor of two, around `mean`, within bounds."""
    sigma = 0.7
    return np.clip(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count), low, high).astype(int)


def tokens(rng: np.random.Generator, count: int) -> np.ndarray:
    """Token ids, none of them special."""
    return rng.integers(2, VOCABULARY, count, dtype=np.int64)


def chats(count: int = CHATS) -> list[Document]:
    """Conversations of about 580 tokens in turns; the assistant's half is scored."""
    rng = np.random.default_rng(0)
    documents = []
    for length in lengths(rng, count, 580, low=64, high=2048):
        scored = np.zeros(length, dtype=np.bool_)
        turn = max(16, length // 8)
        for start in range(turn, length, 2 * turn):
            scored[start : start + turn] = True
        documents.append(Document(ids=tokens(rng, length), scored=scored))
    return documents


def pairs(count: int = PAIRS) -> list[Pair]:
    """Prompts of about 400 tokens, answers of about 120."""
    rng = np.random.default_rng(1)
    prompts = lengths(rng, count, 400, low=64, high=1200)
    chosen, rejected = (lengths(rng, count, 120, low=16, high=400) for _ in range(2))
    return [
        Pair(prompt=tokens(rng, prompt), chosen=tokens(rng, first), rejected=tokens(rng, second))
        for prompt, first, second in zip(prompts, chosen, rejected, strict=True)
    ]
