import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.trellis.attention import CrossAttention, SelfAttention, attend
from pipeline.trellis.blocks import ModulatedBlock, PlainBlock
from pipeline.trellis.layers import MultiHeadRMSNorm
from pipeline.trellis.segments import Segments

# Sorted and equal (a mere reshape), equal but mixed, unequal and sorted, unequal and mixed, one sequence.
OWNERS = {
    "equal": [0, 0, 0, 1, 1, 1],
    "equal mixed": [1, 0, 0, 1, 0, 1],
    "unequal": [0, 1, 1, 1, 2, 2],
    "unequal mixed": [2, 1, 0, 1, 1, 2, 1],
    "one": [0, 0, 0, 0],
    "single rows": [0, 1, 2],
}
owners = pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS.keys())


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


@owners
def test_unpad_inverts_pad(owner: list[int]) -> None:
    segments = Segments.of(torch.tensor(owner))
    x = randn(len(owner), 2, 3)
    padded = segments.pad(x)
    assert padded.shape == (max(owner) + 1, max(map(owner.count, owner)), 2, 3)
    assert torch.equal(segments.unpad(padded), x)


@owners
def test_the_places_in_use_hold_the_rows_of_each_sequence(owner: list[int]) -> None:
    segments = Segments.of(torch.tensor(owner))
    padded = segments.pad(torch.arange(len(owner)))
    for sequence in range(segments.count):
        used = padded[sequence] if segments.mask is None else padded[sequence][segments.mask[sequence, 0, 0]]
        assert used.tolist() == [row for row, o in enumerate(owner) if o == sequence]


@owners
def test_spread_gives_each_row_its_sequence_s_value(owner: list[int]) -> None:
    segments = Segments.of(torch.tensor(owner))
    values = randn(segments.count, 5)
    assert torch.equal(segments.spread(values).expand(len(owner), 5), values[torch.tensor(owner)])


def test_the_gradient_of_spread_adds_up_in_more_than_half_precision() -> None:
    """A sum in bfloat16 stops at 256."""
    values = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    Segments.dense(2, 5000, torch.device("cpu")).spread(values).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad.float(), torch.full((2, 3), 5000.0), atol=0, rtol=0.01)


def test_a_batch_of_equal_sequences_needs_no_index() -> None:
    dense = Segments.dense(3, 4, torch.device("cpu"))
    assert (dense.rows, dense.mask, dense.place, dense.count) == (None, None, None, 3)
    derived = Segments.of(dense.owner)
    assert (derived.rows, derived.mask, derived.place, derived.count) == (None, None, None, 3)


def test_attend_is_softmax_attention() -> None:
    q, k, v = randn(2, 5, 3, 4), randn(2, 7, 3, 4, seed=2), randn(2, 7, 3, 4, seed=3)
    out = attend(q, k, v)
    for b in range(2):
        assert torch.allclose(out[b], softmax_attention(q[b], k[b], v[b]), atol=1e-6)


def test_a_masked_key_has_no_influence() -> None:
    q, k, v = randn(1, 2, 1, 4), randn(1, 3, 1, 4, seed=2), randn(1, 3, 1, 4, seed=3)
    mask = torch.tensor([[[[True, True, False]]]])
    assert torch.allclose(attend(q, k, v, mask), attend(q, k[:, :2], v[:, :2]), atol=1e-6)


@owners
@pytest.mark.parametrize("normed", [False, True])
def test_self_attention_is_a_loop_over_sequences(owner: list[int], normed: bool) -> None:
    layer = weighted(SelfAttention(12, 3, qk_rms_norm=normed))
    x = randn(len(owner), 12)
    out = layer(x, Segments.of(torch.tensor(owner)))
    for sequence in set(owner):
        rows = torch.tensor(owner) == sequence
        # Rows of the weight are (q, k, v) x heads x dim.
        q, k, v = (layer.to_qkv(x[rows])[:, i * 12 : (i + 1) * 12].reshape(-1, 3, 4) for i in range(3))
        if normed:
            q, k = rms_norm(q, layer.q_rms_norm), rms_norm(k, layer.k_rms_norm)
        expected = layer.to_out(softmax_attention(q, k, v).reshape(-1, 12))
        assert torch.allclose(out[rows], expected, atol=1e-5)


@owners
@pytest.mark.parametrize("normed", [False, True])
def test_cross_attention_sees_the_context_of_its_own_sequence(owner: list[int], normed: bool) -> None:
    layer = weighted(CrossAttention(12, 10, 3, qk_rms_norm=normed))
    x, context = randn(len(owner), 12), randn(max(owner) + 1, 6, 10, seed=2)
    out = layer(x, Segments.of(torch.tensor(owner)), context)
    for sequence in set(owner):
        rows = torch.tensor(owner) == sequence
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


@owners
def test_padding_does_not_change_a_modulated_block(owner: list[int]) -> None:
    block = weighted(ModulatedBlock(12, 10, 3, 2, qk_rms_norm=True, qk_rms_norm_cross=False))
    x, time, context = randn(len(owner), 12), randn(max(owner) + 1, 12, seed=2), randn(max(owner) + 1, 5, 10, seed=3)
    out = block(x, Segments.of(torch.tensor(owner)), time, context)
    for sequence in set(owner):
        rows = torch.tensor(owner) == sequence
        alone = Segments.dense(1, int(rows.sum()), x.device)
        one = slice(sequence, sequence + 1)
        assert torch.allclose(out[rows], block(x[rows], alone, time[one], context[one]), atol=1e-5)


def test_rows_of_another_window_have_no_influence() -> None:
    block = weighted(PlainBlock(12, 3, 2, qk_rms_norm=False))
    owner = torch.tensor(OWNERS["unequal mixed"])
    x = randn(len(owner), 12)
    changed = torch.where(owner[:, None] == 1, x, 100 * x)
    before, after = (block(v, Segments.of(owner)) for v in (x, changed))
    assert torch.equal(before[owner == 1], after[owner == 1])
    assert not torch.allclose(before[owner != 1], after[owner != 1])
