"""Occupied voxels of a batch, with the neighbours, coarser levels and windows that follow from their coordinates."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.trellis.segments import Segments

# Bits per axis of an integer key, enough for coordinates -1..1022, one offset beyond 0..1021.
_AXIS_BITS = 10


class Pooling(NamedTuple):
    """The next coarser level: its voxels, and for each fine row its coarse row and which of the 8 children it is."""

    coarse: "VoxelGrid"
    parent: Tensor
    octant: Tensor


def _keys(batch: Tensor, position: Tensor) -> Tensor:
    """Return integer keys that sort as (batch, x, y, z) does; position may be -1 on any axis."""
    key = batch
    for axis in range(3):
        key = (key << _AXIS_BITS) | (position[:, axis] + 1)
    return key


class VoxelGrid:
    """The voxels of a batch: coords [N, 4] integers (batch, x, y, z), 0 <= x, y, z <= 1021, no voxel twice.

    batch [N] is the batch item of each row, positions [N, 3] its voxel indices x, y, z. The rows of a batch item are
    adjacent and items are in order; within an item, any order is allowed. Derived data is computed on first use and
    kept, since coordinates stay the same for all steps of a sampler.
    """

    def __init__(self, coords: Tensor) -> None:
        """Check and take coordinates; raise ValueError if their shape or the order of items is wrong."""
        if coords.ndim != 2 or coords.shape[1] != 4 or len(coords) == 0:
            raise ValueError(f"coords must be [N, 4] with N > 0, not {list(coords.shape)}")
        self.coords = coords.long()
        self.batch, self.positions = self.coords[:, 0], self.coords[:, 1:]
        if bool((self.batch.diff() < 0).any()):
            raise ValueError("the rows of coords must be grouped by batch item, in order")
        self._windows: dict[tuple[int, int], Segments] = {}

    @staticmethod
    def of(positions: Sequence[Tensor]) -> "VoxelGrid":
        """Build the grid of a batch from the voxel indices [N_b, 3] of each of its items."""
        rows = [F.pad(position, (1, 0), value=item) for item, position in enumerate(positions)]
        return VoxelGrid(torch.cat(rows))

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self.coords)

    @cached_property
    def samples(self) -> Segments:
        """Assignment of the rows to batch items."""
        return Segments.of(self.batch)

    @cached_property
    def neighbours(self) -> Tensor:
        """Row at each offset of a 3x3x3 kernel, x slowest, or N where there is no voxel: [N, 27] int64.

        Voxels of other batch items are not neighbours.
        """
        keys = _keys(self.batch, self.positions)
        sorted_keys, order = keys.sort()
        steps = torch.tensor([-1, 0, 1], device=keys.device)
        offsets = torch.cartesian_prod(steps, steps, steps)
        neighbour_keys = torch.stack([_keys(self.batch, self.positions + offset) for offset in offsets], dim=1)
        slot = torch.searchsorted(sorted_keys, neighbour_keys).clamp(max=len(keys) - 1)
        return torch.where(sorted_keys[slot] == neighbour_keys, order[slot], len(keys))

    @cached_property
    def pooling(self) -> Pooling:
        """Next coarser level, of half the resolution, sorted by (batch, x, y, z)."""
        coarse = torch.cat([self.coords[:, :1], self.positions // 2], dim=1)
        unique, parent = torch.unique(coarse, dim=0, return_inverse=True)
        x, y, z = (self.positions % 2).unbind(1)
        return Pooling(VoxelGrid(unique), parent, 4 * x + 2 * y + z)

    def windows(self, size: int, shift: int) -> Segments:
        """Assign the rows to cubic windows, whose borders are at multiples of `size`, moved by -shift."""
        if (size, shift) not in self._windows:
            window = torch.cat([self.coords[:, :1], (self.positions + shift) // size], dim=1)
            window_ids = torch.unique(window, dim=0, return_inverse=True)[1]
            self._windows[size, shift] = Segments.of(window_ids)
        return self._windows[size, shift]


def downsample(features: Tensor, pooling: Pooling) -> Tensor:
    """Divide the sum over each coarse voxel's children by their count plus one: [N, C] -> [M, C].

    Upstream's pooling counts one zero element too many, and the weights were trained with it.
    """
    # Summed in one order, which index_add_ on a GPU does not promise.
    children = features.new_zeros(len(pooling.coarse), 8, features.shape[1], dtype=torch.float32)
    children[pooling.parent, pooling.octant] = features.float()
    count = torch.bincount(pooling.parent, minlength=len(pooling.coarse))
    return (children.sum(1) / (count[:, None] + 1)).to(features.dtype)


def upsample(features: Tensor, pooling: Pooling) -> Tensor:
    """Give each fine voxel the features of its parent: [M, C] -> [N, C]."""
    return features.index_select(0, pooling.parent)
