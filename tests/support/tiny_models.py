"""Tiny models, tokenizers and rows for the trainer's tests: standard architectures from configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Turns between special tokens, ended by the end-of-sequence token."""


def tiny_tokenizer(template: str = CHAT_TEMPLATE, extra: tuple[str, ...] = ()) -> Any:
    """A byte-level tokenizer without merges: every byte a token, special tokens on top."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", *extra]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=specials[2:],
        chat_template=template,
    )


def tiny_model(tokenizer: Any, *, architecture: str = "llama", layers: int = 2, size: int = 64, seed: int = 7) -> Any:
    """A randomly initialised causal model with grouped-query attention, fp32; `qwen3_moe` is a mixture of experts."""
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen3Config,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )
    from transformers import Qwen3ForCausalLM as Qwen3

    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": size // 4,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }
    makers: dict[str, Callable[[], Any]] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**shape, sliding_window=16)),
        "qwen3": lambda: Qwen3(Qwen3Config(**shape)),
        "qwen3_moe": lambda: Qwen3MoeForCausalLM(
            Qwen3MoeConfig(**shape, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=size)
        ),
    }
    torch.manual_seed(seed)
    return makers[architecture]().eval()


def save_base(folder: Path, **options: Any) -> Path:
    """Model and tokenizer in a folder, as a base that `fetch_model` accepts."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_model(tokenizer, **options).save_pretrained(folder, safe_serialization=True)
    return folder


def sft_row(number: int, *, label: str = "positive", words: int = 3, **extra: Any) -> dict[str, Any]:
    """One row as the converter writes it; lengths vary with the number."""
    items = ["lamp", "chair", "table", "clock", "mirror", "shelf", "carpet"]
    wanted = " ".join(items[(number + offset) % len(items)] for offset in range(1 + number % words))
    return {
        "conversations": [
            {"from": "system", "value": "Answer with one action."},
            {"from": "human", "value": f"Task: open {wanted}\nScreen size: 64x48 pixels"},
            {"from": "gpt", "value": f"The page of the {wanted} opens.\nclick({number % 64}, {7 * number % 48})"},
        ],
        "metadata": {"run_id": f"run-{number}", "step": 0, "label": label, "label_reason": "gate_verify_pass"},
        **extra,
    }


def publish_rows(prefix: str, rows: list[dict[str, Any]], *, dataset_format: str = "sft") -> Any:
    """Rows as a dataset version; returns its reference."""
    from sluice_api.contracts.dataset import DatasetManifest
    from sluice_artifacts import publish

    text = "".join(json.dumps(row) + "\n" for row in rows)
    return publish(
        prefix,
        {"train.jsonl": text.encode()},
        lambda files: DatasetManifest(files=files, rows=len(rows), holdout_rows=0, format=dataset_format),
    )


def preference_row(number: int, **extra: Any) -> dict[str, Any]:
    """One preference pair as the converter writes it: clicking is preferred to giving up; lengths vary."""
    row = sft_row(number)
    return {
        "prompt": row["conversations"][:-1],
        "chosen": row["conversations"][-1]["value"],
        "rejected": f"wait({1 + number % 3})" if number % 2 else f'The page stays.\nscroll("down", {1 + number % 5})',
        "metadata": {"run_id": f"run-{number}", "step": 0},
        **extra,
    }
