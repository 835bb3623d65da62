"""What a check finds: differences with their bounds, and what is drawn to be compared."""

from dataclasses import dataclass

import torch

ROUNDING = 2**-9
"""Largest relative error of rounding to bf16."""
RESULT, GRADIENT = 5 * ROUNDING, 10 * ROUNDING
"""Bounds in bf16."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison."""

    name: str
    """What was compared."""
    value: float
    """The difference, or milliseconds."""
    bound: float | None
    """What it may be; None where it is only told."""
    unit: str = ""
    """Of the value; empty for a relative difference."""

    @property
    def passed(self) -> bool:
        """Whether the value keeps its bound; what is not a number does not."""
        return self.bound is None or self.value <= self.bound


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of what is compared."""

    device: torch.device
    """Where."""
    lengths: tuple[int, ...]
    """Tokens of documents."""
    pairs: tuple[tuple[int, int, int], ...]
    """Tokens of prompts and their answers."""
    head: int
    """Size of an attention head."""
    width: int
    """Width of layers."""
    moments: int
    """Values of the parameters that a snapshot copies."""


def scale_of(device: str) -> Scale:
    """Sizes of a row of 4,096 tokens and of an adapter of rank 16 of 8 billion weights; small ones on a processor."""
    place = torch.device(device)
    if device == "cpu":
        pairs: tuple[tuple[int, int, int], ...] = ((11, 7, 5), (30, 1, 20))
        return Scale(device=place, lengths=(33, 1, 90, 17), pairs=pairs, head=32, width=64, moments=100_000)
    pairs = ((700, 90, 120), (64, 300, 16), (1100, 1, 260), (129, 127, 128))
    lengths = (1500, 1, 700, 128, 127, 129, 63, 1024)
    return Scale(device=place, lengths=lengths, pairs=pairs, head=128, width=4096, moments=44_000_000)


class Draw:
    """Random values, the same on every device."""

    def __init__(self, device: torch.device) -> None:
        """Draw on the CPU, and hand out on the device."""
        self._device = device
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.bfloat16, by: float = 1.0) -> torch.Tensor:
        """Normally distributed values with a standard deviation of `by`."""
        return (torch.randn(*shape, generator=self._generator) * by).to(dtype).to(self._device)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference relative to the norm of what is wanted."""
    wide = wanted.double()
    return float((found.double() - wide).norm() / wide.norm())


def worst_vector(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest norm of a difference along the last dimension, relative to the vector's own and the mean norm."""
    norms = wanted.double().norm(dim=-1)
    gaps = (found.double() - wanted.double()).norm(dim=-1) / (norms + norms.mean())
    return float(gaps.max())
