"""What an accelerator computes, beside the same in fp32 and plain operations: a look at correctness before any speed.

Differences are norms of a difference relative to the norm of the reference. A value rounded to bf16 is off by 2⁻⁹ at
most (0.2 %), and errors of sums that are carried in fp32 partly cancel; a bound is five such roundings for a result and
ten for a gradient, which passes through two such products. Of rows' attention the worst vector (one token, one head)
is looked at as well, relative to its own and the mean norm: a token that sees what it must not, or misses what it must
see, is off by tens of per cent there, and in the norm of all perhaps by very little.

On a processor the same is computed where it has kernels at all: rows' attention is then document by document, which is
also the reference, in bf16.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch
import workload
from contenders import _adapted
from findings import GRADIENT, RESULT, Draw, Finding, Scale, difference, scale_of, worst_vector
from torch.nn.functional import cross_entropy, linear, silu
from whole import models

from sluice_trainer.attention import RowLayout, _by_document, document_attention
from sluice_trainer.attention_kernels import Kernel, choose_kernel
from sluice_trainer.fused import _GatedUnit, _LowRankLinear, _RootMeanSquareNorm
from sluice_trainer.head import CHUNK_LOGITS, frozen_head_losses
from sluice_trainer.snapshot import SnapshotTaker, put_back

EXACT = 2e-3
"""Bound in fp32, with matrix units that may round factors to ten bits (2⁻¹¹ each)."""
VECTOR = 0.1
"""Bound of the worst vector: a document's first tokens see few others, and one more or less is a large part of them."""
STALL_MS = 50.0
"""Milliseconds that a checkpoint may make training wait."""
SCALE = 1.7
"""A factor for what takes one."""


Compute = Callable[..., torch.Tensor]


