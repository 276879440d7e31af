import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.trellis.attention import CrossAttention, SelfAttention, attend
from pipeline.trellis.blocks import ModulatedBlock, PlainBlock
from pipeline.trellis.layers import MultiHeadRMSNorm
from pipeline.trellis.segments import Segments

# Sorted and equal (a mere reshape), equal but mixed, unequal and sorted, unequal and mixed, one sequence.
SEGMENT_IDS = {
    "equal": [0, 0, 0, 1, 1, 1],
    "equal mixed": [1, 0, 0, 1, 0, 1],
    "unequal": [0, 1, 1, 1, 2, 2],
    "unequal mixed": [2, 1, 0, 1, 1, 2, 1],
    "one": [0, 0, 0, 0],
    "single rows": [0, 1, 2],
}
each_layout = pytest.mark.parametrize("ids", SEGMENT_IDS.values(), ids=SEGMENT_IDS.keys())


def weighted(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[-1])
    return module.requires_grad_(False)


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[L, heads, dim], [S, heads, dim] x 2 -> [L, heads, dim], written out."""
    scores = torch.einsum("lhd,shd->hls", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hls,shd->lhd", scores.softmax(-1), v)


def rms_norm(x: Tensor, norm: MultiHeadRMSNorm) -> Tensor:
    length = x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return x / length * norm.gamma * math.sqrt(x.shape[-1])


@each_layout
def test_unpad_inverts_pad(ids: list[int]) -> None:
    segments = Segments.of(torch.tensor(ids))
    x = randn(len(ids), 2, 3)
    padded = segments.pad(x)
    assert padded.shape == (max(ids) + 1, max(map(ids.count, ids)), 2, 3)
    assert torch.equal(segments.unpad(padded), x)


@each_layout
def test_the_places_in_use_hold_the_rows_of_each_sequence(ids: list[int]) -> None:
    segments = Segments.of(torch.tensor(ids))
    padded = segments.pad(torch.arange(len(ids)))
    for sequence in range(segments.count):
        used = padded[sequence] if segments.mask is None else padded[sequence][segments.mask[sequence, 0, 0]]
        assert used.tolist() == [row for row, o in enumerate(ids) if o == sequence]


@each_layout
def test_broadcasting_gives_each_row_its_sequence_s_value(ids: list[int]) -> None:
    segments = Segments.of(torch.tensor(ids))
    values = randn(segments.count, 5)
    assert torch.equal(segments.broadcast(values).expand(len(ids), 5), values[torch.tensor(ids)])


def test_the_gradient_of_broadcasting_adds_up_in_more_than_half_precision() -> None:
    """A sum in bfloat16 stops at 256."""
    values = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    Segments.dense(2, 5000, torch.device("cpu")).broadcast(values).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad.float(), torch.full((2, 3), 5000.0), atol=0, rtol=0.01)


def test_a_batch_of_equal_sequences_needs_no_index() -> None:
    dense = Segments.dense(3, 4, torch.device("cpu"))
    assert (dense.pad_index, dense.mask, dense.unpad_index, dense.count) == (None, None, None, 3)
    derived = Segments.of(dense.segment_ids)
    assert (derived.pad_index, derived.mask, derived.unpad_index, derived.count) == (None, None, None, 3)


def test_attend_is_softmax_attention() -> None:
    q, k, v = randn(2, 5, 3, 4), randn(2, 7, 3, 4, seed=2), randn(2, 7, 3, 4, seed=3)
    out = attend(q, k, v)
    for b in range(2):
        assert torch.allclose(out[b], softmax_attention(q[b], k[b], v[b]), atol=1e-6)


def test_a_masked_key_has_no_influence() -> None:
    q, k, v = randn(1, 2, 1, 4), randn(1, 3, 1, 4, seed=2), randn(1, 3, 1, 4, seed=3)
    mask = torch.tensor([[[[True, True, False]]]])
    assert torch.allclose(attend(q, k, v, mask), attend(q, k[:, :2], v[:, :2]), atol=1e-6)


@each_layout
@pytest.mark.parametrize("normed", [False, True])
def test_self_attention_is_a_loop_over_sequences(ids: list[int], normed: bool) -> None:
    layer = weighted(SelfAttention(12, 3, qk_rms_norm=normed))
    x = randn(len(ids), 12)
    out = layer(x, Segments.of(torch.tensor(ids)))
    for sequence in set(ids):
        rows = torch.tensor(ids) == sequence
        # Rows of the weight are (q, k, v) x heads x dim.
        q, k, v = (layer.to_qkv(x[rows])[:, i * 12 : (i + 1) * 12].reshape(-1, 3, 4) for i in range(3))
        if normed:
            q, k = rms_norm(q, layer.q_rms_norm), rms_norm(k, layer.k_rms_norm)
        expected = layer.to_out(softmax_attention(q, k, v).reshape(-1, 12))
        assert torch.allclose(out[rows], expected, atol=1e-5)


@each_layout
@pytest.mark.parametrize("normed", [False, True])
def test_cross_attention_sees_the_context_of_its_own_sequence(ids: list[int], normed: bool) -> None:
    layer = weighted(CrossAttention(12, 10, 3, qk_rms_norm=normed))
    x, context = randn(len(ids), 12), randn(max(ids) + 1, 6, 10, seed=2)
    out = layer(x, Segments.of(torch.tensor(ids)), context)
    for sequence in set(ids):
        rows = torch.tensor(ids) == sequence
        q = layer.to_q(x[rows]).reshape(-1, 3, 4)
        k, v = (layer.to_kv(context[sequence])[:, i * 12 : (i + 1) * 12].reshape(-1, 3, 4) for i in range(2))
        if normed:
            q, k = rms_norm(q, layer.q_rms_norm), rms_norm(k, layer.k_rms_norm)
        expected = layer.to_out(softmax_attention(q, k, v).reshape(-1, 12))
        assert torch.allclose(out[rows], expected, atol=1e-5)


def test_rms_norm_clamps_the_length_and_keeps_the_dtype() -> None:
    norm = weighted(MultiHeadRMSNorm(2, 4))
    zero = norm(torch.zeros(3, 2, 4))
    assert torch.equal(zero, torch.zeros(3, 2, 4))
    # Squares of 300 overflow in half precision.
    large = norm(torch.full((1, 2, 4), 300.0, dtype=torch.float16))
    assert large.dtype == torch.float16
    assert torch.allclose(large[0].float(), norm.gamma, atol=2e-3)


@each_layout
def test_padding_does_not_change_a_modulated_block(ids: list[int]) -> None:
    block = weighted(ModulatedBlock(12, 10, 3, 2, qk_rms_norm=True, qk_rms_norm_cross=False))
    x, time, context = randn(len(ids), 12), randn(max(ids) + 1, 12, seed=2), randn(max(ids) + 1, 5, 10, seed=3)
    out = block(x, Segments.of(torch.tensor(ids)), time, context)
    for sequence in set(ids):
        rows = torch.tensor(ids) == sequence
        alone = Segments.dense(1, int(rows.sum()), x.device)
        one = slice(sequence, sequence + 1)
        assert torch.allclose(out[rows], block(x[rows], alone, time[one], context[one]), atol=1e-5)


def test_rows_of_another_window_have_no_influence() -> None:
    block = weighted(PlainBlock(12, 3, 2, qk_rms_norm=False))
    window = torch.tensor(SEGMENT_IDS["unequal mixed"])
    x = randn(len(window), 12)
    changed = torch.where(window[:, None] == 1, x, 100 * x)
    before, after = (block(v, Segments.of(window)) for v in (x, changed))
    assert torch.equal(before[window == 1], after[window == 1])
    assert not torch.allclose(before[window != 1], after[window != 1])
