"""Pictures of objects by sphere tracing: the prompts, and the views that results are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.rendering.cameras import Camera, orbit
from scripts.train_tiny.distances import Objects

# The prompt's camera: from the front, to the right and above.
PROMPT_AZIMUTH, PROMPT_ELEVATION, RADIUS, FIELD_OF_VIEW = 35.0, -22.0, 2.0, 32.0
BEHIND_AZIMUTH = PROMPT_AZIMUTH + 180.0
_STEPS = 36
# No object reaches further from the middle.
_REACH = 0.6
_HIT = 2e-3
# Distances of ellipsoids are bounds only from outside; a little less is always safe.
_CAUTION = 0.95
_LIGHT = (0.45, 0.75, 0.55)
_AMBIENT = 0.55
# What the pipeline leaves around an object, and the alpha from which on it belongs to it (pipeline.conditioning.preprocessing).
_MARGIN = 1.2
_PROBE_SIZE = 128


def prompt_camera(size: int) -> Camera:
    """The camera of all prompts."""
    return camera(PROMPT_AZIMUTH, size)


def camera(azimuth: float, size: int) -> Camera:
    """The prompt's camera, moved around the object to an azimuth in degrees."""
    return orbit([azimuth], PROMPT_ELEVATION, RADIUS, FIELD_OF_VIEW, size)[0]


@dataclass(frozen=True, eq=False)
class Window:
    """The part of the picture plane that is drawn, for each of B objects: centre [B, 2] and half side [B], where the
    whole picture has the centre (0, 0) and the half side 1."""

    centre: Tensor
    half: Tensor


def pictures(objects: Objects, size: int, azimuth: float = PROMPT_AZIMUTH) -> Tensor:
    """RGBA [B, 4, size, size] in 0..1, colours not multiplied by alpha; alpha is 0 or 1."""
    return _traced(objects, size, azimuth)[:, :4]


def _traced(objects: Objects, size: int, azimuth: float = PROMPT_AZIMUTH, window: Window | None = None) -> Tensor:
    """[B, 7, size, size]: RGBA, and the point that is seen, in the objects' frame; all 0 where nothing is."""
    count, device = objects.count, objects.device
    pose = torch.linalg.inv(camera(azimuth, size).world_to_camera.double()).float().to(device)
    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, -1, 2).expand(count, -1, -1)
    if window is not None:
        plane = window.centre[:, None] + window.half[:, None, None] * plane
    reach = torch.tan(torch.deg2rad(torch.tensor(FIELD_OF_VIEW / 2, device=device)))
    rays = F.normalize(F.pad(plane * reach, (0, 1), value=1.0), dim=-1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    depth = torch.full(rays.shape[:2], RADIUS - _REACH, device=device)
    for _ in range(_STEPS):
        depth = depth + _CAUTION * objects.distance(origin + depth[..., None] * rays)
    points = origin + depth[..., None] * rays
    distance, normal, colour = objects.surface(points)
    hit = (distance < _HIT) & (depth < RADIUS + _REACH)
    seen = torch.cat([lit(colour, normal), torch.ones_like(colour[..., :1]), points], dim=-1)
    seen = torch.where(hit[..., None], seen, 0.0)
    drawn: Tensor = seen.transpose(1, 2).unflatten(2, (size, size))
    return drawn


def lit(colour: Tensor, normal: Tensor) -> Tensor:
    """Colours [..., 3] under the one light there is, which stays with the object; normals [..., 3]."""
    light = F.normalize(torch.tensor(_LIGHT, device=colour.device), dim=0)
    shade = _AMBIENT + (1 - _AMBIENT) * (normal @ light).clamp(min=0)
    shaded: Tensor = (colour * shade[..., None]).clamp(0, 1)
    return shaded


def framed(objects: Objects, size: int) -> Tensor:
    """[B, 7, size, size]: RGB on black, as the pipeline frames the prompts, the object in the middle with a margin;
    alpha; and the point that is seen, multiplied by alpha."""
    alpha = pictures(objects, _PROBE_SIZE)[:, 3] > 0.5
    cells = torch.arange(_PROBE_SIZE, device=alpha.device)
    sides = []
    for dimension in (1, 2):
        seen = alpha.any(dim=dimension)
        low = torch.where(seen, cells, _PROBE_SIZE).amin(dim=1)
        high = torch.where(seen, cells, -1).amax(dim=1)
        sides.append(torch.stack([low, high + 1], dim=1).float() / _PROBE_SIZE * 2 - 1)
    box = torch.stack(sides, dim=1)
    window = Window(box.mean(dim=2), _MARGIN / 2 * (box[:, :, 1] - box[:, :, 0]).amax(dim=1))
    return F.avg_pool2d(_traced(objects, 2 * size, window=window), 2)
