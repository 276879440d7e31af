import itertools

import pytest
import torch
from torch import Tensor

from pipeline.trellis.voxels import VoxelGrid, downsample, upsample

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
OFFSETS = list(itertools.product((-1, 0, 1), repeat=3))


def random_coords(counts: list[int], size: int, seed: int = 0, low: int = 0) -> Tensor:
    """Distinct voxels of each batch item in random order."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for batch, count in enumerate(counts):
        flat = torch.randperm(size**3, generator=generator)[:count]
        xyz = torch.stack([flat // size**2, flat // size % size, flat % size], dim=1) + low
        items.append(torch.cat([torch.full((count, 1), batch), xyz], dim=1))
    return torch.cat(items).int()


def rows(coords: Tensor) -> dict[tuple[int, ...], int]:
    return {tuple(c): i for i, c in enumerate(coords.tolist())}


# Grids that touch both ends of what coordinates may be, with one voxel, and with several items.
GRIDS = [
    random_coords([40, 25], 5),
    random_coords([60], 6, seed=1),
    random_coords([1], 64, seed=2),
    random_coords([27, 27, 27], 3, seed=3),
    random_coords([20, 20], 4, seed=4, low=1018),
]


@pytest.mark.parametrize("coords", GRIDS)
def test_neighbours_are_those_of_a_search(coords: Tensor) -> None:
    row = rows(coords)
    expected = [[row.get((b, x + i, y + j, z + k), len(row)) for i, j, k in OFFSETS] for b, x, y, z in row]
    assert VoxelGrid(coords).neighbours.tolist() == expected


def test_neighbours_never_cross_batch_items_or_borders() -> None:
    # The last voxel of item 0 and the first of item 1, and voxels that an index carried over an axis would join.
    coords = torch.tensor([[0, 1, 0, 1021], [0, 1, 1, 0], [0, 1021, 1021, 1021], [1, 0, 0, 0], [1, 1, 1, 0]])
    neighbours = VoxelGrid(coords).neighbours
    present = {(i, *OFFSETS[j], int(neighbours[i, j])) for i, j in torch.nonzero(neighbours < 5).tolist()}
    assert present == {(i, 0, 0, 0, i) for i in range(5)} | {(3, 1, 1, 0, 4), (4, -1, -1, 0, 3)}


@pytest.mark.parametrize("coords", GRIDS)
def test_pooling_halves_sorts_and_knows_parents(coords: Tensor) -> None:
    coarse, parent, _ = VoxelGrid(coords).pooling
    halved = [(b, x // 2, y // 2, z // 2) for b, x, y, z in coords.tolist()]
    assert coarse.coords.tolist() == [list(c) for c in sorted(set(halved))]
    assert [tuple(coarse.coords[p].tolist()) for p in parent.tolist()] == halved


def test_downsample_divides_by_one_more_than_the_children() -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]])[[0, 1, 2, 4, 3]]
    features = torch.tensor([[1.0], [10.0], [2.0], [3.0], [100.0]])
    assert downsample(features, VoxelGrid(coords).pooling).tolist() == [[6 / 4], [10 / 2], [100 / 2]]


@pytest.mark.parametrize("coords", GRIDS)
def test_downsample_is_a_loop_over_children_and_upsample_copies_parents(coords: Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(coords), 6, generator=generator)
    pooling = VoxelGrid(coords).pooling
    pooled = downsample(features, pooling)
    for index in range(len(pooling.coarse)):
        children = features[pooling.parent == index]
        assert torch.allclose(pooled[index], children.sum(0) / (len(children) + 1), atol=1e-6)
    spread = upsample(pooled, pooling)
    assert spread.shape == features.shape
    assert all(torch.equal(spread[i], pooled[p]) for i, p in enumerate(pooling.parent.tolist()))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_downsample_gives_the_same_bits_each_time_and_in_any_order_of_the_rows(device: str) -> None:
    generator = torch.Generator().manual_seed(5)
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(24)] * 3).to(device)
    features = torch.randn(len(coords), 64, generator=generator).to(device)
    pooled = downsample(features, VoxelGrid(coords).pooling)
    order = torch.randperm(len(coords), generator=generator).to(device)
    assert torch.equal(downsample(features[order], VoxelGrid(coords[order]).pooling), pooled)
    assert torch.equal(downsample(features, VoxelGrid(coords).pooling), pooled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_downsample_sums_in_float32_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    coords = torch.cartesian_prod(*[torch.arange(2)] * 3)
    grid = VoxelGrid(torch.cat([torch.zeros(8, 1, dtype=torch.int64), coords], dim=1))
    # In half precision 2048 + 1 is 2048 (in bfloat16 256 + 1 is 256).
    features = torch.tensor([[2048.0 if dtype == torch.float16 else 256.0]] + [[1.0]] * 7, dtype=dtype)
    pooled = downsample(features, grid.pooling)
    assert pooled.dtype == dtype
    assert pooled.item() == (features.float().sum() / 9).to(dtype).item()


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("coords", [random_coords([300, 200], 20, seed=6), *GRIDS])
def test_windows_are_cubes_of_one_batch_item(coords: Tensor, shift: int) -> None:
    windows = VoxelGrid(coords).windows(8, shift)
    names = [(b, *((v + shift) // 8 for v in xyz)) for b, *xyz in coords.tolist()]
    ordinal = {name: i for i, name in enumerate(sorted(set(names)))}
    assert windows.count == len(ordinal)
    assert windows.segment_ids.tolist() == [ordinal[name] for name in names]


def test_what_is_derived_is_derived_once() -> None:
    grid = VoxelGrid(GRIDS[0])
    assert grid.windows(8, 4) is grid.windows(8, 4)
    assert grid.windows(8, 0) is not grid.windows(8, 4)
    assert grid.windows(4, 0) is not grid.windows(8, 0)
    assert grid.pooling is grid.pooling
    assert grid.neighbours is grid.neighbours


def test_samples_are_the_batch_items() -> None:
    grid = VoxelGrid(random_coords([3, 5], 4))
    assert len(grid) == 8
    assert grid.samples.count == 2
    assert grid.samples.segment_ids.tolist() == [0] * 3 + [1] * 5
    assert grid.batch.tolist() == [0] * 3 + [1] * 5
    assert torch.equal(grid.positions, grid.coords[:, 1:])
    assert grid.coords.dtype == torch.int64


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (torch.zeros(0, 4), r"coords must be \[N, 4\] with N > 0, not \[0, 4\]"),
        (torch.zeros(5, 3), r"not \[5, 3\]"),
        (torch.zeros(4), r"not \[4\]"),
        (torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]), "grouped by batch item, in order"),
        (torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]), "grouped by batch item, in order"),
    ],
)
def test_coordinates_of_another_form_are_refused(coords: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelGrid(coords)
