"""Objects to train on, made once and kept on the device: framed pictures, occupied voxels and what lies in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.trellis import VoxelGrid
from scripts.train_tiny.architecture import IMAGE_SIZE
from scripts.train_tiny.objects import make_thing
from scripts.train_tiny.pictures import framed
from scripts.train_tiny.shapes import Objects, Part
from scripts.train_tiny.voxels import latents, occupancy

# Seeds from here on are never trained on.
HELD_OUT = 10_000_000
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Pool:
    """objects; pictures [N, 3, S, S] uint8 on black; occupied [N, 64, 64, 64] bool; of each object's voxels, in the
    order of their coordinates, the latents [n, 8] float16."""

    objects: Objects
    pictures: Tensor
    occupied: Tensor
    voxel_latents: list[Tensor]

    def latents(self, chosen: Tensor) -> tuple[VoxelGrid, Tensor]:
        """The voxels of some objects and their latents [N, 8] float32."""
        grid = VoxelGrid.of([self.occupied[index].nonzero() for index in chosen])
        return grid, torch.cat([self.voxel_latents[int(index)] for index in chosen]).float()

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Rows of random batches [size], or of all objects if there are fewer, without end."""
        size = min(size, len(self.objects))
        while True:
            order = torch.randperm(len(self.objects), generator=generator)
            yield from order[: len(order) // size * size].to(self.pictures.device).split(size)


def _parts(seed: int) -> tuple[Part, ...]:
    return make_thing(seed).parts


def make_objects(seeds: range, device: torch.device) -> Objects:
    """The objects of consecutive seeds."""
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        return Objects.of(list(workers.map(_parts, seeds, chunksize=256)), device)


@torch.no_grad()
def make_pool(count: int, device: torch.device, first_seed: int = 0) -> Pool:
    """The first `count` objects from a seed on; count is rounded down to full chunks."""
    seeds = range(first_seed, first_seed + count // _CHUNK * _CHUNK)
    objects = make_objects(seeds, device)
    pictures, occupied, values = [], [], []
    for start in range(0, len(objects), _CHUNK):
        part = objects[start : start + _CHUNK]
        pictures.append((framed(part, IMAGE_SIZE) * 255).round().byte())
        occupied.append(occupancy(part))
        values += [rows.half() for rows in latents(part, occupied[-1])]
    return Pool(objects, torch.cat(pictures), torch.cat(occupied), values)
