"""Occupied voxels of a batch and what follows from their coordinates alone: neighbours, coarser levels, windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.trellis.segments import Segments

# Room for coordinates -1..1022 per axis (an offset beyond 0..1021) in one integer key.
_AXIS_BITS = 10


class Pooling(NamedTuple):
    """The next coarser level: its voxels, and for each fine row its coarse row."""

    coarse: VoxelGrid
    parent: Tensor


def _keys(batch: Tensor, position: Tensor) -> Tensor:
    """Integer keys that sort as (batch, x, y, z) does; position may be -1 on any axis."""
    key = batch
    for axis in range(3):
        key = (key << _AXIS_BITS) | (position[:, axis] + 1)
    return key


class VoxelGrid:
    """The voxels of a batch: coords [N, 4] integers (batch, x, y, z), 0 <= x, y, z <= 1021, no voxel twice.

    Rows of one batch item are neighbours and items are in order; within an item any order will do. Everything
    derived is computed on first use and kept, since coordinates stay the same for all steps of a sampler.
    """

    def __init__(self, coords: Tensor) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4 or len(coords) == 0:
            raise ValueError(f"coords must be [N, 4] with N > 0, not {list(coords.shape)}")
        self.coords = coords.long()
        if bool((self.coords[:, 0].diff() < 0).any()):
            raise ValueError("the rows of coords must be grouped by batch item, in order")
        self._windows: dict[tuple[int, int], Segments] = {}

    @staticmethod
    def of(positions: Sequence[Tensor]) -> VoxelGrid:
        """The grid of a batch from the voxel indices [N_b, 3] of each of its items."""
        rows = [F.pad(position, (1, 0), value=item) for item, position in enumerate(positions)]
        return VoxelGrid(torch.cat(rows))

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def batch(self) -> Tensor:
        """[N] the batch item of each row."""
        return self.coords[:, 0]

    @property
    def positions(self) -> Tensor:
        """[N, 3] voxel indices x, y, z."""
        return self.coords[:, 1:]

    @cached_property
    def samples(self) -> Segments:
        """The rows of each batch item."""
        return Segments.of(self.batch)

    @cached_property
    def neighbours(self) -> Tensor:
        """[N, 27] int64: the row at each offset of a 3x3x3 kernel, x slowest, or N where there is no voxel.

        Voxels of other batch items are no neighbours.
        """
        keys = _keys(self.batch, self.positions)
        sorted_keys, order = keys.sort()
        steps = torch.tensor([-1, 0, 1], device=keys.device)
        offsets = torch.cartesian_prod(steps, steps, steps)
        wanted = torch.stack([_keys(self.batch, self.positions + offset) for offset in offsets], dim=1)
        slot = torch.searchsorted(sorted_keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(sorted_keys[slot] == wanted, order[slot], len(keys))

    @cached_property
    def pooling(self) -> Pooling:
        """The voxels of half the resolution, sorted by (batch, x, y, z)."""
        coarse = torch.cat([self.coords[:, :1], self.positions // 2], dim=1)
        unique, parent = torch.unique(coarse, dim=0, return_inverse=True)
        return Pooling(VoxelGrid(unique), parent)

    def windows(self, size: int, shift: int) -> Segments:
        """Rows of the same cubic window; window borders are at multiples of `size`, moved by -shift."""
        if (size, shift) not in self._windows:
            window = torch.cat([self.coords[:, :1], (self.positions + shift) // size], dim=1)
            owner = torch.unique(window, dim=0, return_inverse=True)[1]
            self._windows[size, shift] = Segments.of(owner)
        return self._windows[size, shift]


def downsample(features: Tensor, pooling: Pooling) -> Tensor:
    """features [N, C] -> [M, C]: the sum over a coarse voxel's children divided by their count plus one.

    Upstream's pooling counts one zero element more than there are children, and the weights were trained with it.
    """
    total = features.new_zeros(len(pooling.coarse), features.shape[1], dtype=torch.float32)
    total.index_add_(0, pooling.parent, features.float())
    count = torch.bincount(pooling.parent, minlength=len(pooling.coarse))
    return (total / (count[:, None] + 1)).to(features.dtype)


def upsample(features: Tensor, pooling: Pooling) -> Tensor:
    """features [M, C] of the coarse voxels -> [N, C]: each fine voxel takes its parent's."""
    return features.index_select(0, pooling.parent)
