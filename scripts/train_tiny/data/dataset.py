"""The training set, made once and kept on the device: images, captions, occupied voxels and their latents."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.trellis import VoxelGrid
from scripts.train_tiny.architecture import IMAGE_SIZE, PATCH_DIVISIONS, PATCH_SIZE
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import ToyObject, make_object
from scripts.train_tiny.data.rendering import render_framed
from scripts.train_tiny.data.voxels import surface_latents, voxelize

# Objects of seeds from here on are never trained on.
FIRST_HELD_OUT_SEED = 10_000_000
_GPU_BATCH = 64
# Fewer objects are made in this process, since starting others takes longer.
_MULTIPROCESSING_THRESHOLD = 1000
_POINT_WEIGHT = 4.0


@dataclass(frozen=True, eq=False)
class Dataset:
    """N objects as tensors on one device.

    images: [N, 3, S, S] uint8, on black.
    patches: [N, P, 28] float16, what the image tokens have to predict of their patches, see `patch_targets`.
    occupancy: [N, 64, 64, 64] bool.
    voxel_latents: for each object the latents [n, 8] float16 of its voxels, in the order of their coordinates.
    """

    captions: list[str]
    images: Tensor
    patches: Tensor
    occupancy: Tensor
    voxel_latents: list[Tensor]

    def latents(self, rows: Tensor) -> tuple[VoxelGrid, Tensor]:
        """Return the voxels of some objects and their latents [N, 8] float32."""
        grid = VoxelGrid(self.occupancy[rows].nonzero())
        return grid, torch.cat([self.voxel_latents[row].float() for row in rows.tolist()])

    def spaced_rows(self, count: int) -> Tensor:
        """Return `count` evenly spaced rows of all categories, by which objects are sorted; all if there are fewer."""
        return torch.arange(0, len(self.captions), max(1, len(self.captions) // count), device=self.images.device)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield rows of random batches [size], or of all objects if there are fewer, without end."""
        size = min(size, len(self.captions))
        while True:
            order = torch.randperm(len(self.captions), generator=generator)
            yield from order[: len(order) // size * size].to(self.images.device).split(size)


def _make_objects(seeds: range) -> list[ToyObject]:
    if len(seeds) < _MULTIPROCESSING_THRESHOLD:
        return [make_object(seed) for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        return list(workers.map(make_object, seeds, chunksize=256))


@torch.no_grad()
def make_dataset(count: int, device: torch.device, first_seed: int = 0) -> Dataset:
    """Make the first `count` objects from a seed on."""
    # By category, since distances to primitives of the same kinds are computed faster together; batches are random.
    objects = sorted(_make_objects(range(first_seed, first_seed + count)), key=lambda toy: toy.category)
    images, patches, occupancy, latents = [], [], [], []
    batch_size = _GPU_BATCH if device.type == "cuda" else 1
    for start in range(0, len(objects), batch_size):
        batch = ObjectBatch.pack([toy.primitives for toy in objects[start : start + batch_size]], device)
        rendered = render_framed(batch, IMAGE_SIZE)
        images.append((rendered[:, :3] * 255).round().byte())
        patches.append(patch_targets(rendered).half())
        occupancy.append(voxelize(batch))
        latents += [rows.half() for rows in surface_latents(batch, occupancy[-1])]
    captions = [toy.caption for toy in objects]
    return Dataset(captions, torch.cat(images), torch.cat(patches), torch.cat(occupancy), latents)


def patch_targets(rendered: Tensor) -> Tensor:
    """Return means [B, P, 28] over the quarters of each patch of what `render_framed` draws, [B, 7, S, S].

    The visible points are enlarged, so that they weigh as much as colours.
    """
    quarters = F.avg_pool2d(rendered, PATCH_SIZE // PATCH_DIVISIONS)
    quarters = torch.cat([quarters[:, :4], _POINT_WEIGHT * quarters[:, 4:]], dim=1)
    return F.unfold(quarters, PATCH_DIVISIONS, stride=PATCH_DIVISIONS).transpose(1, 2)
