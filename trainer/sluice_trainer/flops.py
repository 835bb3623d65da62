"""Model FLOPs of LoRA training, and the share of a device's peak that they are.

Per token `4 N + 6 n`: a frozen weight is used twice, forward and for the gradient of its input, a trained one three
times, at two operations each. Attention adds `6 L d Σ len²` over the documents of a row, causal. The input embedding is
a look-up and counts nothing; the output head counts only for scored tokens. Padding and recomputed activations never
count. (Counting six operations for every weight, as for full fine-tuning, would overstate the share by half.)
"""

from dataclasses import dataclass
from typing import Any

from sluice_trainer.parameter_groups import EXPERTS, role_of

PEAKS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "MI300X": 1307e12,
}
"""Dense bf16 FLOP/s by a part of the device's name, from the makers' data sheets."""


def peak_of(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a device; None for one that is not known, a CPU among them."""
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the FLOPs of a row depend on."""

    tokens: int
    """Real tokens."""
    scored: int
    """Tokens that the head is computed for."""
    squares: int
    """Sum of the squared lengths of what attends to itself causally."""
    patches: int = 0
    """Patches of pictures that the vision tower is computed for."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the FLOPs of a model depend on."""

    frozen: float
    """Frozen weights that every token passes, without embedding and head."""
    trained: float
    """Trained weights that every token passes."""
    head: int
    """Weights of the output head."""
    layers: int
    """Layers."""
    attention: int
    """Query heads × their size."""
    vision: float = 0.0
    """Weights of the vision tower, which is frozen and has no backward pass: two operations a patch."""

    @classmethod
    def of(cls, model: Any) -> "Work":
        """Of a transformers model with an adapter; of a mixture, the experts that see a token."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = base.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        embedding, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
        experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        share = config.num_experts_per_tok / experts if experts else 1.0
        totals = {False: 0.0, True: 0.0}
        vision = 0.0
        for name, parameter in model.named_parameters():
            if parameter is embedding or parameter is head:
                continue
            if ".visual." in name:
                vision += parameter.numel()
                continue
            totals[parameter.requires_grad] += parameter.numel() * (share if role_of(name) == EXPERTS else 1.0)
        return cls(
            frozen=totals[False],
            trained=totals[True],
            head=head.numel(),
            layers=config.num_hidden_layers,
            attention=config.num_attention_heads * size,
            vision=vision,
        )

    def flops(self, load: Load) -> float:
        """FLOPs of a forward and a backward pass over a row."""
        weights = load.tokens * (4 * self.frozen + 6 * self.trained)
        seen = 2.0 * self.vision * load.patches
        return seen + weights + 4.0 * self.head * load.scored + 6.0 * self.layers * self.attention * load.squares
