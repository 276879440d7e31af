"""Images of objects by sphere tracing: the prompts, and the views that results are compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.rendering.cameras import Camera, orbit
from scripts.train_tiny.data.distance_fields import ObjectBatch

# The prompt's camera looks from the front, from the right and from above.
PROMPT_AZIMUTH, PROMPT_ELEVATION, RADIUS, FIELD_OF_VIEW = 35.0, -22.0, 2.0, 32.0
BACK_AZIMUTH = PROMPT_AZIMUTH + 180.0
_MARCHING_STEPS = 36
# No object reaches further from the centre.
_OBJECT_RADIUS = 0.6
_HIT_DISTANCE = 2e-3
# Distances to ellipsoids are lower bounds only from outside; a slightly shorter step is always safe.
_STEP_SCALE = 0.95
_LIGHT_DIRECTION = (0.45, 0.75, 0.55)
_AMBIENT = 0.55
# The margin that the pipeline leaves around an object (pipeline.conditioning.preprocessing).
_MARGIN = 1.2
_PROBE_SIZE = 128


def camera(azimuth: float, size: int) -> Camera:
    """Return the prompt's camera, moved around the object to an azimuth in degrees."""
    return orbit([azimuth], PROMPT_ELEVATION, RADIUS, FIELD_OF_VIEW, size)[0]


def render(objects: ObjectBatch, size: int, azimuth: float = PROMPT_AZIMUTH) -> Tensor:
    """Render RGBA [B, 4, size, size] in 0..1, colours not premultiplied; alpha is 0 or 1."""
    return _trace(objects, size, azimuth)[:, :4]


def _trace(
    objects: ObjectBatch, size: int, azimuth: float = PROMPT_AZIMUTH, window: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return [B, 7, size, size]: RGBA and the visible point in the objects' frame, all 0 in the background.

    window: centre [B, 2] and half side [B] of what to draw of the image plane, whose own are (0, 0) and 1.
    """
    count, device = objects.count, objects.device
    pose = torch.linalg.inv(camera(azimuth, size).world_to_camera.double()).float().to(device)
    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, -1, 2).expand(count, -1, -1)
    if window is not None:
        centre, half_side = window
        plane = centre[:, None] + half_side[:, None, None] * plane
    half_width = torch.tan(torch.deg2rad(torch.tensor(FIELD_OF_VIEW / 2, device=device)))
    rays = F.normalize(F.pad(plane * half_width, (0, 1), value=1.0), dim=-1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    depth = torch.full(rays.shape[:2], RADIUS - _OBJECT_RADIUS, device=device)
    for _ in range(_MARCHING_STEPS):
        depth = depth + _STEP_SCALE * objects.distance(origin + depth[..., None] * rays)
    points = origin + depth[..., None] * rays
    distance, normal, colour = objects.surface(points)
    hit = (distance < _HIT_DISTANCE) & (depth < RADIUS + _OBJECT_RADIUS)
    channels = torch.cat([shade(colour, normal), torch.ones_like(colour[..., :1]), points], dim=-1)
    channels = torch.where(hit[..., None], channels, 0.0)
    return channels.transpose(1, 2).unflatten(2, (size, size))


def shade(colour: Tensor, normal: Tensor) -> Tensor:
    """Return colours [..., 3] under the single light, which stays with the object; normals are [..., 3]."""
    light = F.normalize(torch.tensor(_LIGHT_DIRECTION, device=colour.device), dim=0)
    intensity = _AMBIENT + (1 - _AMBIENT) * (normal @ light).clamp(min=0)
    return (colour * intensity[..., None]).clamp(0, 1)


def render_framed(objects: ObjectBatch, size: int) -> Tensor:
    """Render [B, 7, size, size] as the pipeline frames prompts: the object in the middle, with a margin.

    The channels are RGB on black, alpha, and the visible point multiplied by alpha.
    """
    opaque = render(objects, _PROBE_SIZE)[:, 3] > 0.5
    pixels = torch.arange(_PROBE_SIZE, device=opaque.device)
    sides = []
    for dimension in (1, 2):
        covered = opaque.any(dim=dimension)
        low = torch.where(covered, pixels, _PROBE_SIZE).amin(dim=1)
        high = torch.where(covered, pixels, -1).amax(dim=1)
        sides.append(torch.stack([low, high + 1], dim=1).float() / _PROBE_SIZE * 2 - 1)
    box = torch.stack(sides, dim=1)
    window = (box.mean(dim=2), _MARGIN / 2 * (box[:, :, 1] - box[:, :, 0]).amax(dim=1))
    return F.avg_pool2d(_trace(objects, 2 * size, window=window), 2)
