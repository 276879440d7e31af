"""How much splats look like pictures of what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.rendering.cameras import Camera
from pipeline.rendering.rasterizer import rasterize
from pipeline.splats.splats import Splats

_COVERED = 0.5
# The colour error at which nothing is left of the score; two unlike colours of a palette are some 0.3 apart.
_WORST_COLOUR = 0.5


@dataclass(frozen=True, eq=False)
class Reference:
    """What an object looks like: V cameras, and its RGBA pictures [V, 4, H, W] from them, 0..1, the colours not
    multiplied by alpha. The first view is the prompt's."""

    cameras: tuple[Camera, ...]
    views: Tensor


@dataclass(frozen=True)
class Similarity:
    """silhouettes: intersection over union in each view; colour_error: mean absolute difference, 0..1, in the first
    view where both silhouettes are, 1 if they do not meet."""

    silhouettes: tuple[float, ...]
    colour_error: float

    @property
    def score(self) -> float:
        """0..1: the mean of the silhouettes' overlaps, less for wrong colours."""
        overlap = sum(self.silhouettes) / len(self.silhouettes)
        return overlap * max(0.0, 1 - self.colour_error / _WORST_COLOUR)


def likeness(splats: Splats, reference: Reference) -> Similarity:
    """Compare splats, as they leave the miner, with pictures of the object."""
    return compare(render_rgba(splats, reference.cameras), reference.views)


def compare(ours: Tensor, true: Tensor) -> Similarity:
    """Compare RGBA views [V, 4, H, W]; the first is the prompt's."""
    silhouettes = tuple(silhouette_iou(a[3], b[3]) for a, b in zip(ours, true, strict=True))
    return Similarity(silhouettes, colour_error(ours[0], true[0]))


def render_rgba(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """RGBA [V, 4, H, W] in 0..1, colours not multiplied by alpha."""
    drawn = rasterize(splats, cameras, background=(0.0, 0.0, 0.0))
    rgb = drawn.rgb / drawn.alpha[..., None].clamp(min=1e-6)
    return torch.cat([rgb.clamp(0, 1), drawn.alpha[..., None]], dim=-1).permute(0, 3, 1, 2)


def silhouette_iou(ours: Tensor, true: Tensor) -> float:
    """Intersection over union of two alphas [H, W]; 0 if both are empty."""
    a, b = ours > _COVERED, true > _COVERED
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def colour_error(ours: Tensor, true: Tensor) -> float:
    """Mean absolute difference of RGBA pictures [4, H, W] inside both silhouettes; 1 if they do not meet."""
    both = (ours[3] > _COVERED) & (true[3] > _COVERED)
    if not bool(both.any()):
        return 1.0
    return float((ours[:3] - true[:3]).abs().mean(dim=0)[both].mean())
