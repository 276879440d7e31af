"""Objects to train on, made once and kept on the device: pictures, captions, occupied voxels and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.trellis import VoxelGrid
from scripts.train_tiny.architecture import IMAGE_SIZE, PATCH_PARTS, PATCH_SIZE
from scripts.train_tiny.distances import Objects
from scripts.train_tiny.objects import Thing, make_thing
from scripts.train_tiny.pictures import framed
from scripts.train_tiny.voxels import latents, occupancy

# Seeds from here on are never trained on.
HELD_OUT = 10_000_000
_AT_ONCE = 64
_WORTH_PROCESSES = 1000
_ENLARGED = 4.0


@dataclass(frozen=True, eq=False)
class Pool:
    """captions of N objects; pictures [N, 3, S, S] uint8 on black and what is in their patches [N, P, 28] float16;
    occupied [N, 64, 64, 64] bool; of each object's voxels, in the order of their coordinates, the latents [n, 8]
    float16."""

    captions: list[str]
    pictures: Tensor
    patches: Tensor
    occupied: Tensor
    voxel_latents: list[Tensor]

    def latents(self, chosen: Tensor) -> tuple[VoxelGrid, Tensor]:
        """The voxels of some objects and their latents [N, 8] float32."""
        grid = VoxelGrid(self.occupied[chosen].nonzero())
        return grid, torch.cat([self.voxel_latents[index].float() for index in chosen.tolist()])

    def some(self, count: int) -> Tensor:
        """Rows of so many objects, or of all if there are fewer, of every category, which lie side by side."""
        return torch.arange(0, len(self.captions), max(1, len(self.captions) // count), device=self.pictures.device)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Rows of random batches [size], or of all objects if there are fewer, without end."""
        size = min(size, len(self.captions))
        while True:
            order = torch.randperm(len(self.captions), generator=generator)
            yield from order[: len(order) // size * size].to(self.pictures.device).split(size)


def _make_things(seeds: range) -> list[Thing]:
    if len(seeds) < _WORTH_PROCESSES:
        return [make_thing(seed) for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        return list(workers.map(make_thing, seeds, chunksize=256))


@torch.no_grad()
def make_pool(count: int, device: torch.device, first_seed: int = 0) -> Pool:
    """The first `count` objects from a seed on."""
    # By category, since objects with parts of the same kinds are measured faster together; batches are random anyway.
    things = sorted(_make_things(range(first_seed, first_seed + count)), key=lambda thing: thing.category)
    pictures, patches, occupied, values = [], [], [], []
    at_once = _AT_ONCE if device.type == "cuda" else 1
    for start in range(0, len(things), at_once):
        part = Objects.of([thing.parts for thing in things[start : start + at_once]], device)
        seen = framed(part, IMAGE_SIZE)
        pictures.append((seen[:, :3] * 255).round().byte())
        patches.append(patch_contents(seen).half())
        occupied.append(occupancy(part))
        values += [rows.half() for rows in latents(part, occupied[-1])]
    captions = [thing.caption for thing in things]
    return Pool(captions, torch.cat(pictures), torch.cat(patches), torch.cat(occupied), values)


def patch_contents(seen: Tensor) -> Tensor:
    """What `framed` draws, [B, 7, S, S] -> [B, patches, 28]: means over the quarters of each patch; the points that are
    seen are enlarged, so that they weigh as much as colours."""
    cells = F.avg_pool2d(seen, PATCH_SIZE // PATCH_PARTS)
    cells = torch.cat([cells[:, :4], _ENLARGED * cells[:, 4:]], dim=1)
    return F.unfold(cells, PATCH_PARTS, stride=PATCH_PARTS).transpose(1, 2)
