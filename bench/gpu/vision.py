"""Contenders on rows with pictures: the product packs them, TRL pads them, since it packs no pictures.

The same model of Qwen2.5-VL's kind with random weights, the same patches, tokens, scored tokens and adapter (language
layers only). Patches are made up and lie in memory, so that neither side decodes anything. TRL is given a collator that
pads as its own does, because its own wants a whole processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import workload
from contenders import Ready, _carry_out, _run_trl, _settings, _tokenizer
from peers import in_halves, recomputed

from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.fused import fuse
from sluice_trainer.model import LoraSettings, add_adapter, trained_parameters
from sluice_trainer.recipes import SftRecipe, sft_sizes
from sluice_trainer.tokenise import Document, Picture
from sluice_trainer.vision import Sight, language_targets

IMAGE, VIDEO, START, END = 2, 3, 4, 5
"""Tokens of what is seen."""
PATCH, MERGE, FRAMES = 14, 2, 2
"""Pixels of a patch's side, patches of a token's side, frames of a patch."""
BATCH = 8
"""Conversations of a step, on average for the product, exactly for TRL."""


POOL = 8192
"""Patches to take pictures from; more than any picture has."""


@dataclass(frozen=True, kw_only=True)
class Seeing:
    """Shape of the vision-language model."""

    tower_layers: int = 32
    """Layers of the vision tower."""
    tower_size: int = 1280
    """Its width; its gated unit is 2.67 times as wide."""
    grids: tuple[tuple[int, int], ...] = ((52, 92), (36, 64), (64, 36))
    """Patches of pictures in height and width; the first is a screenshot of 1280 × 720 pixels."""


SHAPES = {
    "8b": Seeing(),
    "small": Seeing(tower_layers=4, tower_size=640, grids=((26, 46), (18, 32))),
    "tiny": Seeing(tower_layers=2, tower_size=64, grids=((4, 6), (2, 4))),
}
"""Towers by the name of the language model's shape."""


def seeing_model(toy: workload.Toy, seeing: Seeing) -> Any:
    """A Qwen2.5-VL of the toy's shape with random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    heads = max(1, toy.size // toy.head)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": workload.VOCABULARY,
            "hidden_size": toy.size,
            "intermediate_size": toy.middle or 3 * toy.size,
            "num_hidden_layers": toy.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 4),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [toy.head // 8, toy.head * 3 // 16, toy.head * 3 // 16],
            },
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
        },
        vision_config={
            "depth": seeing.tower_layers,
            "hidden_size": seeing.tower_size,
            "intermediate_size": seeing.tower_size * 8 // 3,
            "num_heads": max(1, seeing.tower_size // 80),
            "out_hidden_size": toy.size,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": FRAMES,
            "window_size": 112,
            "fullatt_block_indexes": list(range(7, seeing.tower_layers, 8)) or [seeing.tower_layers - 1],
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if toy.bf16 else torch.float32)
    try:
        with torch.device(toy.device):
            return Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def documents(toy: workload.Toy, seeing: Seeing) -> list[Document]:
    """Conversations about one picture each: about 120 tokens of text, the last third of them scored."""
    rng = np.random.default_rng(2)
    found = []
    for number, length in enumerate(workload.lengths(rng, toy.chats, 120, low=32, high=400)):
        high, wide = seeing.grids[number % len(seeing.grids)]
        seen = np.full(high * wide // MERGE**2, IMAGE, dtype=np.int64)
        text = rng.integers(6, workload.VOCABULARY, length, dtype=np.int64)
        ids = np.concatenate([[START], seen, [END], text])
        scored = np.zeros(ids.size, dtype=np.bool_)
        scored[-int(length) // 3 :] = True
        found.append(Document(ids=ids, scored=scored, pictures=(Picture(f"{number}.png", (1, high, wide)),)))
    return found


@cache
def _pool(count: int) -> torch.Tensor:
    """Made-up patches, drawn once: drawing them anew would be part of the steps that are measured."""
    return torch.randn(count, 3 * FRAMES * PATCH * PATCH, generator=torch.Generator().manual_seed(3))


def pixels(pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Made-up patches of pictures, from somewhere in the pool, and their grids."""
    pool = _pool(POOL)
    parts = []
    for picture in pictures:
        count = int(np.prod(picture.grid))
        start = int(picture.name.removesuffix(".png")) * 997 % (POOL - count)
        parts.append(pool[start : start + count])
    return torch.cat(parts), torch.tensor([picture.grid for picture in pictures])


class MadeUpEyes:
    """Eyes that see made-up patches."""

    token = IMAGE
    pixels = staticmethod(pixels)


def sluice_packed(ready: Ready, toy: workload.Toy, shape: str) -> None:
    """The product: several conversations with their pictures in a row, without padding."""
    seeing = SHAPES[shape]
    base = seeing_model(toy, seeing).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    model = fuse(add_adapter(base, LoraSettings(rank=workload.RANK, alpha=workload.ALPHA), seed=0))
    rows = documents(toy, seeing)
    sight = Sight(causal=model.get_base_model(), eyes=MadeUpEyes())  # type: ignore[arg-type]
    recipe = SftRecipe(model, rows, trained_parameters(model), torch.device(toy.device), sight=sight)
    mean = sum(each.length for each in rows) / len(rows)
    seen = {"rows": 0.0}

    def units(record: Any) -> float:
        count = round(record.epoch * len(rows) - seen["rows"])
        seen["rows"] = record.epoch * len(rows)
        return count

    _carry_out(ready, toy, recipe, sft_sizes(rows), units, tokens_per_step=round(mean * BATCH))


def collate(rows: Sequence[Document]) -> dict[str, torch.Tensor]:
    """Conversations padded to the longest, with their patches one after the other."""
    longest = max(row.length for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        own = torch.from_numpy(row.ids)
        ids[number, : row.length] = own
        mask[number, : row.length] = 1
        labels[number, : row.length] = torch.where(torch.from_numpy(row.scored), own, -100)
    patches, grids = pixels([picture for row in rows for picture in row.pictures])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": patches,
        "image_grid_thw": grids,
    }


def _trl_padded(ready: Ready, toy: workload.Toy, shape: str, options: dict[str, Any]) -> None:
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    rows = documents(toy, SHAPES[shape])
    data = Dataset.from_dict({"number": list(range(len(rows)))})
    settings = {
        "max_length": None,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **options,
    }

    def padded(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return collate([rows[example["number"]] for example in examples])

    def make(folder: str) -> Any:
        model = seeing_model(toy, SHAPES[shape])
        targets = language_targets(model, "all-linear", "all-linear")
        return SFTTrainer(
            model=model,
            args=SFTConfig(**_settings(folder, toy, **settings)),
            train_dataset=data,
            data_collator=padded,
            processing_class=_tokenizer(),
            peft_config=LoraConfig(
                r=workload.RANK, lora_alpha=workload.ALPHA, target_modules=targets, task_type="CAUSAL_LM"
            ),
        )

    _run_trl(ready, make)


def trl_in_halves(ready: Ready, toy: workload.Toy, shape: str) -> None:
    """TRL: eight conversations a step in two batches, each padded to its longest."""
    _trl_padded(ready, toy, shape, in_halves(BATCH))


def trl_recomputed(ready: Ready, toy: workload.Toy, shape: str) -> None:
    """TRL: eight conversations a step, padded to the longest, with activations computed again."""
    _trl_padded(ready, toy, shape, recomputed(BATCH))
