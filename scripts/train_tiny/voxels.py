"""Objects as TRELLIS sees them: occupied voxels of a 64^3 grid and what lies in each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scripts.train_tiny.distances import Objects
from scripts.train_tiny.pictures import lit

RESOLUTION = 64
# Voxels whose centre is nearer to the surface than this many voxels are occupied: between half a side, which would
# leave holes in slanting surfaces, and half a diagonal, which would make flat ones two voxels thick.
_REACH = 0.72
LATENT_CHANNELS = 8


def to_scene(positions: Tensor) -> Tensor:
    """Voxel indices [..., 3] -> their centres in the objects' frame: (x, y, z) -> (x, z, -y).

    That of the files that upstream exports, (x, -z, y), after the half turn of `export: {upright: true}`.
    """
    x, y, z = ((positions.float() + 0.5) / RESOLUTION - 0.5).unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def to_voxel_axes(vectors: Tensor) -> Tensor:
    """Directions [..., 3] in the objects' frame -> along the voxel axes, the inverse of `to_scene`'s turn."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, -z, y], dim=-1)


def occupancy(objects: Objects) -> Tensor:
    """[B, 64, 64, 64] bool: the voxels at the surface."""
    axis = torch.arange(RESOLUTION, device=objects.kinds.device)
    cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    points = to_scene(cells).expand(len(objects), -1, -1)
    near = objects.distance(points).abs() * RESOLUTION < _REACH
    occupied: Tensor = near.unflatten(1, (RESOLUTION,) * 3)
    return occupied


def latents(objects: Objects, occupied: Tensor) -> list[Tensor]:
    """What the gaussian decoder turns into splats, for the occupied voxels [B, 64, 64, 64]: B tensors [n, 8].

    Colour under the light in -1..1 (3), the surface's normal along the voxel axes (3), its distance along the normal in
    voxels (1), and the mean of the colour's channels once more (1), so that brightness weighs as much as hue.
    """
    positions = [grid.nonzero() for grid in occupied]
    # All objects at once, those with fewer voxels filled up with the first corner.
    points = pad_sequence([to_scene(position) for position in positions], batch_first=True)
    distance, normal, colour = objects.surface(points)
    rgb = 2 * lit(colour, normal) - 1
    offset = -distance[..., None] * RESOLUTION
    values = torch.cat([rgb, to_voxel_axes(normal), offset, rgb.mean(dim=-1, keepdim=True)], dim=-1)
    return [rows[: len(position)] for rows, position in zip(values, positions, strict=True)]
