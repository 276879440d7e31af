"""The fused flows against the plain ones, on small checkpoints."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import CheckpointSource, ComputeConfig, Generator, Request, SamplerParams, TextPrompt, choose_compute
from pipeline.fused.flows import FusedFlows
from pipeline.fused.graphs import GraphPool
from pipeline.fused.latent_flow import FusedLatentFlow
from pipeline.fused.residual import NeighbourMaps, padded_rows, pool
from pipeline.fused.structure_flow import FusedStructureFlow
from pipeline.params import NEGATIVE, Conditions
from pipeline.sampling.engine import grid_of_size
from pipeline.sampling.velocity import PlainFlows
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import Checkpoint, load_checkpoint
from pipeline.trellis.voxels import downsample
from pipeline.weights.locate import locate

# In Triton's interpreter.
pytestmark = pytest.mark.slow
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TIMES = (1.0, 0.7)
# On a GPU, Triton multiplies float32 with the digits of TF32.
TOLERANCE = 2e-3 if torch.cuda.is_available() else 3e-5


@pytest.fixture(params=["image", "text"])
def checkpoint(request: pytest.FixtureRequest, tiny_text_checkpoint: Path, device: torch.device) -> Checkpoint:
    directory = locate("embedded", "pipeline.json") if request.param == "image" else tiny_text_checkpoint
    loaded = load_checkpoint(directory, device, torch.float32)
    if device.type == "cpu":
        # GELU in cuBLAS is the tanh approximation, as the plain one is; in that product on a CPU it is exact.
        for module in (*loaded.structure_flow.modules(), *loaded.latent_flow.modules()):
            if isinstance(module, nn.GELU):
                module.approximate = "none"
    return loaded


@pytest.fixture
def conditions(checkpoint: Checkpoint, device: torch.device) -> Conditions:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 1, 20, checkpoint.cond_channels, generator=generator).to(device)
    negative = tokens[2] if "text_cond_model" in checkpoint.encoders else None
    return Conditions((tokens[0], tokens[1]), negative)


@pytest.fixture
def grid(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> VoxelGrid:
    # The interpreter takes long for each row that only fills up.
    if device.type == "cpu":
        monkeypatch.setattr("pipeline.fused.residual.COARSE_BUCKET", 4)
        monkeypatch.setattr("pipeline.fused.residual.FINE_BUCKET", 10)
    generator = torch.Generator().manual_seed(1)
    return VoxelGrid.of([torch.randint(20, 25, (25, 3), generator=generator).unique(dim=0).to(device)])


def graph_pool(device: torch.device) -> GraphPool | None:
    return GraphPool(device) if device.type == "cuda" else None


# Indices of contexts. The interpreter takes seconds for each combination.
COMBINATIONS = [[NEGATIVE, 1], *([[0], [0, NEGATIVE], [1, 0, NEGATIVE]] if torch.cuda.is_available() else [])]


def assert_close(ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == reference.shape
    difference = float((ours - reference).abs().max() / reference.abs().max())
    assert difference <= tolerance, f"off by {difference:.2e}"


@torch.inference_mode()
def test_latent_velocities_are_the_plain_ones(checkpoint, conditions, grid: VoxelGrid, device: torch.device) -> None:
    x = torch.randn(len(grid), 8, generator=torch.Generator().manual_seed(2)).to(device)
    plain = PlainFlows(checkpoint.structure_flow, checkpoint.latent_flow).prepare_latents(TIMES, conditions, grid)
    expected = [plain(x, 1, indices) for indices in COMBINATIONS]
    fused = FusedLatentFlow(checkpoint.latent_flow, graph_pool(device)).prepare(TIMES, conditions, grid)
    before = x.clone()
    for indices, reference in zip(COMBINATIONS, expected, strict=True):
        for ours, velocity in zip(fused(x, 1, indices), reference, strict=True):
            assert_close(ours, velocity)
    if device.type == "cuda":
        # Captured the second time, with another input and another time, and replayed the third.
        indices = COMBINATIONS[0]
        for factor, step in ((2.0, 0), (1.0, 1)):
            for ours, velocity in zip(fused(factor * x, step, indices), plain(factor * x, step, indices), strict=True):
                assert_close(ours, velocity)
    assert torch.equal(x, before)
    (at_another_time,), (reference,) = (flows(x, 0, [1]) for flows in (fused, plain))
    assert_close(at_another_time, reference)
    with pytest.raises(AssertionError, match="off by"):
        assert_close(at_another_time, expected[0][1])


@torch.inference_mode()
def test_structure_velocities_are_the_plain_ones(checkpoint, conditions, device: torch.device) -> None:
    flow = checkpoint.structure_flow
    x = torch.randn(1, 8, 16, 16, 16, generator=torch.Generator().manual_seed(3)).to(device)
    plain = PlainFlows(flow, checkpoint.latent_flow).prepare_structure(TIMES, conditions)
    fused = FusedStructureFlow(flow, graph_pool(device)).prepare(TIMES, conditions)
    for indices in COMBINATIONS:
        # On a GPU run the first time, captured the second and replayed the third.
        for factor, step in [(1.0, 1), (2.0, 0), (1.0, 1)][: 3 if device.type == "cuda" else 1]:
            for ours, velocity in zip(fused(factor * x, step, indices), plain(factor * x, step, indices), strict=True):
                assert_close(ours, velocity)


@torch.inference_mode()
def test_the_plain_path_still_runs_on_the_shared_parameters(checkpoint, conditions, grid: VoxelGrid, device) -> None:
    plain = PlainFlows(checkpoint.structure_flow, checkpoint.latent_flow)
    x = torch.randn(len(grid), 8, generator=torch.Generator().manual_seed(4)).to(device)
    before = plain.prepare_latents(TIMES, conditions, grid)(x, 1, [0])[0]
    FusedFlows(checkpoint.structure_flow, checkpoint.latent_flow)
    assert_close(plain.prepare_latents(TIMES, conditions, grid)(x, 1, [0])[0], before, 1e-6)


def test_pooling_by_maps_is_the_plain_pooling(grid: VoxelGrid, device: torch.device) -> None:
    x = torch.randn(len(grid), 16, generator=torch.Generator().manual_seed(5)).to(device)
    expected = downsample(x, grid.pooling)
    maps, coarse = NeighbourMaps.of([grid, grid.pooling.coarse])
    filled = F.pad(x, (0, 0, 0, len(maps.neighbours) - len(x)), value=7.0)
    pooled = pool(filled[None], maps)[0]
    assert len(pooled) == len(coarse.neighbours)
    assert torch.allclose(pooled[: coarse.rows], expected, atol=1e-6)


@pytest.mark.parametrize(("cells", "voxels"), [(1, 1), (7, 49), (256, 1024), (300, 2400)])
def test_structures_to_warm_up_with_have_the_sizes_asked_for(cells: int, voxels: int) -> None:
    grid = grid_of_size(cells, voxels, torch.device("cpu"))
    assert len(grid.coords.unique(dim=0)) == voxels
    assert len(grid.pooling.coarse) == cells


def test_all_sizes_are_those_that_structures_are_padded_to() -> None:
    sizes = FusedFlows.warm_up_sizes
    assert [padded_rows(cells, coarsest=True) for cells, _ in sizes] == [cells for cells, _ in sizes]
    for voxels in (1, 1024, 1025, 12_000, 24_576):
        assert padded_rows(voxels, coarsest=False) in [size for _, size in sizes]


def compute(kernels: str) -> ComputeConfig:
    return choose_compute("cuda", "float16", "plain" if kernels == "plain" else "fused")


@cuda
def test_whole_objects_are_close_to_the_plain_ones() -> None:
    params = SamplerParams(steps=12, cfg_strength=5.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
    request = Request(TextPrompt("a red chair"), 3, params, params)
    plain, fused = (
        Generator.load(compute(kernels), text=CheckpointSource("embedded-text"), background_models=["u2netp"])
        for kernels in ("plain", "fused")
    )
    expected, made = plain.generate(request), fused.generate(request)
    assert abs(made.voxels - expected.voxels) <= 0.02 * expected.voxels
    again = fused.generate(request)
    assert torch.equal(again.splats.means, made.splats.means)
