"""Every kernel computes what scaled dot-product attention with a dense mask computes, over documents and pairs."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sluice_artifacts.reporting import WorkerError
from sluice_trainer import attention, attention_kernels
from sluice_trainer.attention import RowLayout, document_attention
from sluice_trainer.attention_kernels import VARIABLE, Kernel, choose_kernel

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
DOCUMENTS = RowLayout.of_lengths([5, 1, 17, 9])
PAIRS = RowLayout.of_pairs([(4, 3, 5), (7, 1, 2)])
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
    """The contract of torch's variable-length kernel, which has no processor version, in plain operations."""
    assert bounds.dtype == torch.int32
    assert torch.equal(bounds, key_bounds)
    left, right = window_size
    assert right == 0, "causal"
    assert longest == longest_key == int(bounds.diff().max())
    outputs = []
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        index = torch.arange(end - start)
        distance = index[:, None] - index[None, :]
        mask = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        parts = (each[start:end].transpose(0, 1) for each in (query, key, value))
        found = scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(found.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layout", [DOCUMENTS, PAIRS], ids=["documents", "pairs"])
@pytest.mark.parametrize("kernel", list(Kernel))
def test_kernels_agree_with_a_dense_mask(
    kernel: Kernel, layout: RowLayout, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, kernel)
    # On a processor the variable-length kernel is asked for by its contract, in the precision of the comparison.
    monkeypatch.setattr(attention, "varlen_kernel", lambda: one_by_one)
    if kernel is Kernel.VARLEN and not layout.prefixes:
        monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: Kernel.VARLEN)
    fresh = RowLayout(segments=layout.segments)
    module = torch.nn.Module()
    for _ in range(2):
        found, _ = document_attention(module, *heads(layout), None, row_layout=fresh, sliding_window=window)
        assert torch.allclose(found, expected(layout, window), atol=1e-5)


def test_the_kernel_is_chosen_by_device_rows_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    bf16, fp32 = torch.bfloat16, torch.float32
    assert choose_kernel(CPU, bf16, head=64, prefixes=False) is Kernel.DOCUMENTS
    assert choose_kernel(GPU, bf16, head=128, prefixes=False) is Kernel.VARLEN
    assert choose_kernel(GPU, bf16, head=128, prefixes=True) is Kernel.FLEX
    assert choose_kernel(GPU, fp32, head=128, prefixes=False) is Kernel.FLEX
    assert choose_kernel(GPU, bf16, head=512, prefixes=False) is Kernel.FLEX
    monkeypatch.setattr(attention_kernels, "varlen_kernel", lambda: None)
    assert choose_kernel(GPU, bf16, head=128, prefixes=False) is Kernel.FLEX
    monkeypatch.setenv(VARIABLE, "documents")
    assert choose_kernel(GPU, bf16, head=128, prefixes=False) is Kernel.DOCUMENTS
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(WorkerError, match="SLUICE_ATTENTION is 'fast': it must be one of documents, varlen, flex"):
        choose_kernel(CPU, fp32, head=64, prefixes=False)


def test_a_tower_sees_all_of_a_picture() -> None:
    query, key, value = heads(DOCUMENTS)
    found, _ = document_attention(torch.nn.Module(), query, key, value, None, is_causal=False, row_layout=DOCUMENTS)
    whole = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert torch.allclose(found, whole.transpose(1, 2), atol=1e-6)
