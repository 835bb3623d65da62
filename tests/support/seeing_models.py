"""Tiny vision-language models of Qwen's families, their image processor, and rows with made-up screenshots."""

import hashlib
import io
from pathlib import Path
from typing import Any

from tiny_models import publish_rows, sft_row, tiny_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Turns as in `tiny_models`; contents may be parts, as in the families' own templates."""
TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PATCH, MERGE = 4, 2


def seeing_tokenizer() -> Any:
    return tiny_tokenizer(TEMPLATE, TOKENS)


def image_processor() -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )


def seeing_model(family: str = "qwen2_5_vl", *, seed: int = 7) -> Any:
    """A randomly initialised model, fp32: two layers in the tower and two in the language model."""
    import torch
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
    )

    tokenizer = seeing_tokenizer()
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(TOKENS))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    tower = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    special = {
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    if family == "qwen2_vl":
        tower |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=tower, **special)).eval()
    tower |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "window_size": 16}
    tower |= {"fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=tower, **special)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def save_seeing_base(folder: Path, **options: Any) -> Path:
    """Model, tokenizer and image processor in a folder, as a base that `fetch_model` accepts."""
    seeing_tokenizer().save_pretrained(folder)
    image_processor().save_pretrained(folder)
    seeing_model(**options).save_pretrained(folder)
    return folder


def screenshot(number: int) -> bytes:
    """A PNG of coloured noise; sizes and shapes vary with the number."""
    import numpy as np
    from PIL import Image

    width, height = (24 + 8 * (number % 3), 16 + 8 * (number % 2))
    values = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream.getvalue()


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() + ".png"


def with_screenshot(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A row whose human turn begins with the placeholder."""
    key = "conversations" if "conversations" in row else "prompt"
    turns = [{**turn, "value": "<image>\n" + turn["value"]} if turn["from"] == "human" else turn for turn in row[key]]
    return {**row, key: turns, "image": name}


def seen_row(number: int, **extra: Any) -> dict[str, Any]:
    """A supervised row with the screenshot of its number."""
    return with_screenshot(sft_row(number, **extra), name_of(screenshot(number)))


def publish_seen(prefix: str, rows: list[dict[str, Any]], pictures: int, *, dataset_format: str = "sft") -> Any:
    """Rows as a dataset version with the first screenshots beside it; returns its reference."""
    folder = Path(prefix.removeprefix("file://")) / "_screens"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        data = screenshot(number)
        (folder / name_of(data)).write_bytes(data)
    return publish_rows(prefix, rows, dataset_format=dataset_format)
