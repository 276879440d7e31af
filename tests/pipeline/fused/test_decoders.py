"""The fused decoders against the plain ones, and upstream's outputs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.fused.gaussian_decoder import FusedGaussianDecoder
from pipeline.fused.structure_decoder import FusedStructureDecoder, norm_silu
from pipeline.fused.window_attention import Windows, window_attention
from pipeline.trellis import VoxelGrid
from pipeline.trellis.attention import attend
from pipeline.trellis.checkpoint import Checkpoint, load_checkpoint
from pipeline.trellis.structure_decoder import ChannelLayerNorm
from pipeline.weights.locate import locate

# In Triton's interpreter.
pytestmark = pytest.mark.slow
# On a GPU, Triton and cuDNN multiply float32 with the digits of TF32.
TOLERANCE = 2e-3 if torch.cuda.is_available() else 3e-5


def assert_close(ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == reference.shape
    difference = float((ours - reference).abs().max() / reference.abs().max())
    assert difference <= tolerance, f"off by {difference:.2e}"


@pytest.fixture(params=[torch.float32, torch.float16], ids=["float32", "float16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def checkpoint(device: torch.device, dtype: torch.dtype, tiny_text_checkpoint: Path) -> Checkpoint:
    loaded = load_checkpoint(locate("embedded", "pipeline.json"), device, dtype)
    if device.type == "cpu":
        # GELU in cuBLAS is the tanh approximation, as the plain one is; in that product on a CPU it is exact.
        for module in loaded.gaussian_decoder.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "none"
    return loaded


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def cluster(generator: torch.Generator, voxels: int, device: torch.device) -> VoxelGrid:
    return VoxelGrid.of([torch.randint(20, 33, (voxels, 3), generator=generator).unique(dim=0).to(device)])


@torch.inference_mode()
def test_structures_are_the_plain_ones(checkpoint, generator, device: torch.device, dtype: torch.dtype) -> None:
    decoder = checkpoint.structure_decoder
    z = torch.randn(3, 1, 8, 4, 4, 4, generator=generator).to(device)
    expected = [decoder(x) for x in z]
    fused = FusedStructureDecoder(decoder)
    results = [fused(x) for x in z]
    for ours, reference in zip(results, expected, strict=True):
        assert_close(ours, reference, TOLERANCE if dtype == torch.float32 else 1e-2)
    # The plain decoder still works on the shared parameters.
    assert_close(decoder(z[0]), expected[0], TOLERANCE if dtype == torch.float32 else 1e-2)


@torch.inference_mode()
@pytest.mark.parametrize("channels", [5, 32, 300])
def test_channels_of_each_voxel_are_normed(generator, device: torch.device, channels: int) -> None:
    x, y = torch.randn(2, 2, channels, 3, 2, 5, generator=generator).to(device)
    x, y = (part.contiguous(memory_format=torch.channels_last_3d) for part in (x, y))
    constant = torch.randn(channels, generator=generator).to(device)
    norm = ChannelLayerNorm(channels).to(device)
    norm.weight.data, norm.bias.data = torch.randn(2, channels, generator=generator).to(device)
    shifted = x + constant[:, None, None, None]
    before = x.clone()
    assert_close(norm_silu(x, norm, constant=constant), F.silu(norm(shifted)), 1e-5)
    assert torch.equal(x, before)
    assert_close(norm_silu(x, norm, y=y, constant=constant), F.silu(norm(shifted + y)), 1e-5)
    assert_close(x, before + y + constant[:, None, None, None], 1e-6)


@torch.inference_mode()
def test_gaussians_are_the_plain_ones(checkpoint, generator, device: torch.device, dtype: torch.dtype) -> None:
    decoder, grid = checkpoint.gaussian_decoder, cluster(generator, 150, device)
    latents = torch.randn(len(grid), 8, generator=generator).to(device)
    expected = decoder(latents, grid)
    assert_close(FusedGaussianDecoder(decoder)(latents, grid), expected, TOLERANCE if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("shift", [0, 4])
def test_windows_are_the_plain_ones(generator, device: torch.device, shift: int) -> None:
    grid = cluster(generator, 300, device)
    windows, plain = Windows.of(grid, 8, shift), grid.windows(8, shift).segment_ids
    assert torch.equal(windows.order[windows.place], torch.arange(len(grid), device=device))
    ids = plain[windows.order]
    assert bool((ids.diff() >= 0).all())
    for place in range(len(grid)):
        members = (ids == ids[place]).nonzero()
        assert (int(windows.starts[place]), int(windows.ends[place])) == (int(members[0]), int(members[-1]) + 1)


def test_windows_at_the_far_end_of_the_largest_grid_stay_apart() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0, 7, 1020, 1021])] * 3)
    windows = Windows.of(VoxelGrid.of([corners, corners]), 8, 4)
    assert len(windows.ids.unique()) == len(VoxelGrid.of([corners, corners]).windows(8, 4).segment_ids.unique())


@torch.inference_mode()
@pytest.mark.parametrize("heads", [2, 3])
def test_attention_stays_inside_windows(generator, device: torch.device, heads: int) -> None:
    grid = cluster(generator, 300, device)
    windows = Windows.of(grid, 8, 4)
    qkv = torch.randn(len(grid), 3 * heads * 20, generator=generator).to(device)
    q, k, v = qkv[None].unflatten(-1, (3, heads, 20)).unbind(2)
    same = windows.ids[:, None] == windows.ids[None, :]
    expected = attend(q, k, v, same[None, None])[0].flatten(1)
    assert_close(window_attention(qkv, windows, heads), expected)
