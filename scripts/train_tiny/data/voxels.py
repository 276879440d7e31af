"""Objects in the form that TRELLIS generates: occupied voxels of a 64^3 grid, and a latent in each."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.rendering import shade

RESOLUTION = 64
LATENT_CHANNELS = 8
# A voxel is occupied if its centre is nearer to the surface than this many voxels: between half a side, which would
# leave holes in slanting surfaces, and half a diagonal, which would make flat ones two voxels thick.
_SURFACE_DISTANCE = 0.72


def voxel_centres(indices: Tensor) -> Tensor:
    """Return the centres [..., 3] of voxels in the objects' frame: (x, y, z) -> (x, z, -y).

    That is the frame of what is submitted to validators: upstream's files, (x, -z, y), with +y up instead of -y.
    """
    x, y, z = ((indices.float() + 0.5) / RESOLUTION - 0.5).unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def to_voxel_axes(vectors: Tensor) -> Tensor:
    """Turn directions [..., 3] from the objects' frame to the voxel axes; the inverse turn of `voxel_centres`."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, -z, y], dim=-1)


def voxelize(objects: ObjectBatch) -> Tensor:
    """Return the occupancy [B, 64, 64, 64] bool of the voxels at the surface."""
    axis = torch.arange(RESOLUTION, device=objects.device)
    indices = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    points = voxel_centres(indices).expand(objects.count, -1, -1)
    is_near = objects.distance(points).abs() * RESOLUTION < _SURFACE_DISTANCE
    return is_near.unflatten(1, (RESOLUTION,) * 3)


def surface_latents(objects: ObjectBatch, occupancy: Tensor) -> list[Tensor]:
    """Return the latents of the occupied voxels [B, 64, 64, 64], which the gaussian decoder takes: B tensors [n, 8].

    The channels are the shaded colour in -1..1 (3), the surface's normal along the voxel axes (3), its distance along
    the normal in voxels (1), and the mean of the colour's channels (1), so that brightness weighs as much as hue.
    """
    indices = [grid.nonzero() for grid in occupancy]
    # All objects at once, padded with the first corner.
    points = pad_sequence([voxel_centres(index) for index in indices], batch_first=True)
    distance, normal, colour = objects.surface(points)
    rgb = 2 * shade(colour, normal) - 1
    offset = -distance[..., None] * RESOLUTION
    values = torch.cat([rgb, to_voxel_axes(normal), offset, rgb.mean(dim=-1, keepdim=True)], dim=-1)
    return [rows[: len(index)] for rows, index in zip(values, indices, strict=True)]