def with_gradients(compute: Compute, inputs: Sequence[torch.Tensor], weight: torch.Tensor) -> list[torch.Tensor]:
    """A result and the gradients of its inputs, for a loss that is the result's product with `weight`."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    result = compute(*leaves)
    return [result.detach(), *torch.autograd.grad((result * weight.to(result.dtype)).sum(), leaves)]


def compared(
    name: str,
    found: Compute,
    wanted: Compute,
    inputs: Sequence[torch.Tensor],
    weight: torch.Tensor,
    *,
    bounds: tuple[float, float] = (RESULT, GRADIENT),
    vectors: bool = False,
) -> Iterator[Finding]:
    """Findings of a function against the same in fp32: its result, the largest difference among its gradients."""
    ours = with_gradients(found, inputs, weight)
    theirs = with_gradients(wanted, [each.float() for each in inputs], weight.float())
    pairs = list(zip(ours, theirs, strict=True))
    gaps = [difference(*each) for each in pairs]
    yield Finding(name=name, value=gaps[0], bound=bounds[0])
    yield Finding(name=f"{name}, gradients", value=_largest(gaps[1:]), bound=bounds[1])
    if vectors:
        worst = _largest([worst_vector(*each) for each in pairs])
        yield Finding(name=f"{name}, worst vector", value=worst, bound=VECTOR)


def _largest(values: Sequence[float]) -> float:
    """The largest; not a number where one of them is not, which `max` might lose."""
    return float(torch.tensor(values).max())


def attention(scale: Scale) -> Iterator[Finding]:
    """Packed rows in bf16 against scaled dot-product attention in fp32, document by document."""
    for groups, window in ((1, None), (4, None), (4, 32)):
        yield from _rows(scale, torch.bfloat16, Kernel.VARLEN, groups, window)


def blocks(scale: Scale) -> Iterator[Finding]:
    """Packed rows in fp32, for which there is FlexAttention."""
    yield from _rows(scale, torch.float32, Kernel.FLEX, 4, 32)


def _rows(scale: Scale, dtype: torch.dtype, expected: Kernel, groups: int, window: int | None) -> Iterator[Finding]:
    layouts = {"documents": RowLayout.of_lengths(scale.lengths), "pairs": RowLayout.of_pairs(scale.pairs)}
    kernel = choose_kernel(scale.device, dtype, head=scale.head)
    if scale.device.type != "cpu" and kernel is not expected:
        raise RuntimeError(f"rows in {dtype} are computed by {kernel} here, not by {expected}: this torch has none")
    bounds = (EXACT, EXACT) if dtype is torch.float32 else (RESULT, GRADIENT)
    for name, layout in layouts.items():
        draw, tokens = Draw(scale.device), layout.segments[-1].end
        shapes = ((8, tokens), *2 * [(8 // groups, tokens)])
        inputs = [draw(1, *shape, scale.head, dtype=dtype) for shape in shapes]
        found = partial(_document_attention, layout=layout, window=window)
        wanted = partial(_by_document, layout=layout, scaling=None, dropout=0.0, window=window)
        shown = f"{kernel}, {name}, {str(dtype)[6:]}, {8 // groups} of 8 key heads" + (
            f", window {window}" * bool(window)
        )
        weight = draw(1, tokens, 8, scale.head, dtype=dtype)
        yield from compared(shown, found, wanted, inputs, weight, bounds=bounds, vectors=True)


def _document_attention(*three: torch.Tensor, layout: RowLayout, window: int | None) -> torch.Tensor:
    return document_attention(torch.nn.Module(), *three, None, row_layout=layout, sliding_window=window)[0]


def head(scale: Scale) -> Iterator[Finding]:
    """Losses and their gradients through the head, over more than one chunk, against whole logits in fp32."""
    draw = Draw(scale.device)
    rows = CHUNK_LOGITS // workload.VOCABULARY + 100
    targets = torch.arange(rows, device=scale.device) % workload.VOCABULARY
    plain = torch.nn.Linear(scale.width, workload.VOCABULARY, bias=False, device="meta")
    weight = draw(workload.VOCABULARY, scale.width, by=scale.width**-0.5)
    plain.weight = torch.nn.Parameter(weight, requires_grad=False)

    def wanted(hidden: torch.Tensor) -> torch.Tensor:
        return cross_entropy(linear(hidden, weight.float()), targets, reduction="none")

    yield from compared(
        "head",
        lambda hidden: frozen_head_losses(hidden, plain, targets),
        wanted,
        [draw(rows, scale.width)],
        draw(rows, dtype=torch.float32),
    )


def layers(scale: Scale) -> Iterator[Finding]:
    """Layers with gradients of their own against their formulas in fp32, and whether a model is given them at all."""
    draw, wide = Draw(scale.device), scale.width
    weight = draw(wide, wide, by=wide**-0.5)
    low = [draw(16, wide, dtype=torch.float32, by=wide**-0.5), draw(wide, 16, dtype=torch.float32, by=0.1)]
    upstream = draw(3, 50, wide)
    yield from compared(
        "linear layer with an update",
        lambda x, down, up: _LowRankLinear.apply(x, weight, None, down, up, SCALE),
        lambda x, down, up: linear(x, weight.float()) + SCALE * linear(linear(x, down), up),
        [draw(3, 50, wide), *low],
        upstream,
    )
    yield from compared(
        "norm",
        lambda x, w: _RootMeanSquareNorm.apply(x, w, 1e-6),
        lambda x, w: w * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6),
        [draw(3, 50, wide), draw(wide)],
        upstream,
    )
    yield from compared(
        "gated unit",
        lambda gate, up: _GatedUnit.apply(gate, up),
        lambda gate, up: silu(gate) * up,
        [draw(3, 50, wide), draw(3, 50, wide)],
        upstream,
    )
    toy = workload.Toy(size=256, layers=1, head=64, device=str(scale.device), bf16=True)
    replaced = [
        type(each).__name__ for each in _adapted(toy).modules() if isinstance(vars(each).get("forward"), MethodType)
    ]
    # Seven linear layers; norms of the layer's two inputs, of queries, of keys and of the end; a gated unit.
    yield Finding(
        name="layers of a model left as they were, of 13", value=13.0 - len(replaced), bound=0.0, unit="layers"
    )


def snapshots(scale: Scale) -> Iterator[Finding]:
    """Whether a snapshot has the bytes of its moment, a run put back goes on the same, and how long training waits."""
    on_device = scale.device.type != "cpu"
    draw, parts = Draw(scale.device), 16
    named = {
        str(number): torch.nn.Parameter(draw(scale.moments // parts, dtype=torch.float32)) for number in range(parts)
    }
    optimizer = torch.optim.AdamW(named.values(), lr=1e-3, fused=on_device)
    factor = draw(scale.width, scale.width)

    def work() -> None:
        """About as much as the passes of a step; reads parameters, changes none."""
        for _ in range(1000 if on_device else 5):
            factor.matmul(factor)

    def step() -> None:
        for parameter in named.values():
            parameter.grad = parameter.detach() * 0.5
        optimizer.step()

    def state() -> dict[str, torch.Tensor]:
        kept = {f"{name}/{key}": value for name, each in named.items() for key, value in optimizer.state[each].items()}
        return {name: each.detach().to("cpu", copy=True) for name, each in {**named, **kept}.items()}

    def timed(function: Callable[[], None]) -> float:
        _wait(scale.device)
        started = time.perf_counter()
        function()
        _wait(scale.device)
        return 1000 * (time.perf_counter() - started)

    step()
    taker = SnapshotTaker(named, optimizer)
    taken: list[Any] = []
    waited: list[float] = []

    def beside() -> None:
        started = time.perf_counter()
        taken.append(taker.take(1, (), ()))
        begun = time.perf_counter()
        work()
        _wait(scale.device)
        ready = time.perf_counter()
        taker.settle()
        waited.append(1000 * (begun - started + time.perf_counter() - ready))

    plain = min(timed(work) for _ in range(3))
    then = state()
    copied = [timed(beside) for _ in range(3)]
    step()
    after = state()
    snapshot = taken[-1].result()
    held = {**snapshot.parameters, **snapshot.optimizer}
    put_back(named, optimizer, snapshot)
    step()
    again = state()
    taker.close()
    yield Finding(name="values of a snapshot that differ", value=_unequal(held, then), bound=0.0, unit="tensors")
    yield Finding(name="values that differ after going on", value=_unequal(again, after), bound=0.0, unit="tensors")
    bound = STALL_MS if on_device else None
    yield Finding(name="wait for a snapshot beside a step", value=min(waited), bound=bound, unit="ms")
    yield Finding(
        name=f"step of {plain:.0f} ms with a snapshot, longer by", value=min(copied) - plain, bound=None, unit="ms"
    )


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.cuda.synchronize()


def _unequal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    same = {name for name in found.keys() & wanted.keys() if torch.equal(found[name].cpu(), wanted[name])}
    return float(len((found.keys() | wanted.keys()) - same))


PARTS = {
    "attention": attention,
    "blocks": blocks,
    "head": head,
    "layers": layers,
    "models": models,
    "snapshots": snapshots,
}
"""What is compared, in order; each in a process of its own, so that none takes the others down."""


def check(part: str, device: str) -> list[Finding]:
    """A part's findings on a device, printed as they come."""
    findings = []
    for finding in PARTS[part](scale_of(device)):
        findings.append(finding)
        told = f"{finding.value:>9.2f} {finding.unit}" if finding.unit else f"{finding.value:>9.1e}"
        word = "passed" if finding.passed else "FAILED"
        bound = "" if finding.bound is None else f" (at most {finding.bound:.2g}) {word}"
        print(f"  {finding.name:<66} {told}{bound}", flush=True)
    return findings
