"""Every kernel computes what scaled dot-product attention with a dense mask computes, over documents and pairs."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sluice_artifacts.reporting import WorkerError
from sluice_trainer import attention, attention_kernels
from sluice_trainer.attention import RowLayout, Segment, _by_document, document_attention
from sluice_trainer.attention_kernels import VARIABLE, Kernel, choose_kernel, varlen_attention, varlen_kernel

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
DOCUMENTS = RowLayout.of_lengths([5, 1, 17, 9])
PAIRS = RowLayout.of_pairs([(4, 3, 5), (7, 1, 2)])
MIXED = RowLayout(
    segments=(Segment(start=0, end=6), Segment(start=6, end=15), Segment(start=15, end=19, prefix=(6, 11)))
)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def heads(layout: RowLayout, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    tokens = layout.segments[-1].end
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, count, tokens, 16, generator=generator).to(dtype) for count in (4, 2, 2)]


def dense(layout: RowLayout, window: int | None) -> torch.Tensor:
    """Which token sees which, written out token by token."""
    tokens = layout.segments[-1].end
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for segment in layout.segments:
        visible = [*range(*segment.prefix), *range(segment.start, segment.end)]
        for at in range(segment.start, segment.end):
            before = visible[: visible.index(at) + 1]
            mask[at, before[-window:] if window else before] = True
    return mask


def expected(layout: RowLayout, window: int | None) -> torch.Tensor:
    query, key, value = heads(layout)
    found = scaled_dot_product_attention(query, key, value, attn_mask=dense(layout, window), enable_gqa=True)
    return found.transpose(1, 2)


def one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """The contract of torch's variable-length kernel, which has no processor version, in plain operations.

    Queries and keys have bounds of their own; a run of queries is aligned with the end of its keys.
    """
    assert bounds.dtype == key_bounds.dtype == torch.int32
    assert query.shape[0] == int(bounds[-1])
    assert key.shape[0] == value.shape[0] == int(key_bounds[-1])
    left, right = window_size
    assert right == 0, "causal"
    assert (longest, longest_key) == (int(bounds.diff().max()), int(key_bounds.diff().max()))
    outputs = []
    runs = zip(*(each.diff().tolist() for each in (bounds, key_bounds)), strict=True)
    for (queries, keys), start, key_start in zip(runs, bounds.tolist(), key_bounds.tolist(), strict=False):
        distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None, :]
        mask = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        places = (slice(start, start + queries), *2 * [slice(key_start, key_start + keys)])
        parts = (each[place].transpose(0, 1) for each, place in zip((query, key, value), places, strict=True))
        found = scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(found.transpose(0, 1))
    return torch.cat(outputs)


def untold(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """The same as torch 2.11 has it: fewer key heads than heads are taken without a word."""
    inner = (query, key, value, bounds, key_bounds, longest, longest_key)
    return one_by_one(*inner, scale=scale, window_size=window_size, enable_gqa=query.shape[1] != key.shape[1])


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layout", [DOCUMENTS, PAIRS], ids=["documents", "pairs"])
@pytest.mark.parametrize("kernel", list(Kernel))
def test_kernels_agree_with_a_dense_mask(
    kernel: Kernel, layout: RowLayout, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, kernel)
    # On a processor the variable-length kernel is asked for by its contract, in the precision of the comparison.
    monkeypatch.setattr(attention, "varlen_kernel", lambda: one_by_one)
    if kernel is Kernel.VARLEN:
        monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: Kernel.VARLEN)
    fresh = RowLayout(segments=layout.segments)
    module = torch.nn.Module()
    for _ in range(2):
        found, _ = document_attention(module, *heads(layout), None, row_layout=fresh, sliding_window=window)
        assert torch.allclose(found, expected(layout, window), atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("kernel", [one_by_one, untold])
@pytest.mark.parametrize("layout", [DOCUMENTS, PAIRS, MIXED], ids=["documents", "pairs", "mixed"])
def test_one_call_a_row_has_the_outputs_and_gradients_of_document_by_document(
    layout: RowLayout, kernel: Callable[..., torch.Tensor], key_heads: int, window: int | None
) -> None:
    tokens = layout.segments[-1].end
    generator = torch.Generator().manual_seed(1)
    given = [torch.randn(1, count, tokens, 8, generator=generator).double() for count in (4, key_heads, key_heads)]
    weight = torch.randn(1, tokens, 4, 8, generator=generator).double()

    def run(compute: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        inputs = [each.clone().requires_grad_() for each in given]
        output = compute(*inputs)
        return [output, *torch.autograd.grad((output * weight).sum(), inputs)]

    where = layout.offsets(CPU)
    found = run(partial(varlen_attention, where=where, scale=None, window=window, kernel=kernel))
    wanted = run(partial(_by_document, layout=layout, scaling=None, dropout=0.0, window=window))
    assert all(torch.allclose(*each, rtol=0, atol=1e-13) for each in zip(found, wanted, strict=True))
    assert (where.key_bounds is where.bounds) == (layout is DOCUMENTS), "nothing is gathered where nothing is shared"


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layout", [DOCUMENTS, PAIRS], ids=["documents", "pairs"])
def test_torchs_own_kernel_takes_the_call(layout: RowLayout, window: int | None) -> None:
    """By shapes alone, on the device without data: torch has no version of the kernel for a processor."""
    meta = torch.device("meta")
    kernel = varlen_kernel()
    assert kernel is not None
    query, key, value = (each.to(meta).requires_grad_() for each in heads(layout, torch.bfloat16))
    where = RowLayout(segments=layout.segments).offsets(meta)
    found = varlen_attention(query, key, value, where, scale=0.25, window=window, kernel=kernel)
    assert found.shape == (1, query.shape[2], 4, 16)
    gradients = torch.autograd.grad(found.sum(), (query, key, value))
    assert [each.shape for each in gradients] == [each.shape for each in (query, key, value)]


def test_the_kernel_is_chosen_by_device_rows_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    bf16, fp32 = torch.bfloat16, torch.float32
    assert choose_kernel(CPU, bf16, head=64) is Kernel.DOCUMENTS
    assert choose_kernel(GPU, bf16, head=128) is Kernel.VARLEN
    assert choose_kernel(GPU, fp32, head=128) is Kernel.FLEX
    assert choose_kernel(GPU, bf16, head=512) is Kernel.FLEX
    monkeypatch.setattr(attention_kernels, "varlen_kernel", lambda: None)
    assert choose_kernel(GPU, bf16, head=128) is Kernel.FLEX
    monkeypatch.setenv(VARIABLE, "documents")
    assert choose_kernel(GPU, bf16, head=128) is Kernel.DOCUMENTS
    monkeypatch.setenv(VARIABLE, "varlen")
    assert choose_kernel(CPU, bf16, head=128) is Kernel.DOCUMENTS
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(WorkerError, match="SLUICE_ATTENTION is 'fast': it must be one of documents, varlen, flex"):
        choose_kernel(CPU, fp32, head=64)


def test_a_tower_sees_all_of_a_picture() -> None:
    query, key, value = heads(DOCUMENTS)
    found, _ = document_attention(torch.nn.Module(), query, key, value, None, is_causal=False, row_layout=DOCUMENTS)
    whole = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert torch.allclose(found, whole.transpose(1, 2), atol=1e-6)
