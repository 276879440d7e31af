"""Each kernel against the same in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.fused import products
from pipeline.fused.activations import FP8_MAX, Activations
from pipeline.fused.attention import flash_attend
from pipeline.fused.convolution import OFFSETS, gather_sum, pack_kernel
from pipeline.fused.linear import FusedLinear
from pipeline.fused.norms import add_norm, head_norm
from pipeline.trellis import VoxelGrid
from pipeline.trellis.attention import attend
from pipeline.trellis.layers import MultiHeadRMSNorm
from pipeline.trellis.sparse_blocks import SparseConv3d

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


# GPUs multiply float32 with fewer digits unless told otherwise, and the interpreter has no bfloat16.
DTYPES = [torch.float16, torch.bfloat16] if torch.cuda.is_available() else [torch.float32, torch.float16]


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype)[6:])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def draw(device: torch.device, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return numbers


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert ours.shape == reference.shape
    difference = float((ours.float() - reference.float()).abs().max() / reference.float().abs().max())
    assert difference <= TOLERANCE[ours.dtype], f"off by {difference:.2e}"


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


@pytest.mark.parametrize("channels", [48, 64, 80])
def test_a_residual_with_gate_and_constant_is_added_then_normed_and_modulated(draw, dtype, channels: int) -> None:
    x, y = draw(5, channels), draw(5, channels)
    gate, constant, scale, shift = (draw(channels) for _ in range(4))
    expected = x.float() + gate.float() * y.float() + constant.float()
    out = add_norm(x, y=y, gate=gate, constant=constant, modulation=(scale, shift)).values
    assert_close(x, expected)
    assert_close(out, norm(expected.to(dtype)) * (1 + scale.float()) + shift.float())


def test_without_a_residual_x_stays_as_it_is(draw) -> None:
    x, weight, bias = draw(7, 96), draw(96, dtype=torch.float32), draw(96, dtype=torch.float32)
    before = x.clone()
    assert_close(add_norm(x, affine=(weight, bias)).values, norm(x) * weight + bias)
    assert_close(add_norm(x, affine=(weight, bias), silu=True).values, F.silu(norm(x) * weight + bias))
    assert_close(add_norm(x).values, norm(x))
    assert torch.equal(x, before)


def test_a_residual_without_gate_is_added_as_it_is(draw) -> None:
    x, y = draw(3, 32), draw(3, 32)
    out, expected = Activations.empty_like(x, fp8=False), x.float() + y.float()
    assert add_norm(x, y=y, out=out) is out
    assert_close(out.values, norm(expected.to(x.dtype)))


@pytest.mark.parametrize(("heads", "head_dim"), [(3, 20), (4, 16)])
def test_only_queries_and_keys_are_normed_by_head(draw, heads: int, head_dim: int) -> None:
    qkv = draw(6, 3 * heads * head_dim)
    gammas = draw(2, heads, head_dim, dtype=torch.float32)
    expected = qkv.clone().unflatten(-1, (3, heads, head_dim))
    for part in range(2):
        plain = MultiHeadRMSNorm(heads, head_dim).to(qkv.device)
        plain.gamma.data = gammas[part]
        expected[:, part] = plain(expected[:, part])
    head_norm(qkv, gammas)
    assert_close(qkv, expected.detach().flatten(1))


def test_a_head_of_zeros_stays_zero(draw) -> None:
    x = draw(2, 32) * 0
    head_norm(x, torch.ones(1, 2, 16, device=x.device))
    assert not x.any()


@pytest.mark.parametrize(
    ("queries", "keys", "head_dim"), [(1, 1, 16), (64, 64, 20), (65, 130, 64), (100, 31, 16), (7, 200, 20)]
)
def test_attention_of_any_length(draw, queries: int, keys: int, head_dim: int) -> None:
    packed, kv = draw(2, queries, 3, 3, head_dim), draw(2, keys, 2, 3, head_dim)
    q, (k, v) = packed[:, :, 0], kv.unbind(2)
    expected = attend(*(part.float() for part in (q, k, v)))
    assert_close(flash_attend(q, k, v), expected)


def test_attention_survives_scores_that_are_far_from_zero(draw) -> None:
    q, k, v = draw(1, 20, 2, 16), draw(1, 80, 2, 16), draw(1, 80, 2, 16)
    for factor in (1e-4, 30.0, -30.0):
        assert_close(flash_attend(q * factor, k, v), attend((q * factor).float(), k.float(), v.float()))


def reference_sum(products: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    terms = F.pad(products.float().unflatten(-1, (OFFSETS, -1)), (0, 0, 0, 0, 0, 1))
    rows = table.long()
    return terms[:, torch.where(rows < 0, -1, rows), torch.arange(OFFSETS, device=rows.device)].sum(2) + bias.float()


def test_neighbours_that_exist_are_summed(draw) -> None:
    generator = torch.Generator().manual_seed(1)
    products, bias = draw(2, 6, OFFSETS * 24), draw(24)
    table = torch.randint(-1, 6, (9, OFFSETS), generator=generator).int().to(products.device)
    table[4] = -1
    expected = reference_sum(products, table, bias)
    assert_close(gather_sum(products, table, bias), expected)

    skip, own = draw(2, 4, 24), draw(2, 9, 24)
    rows = torch.randint(0, 4, (9,), generator=generator).int().to(products.device)
    assert_close(gather_sum(products, table, bias, skip=own), expected + own.float())
    chosen = gather_sum(products, table, bias, skip=skip, skip_rows=rows)
    assert_close(chosen, expected + skip[:, rows.long()].float())

    scale, shift = draw(24), draw(24)
    modulated = F.silu(norm(expected.to(products.dtype)) * (1 + scale.float()) + shift.float())
    assert_close(gather_sum(products, table, bias, modulation=(scale, shift)), modulated)


@torch.no_grad()
def test_products_and_sum_are_the_convolution(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    coords = torch.randint(0, 5, (60, 3), generator=generator).unique(dim=0).to(device)
    grid = VoxelGrid.of([coords])
    plain = SparseConv3d(12, 20).to(device)
    for parameter in plain.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(device)
    x = torch.randn(len(grid), 12, generator=generator).to(device)
    expected, weight = plain(x, grid), plain.conv.weight.detach().clone()
    packed = pack_kernel(plain.conv.weight)
    table = grid.neighbours.masked_fill(grid.neighbours == len(grid), -1).int()
    ours = gather_sum(F.linear(x, packed)[None], table, plain.conv.bias)
    assert_close(ours[0], expected)
    assert torch.equal(plain.conv.weight, weight)
    assert plain.conv.weight.data_ptr() == packed.data_ptr()
    assert torch.equal(plain(x, grid), expected)


def restored(rows: Activations) -> Tensor:
    assert rows.scales is not None
    return rows.values.float() * rows.scales


# Half of the last of three mantissa bits, relative to the number; and of the smallest number, relative to the largest.
FP8_RELATIVE, FP8_ABSOLUTE = 2**-4, 2**-10 / FP8_MAX


def assert_close_to_fp8(rows: Activations, reference: Tensor) -> None:
    reference = reference.float()
    bound = FP8_RELATIVE * reference.abs() + FP8_ABSOLUTE * reference.abs().amax(1, keepdim=True)
    assert bool(((restored(rows) - reference).abs() <= 1.01 * bound + 1e-6).all())
    assert rows.values.dtype == torch.float8_e4m3fn


# The interpreter cuts 8-bit floats off instead of rounding them.
hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0), reason="needs a Hopper GPU"
)


def linear(draw, outputs: int, inputs: int) -> nn.Linear:
    """Return a layer in half precision whose outputs are about as large as its inputs."""
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight, layer.bias = (nn.Parameter(x, False) for x in (draw(outputs, inputs) / inputs**0.5, draw(outputs)))
    return layer


# Rows and inputs that end within a tile's, and more tiles than multiprocessors.
@hopper
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 768, 64), (300, 768, 192), (8192, 3072, 1024)])
def test_a_product_whose_heads_are_normed_in_its_epilogue(draw, rows: int, outputs: int, inputs: int) -> None:
    layer, x = linear(draw, outputs, inputs), draw(rows, inputs)
    gammas = draw(2, outputs // 3 // 64, 64, dtype=torch.float32)
    expected = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    parts = expected.unflatten(-1, (3, -1, 64))
    parts[:, :2] = F.normalize(parts[:, :2], dim=-1) * gammas * 8
    assert products.fits(layer)
    assert_close(FusedLinear(layer, fp8=False).normed_heads(Activations(x), gammas), expected)


@hopper
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 256, 64), (300, 256, 192), (8192, 1024, 4096)])
def test_a_product_that_is_added_to_the_residual(draw, rows: int, outputs: int, inputs: int) -> None:
    layer, x, gate = linear(draw, outputs, inputs), draw(rows, inputs), draw(outputs)
    fused = FusedLinear(layer, fp8=False)
    product = F.linear(x.float(), layer.weight.float(), layer.bias.float())
    for factor, expected in ((None, product), (gate, gate.float() * product)):
        residual = draw(rows, outputs)
        expected = residual.float() + expected
        assert fused.add_to(residual, Activations(x), factor) is None
        assert_close(residual, expected)


@pytest.mark.parametrize("heads", [4, 3])
def test_a_layer_of_another_shape_leaves_the_sum_to_the_caller(draw, heads: int) -> None:
    layer, x = linear(draw, 3 * heads * 20, 48), draw(5, 48)
    fused, gammas = FusedLinear(layer, fp8=False), draw(2, heads, 20, dtype=torch.float32)
    product = F.linear(x, layer.weight, layer.bias)
    residual = torch.zeros_like(product)
    assert_close(fused.add_to(residual, Activations(x), None), product)
    assert not residual.any()
    head_norm(product, gammas)
    assert_close(fused.normed_heads(Activations(x), gammas), product)


@hopper
def test_rows_in_8_bits_use_the_whole_range_of_each_row(draw) -> None:
    x, weight, bias = draw(6, 40), draw(40, dtype=torch.float32), draw(40, dtype=torch.float32)
    expected = norm(x) * weight + bias
    out = add_norm(x, affine=(weight, bias), out=Activations.empty_like(x, fp8=True))
    assert_close_to_fp8(out, expected)
    assert torch.equal(out.values.float().abs().amax(1), torch.full((6,), FP8_MAX, device=x.device))


@hopper
@pytest.mark.parametrize("rows", [1, 37, 64])
def test_products_in_8_bits(device: torch.device, rows: int) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(128, 256).to(device, torch.float16).requires_grad_(False)
    x = torch.randn(rows, 128, generator=generator).to(device, torch.float16)
    linear = FusedLinear(layer, fp8=True)
    eight = add_norm(x, out=Activations.empty_like(x, fp8=True))
    weight = linear._weight.T.float() * linear._scales.T
    expected = restored(eight) @ weight.T + layer.bias.float()
    assert_close(linear(eight), expected)
    hidden = F.gelu(linear(eight).float(), approximate="tanh")
    assert_close_to_fp8(linear.apply_with_gelu(eight), hidden)
    half = linear(add_norm(x))
    assert float((linear(eight).float() - half.float()).norm() / half.float().norm()) < 0.06
