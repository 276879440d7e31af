"""How much splats look like known views of the object that they should be."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.rendering.cameras import Camera
from pipeline.rendering.rasterizer import rasterize
from pipeline.splats.splats import Splats

_COVERED = 0.5
# The colour error at which the score is 0; two different colours of a palette are about 0.3 apart.
_WORST_COLOUR = 0.5


@dataclass(frozen=True, eq=False)
class ReferenceViews:
    """Views of an object from known cameras; the first is the prompt's.

    views: RGBA [V, 4, H, W] in 0..1, one for each of the V cameras; colours are not multiplied by alpha.
    """

    cameras: tuple[Camera, ...]
    views: Tensor


@dataclass(frozen=True)
class Similarity:
    """How similar two sets of views are.

    silhouettes:  intersection over union in each view.
    colour_error: mean absolute difference, 0..1, where both silhouettes are in the first view; 1 if they do not meet.
    """

    silhouettes: tuple[float, ...]
    colour_error: float

    @property
    def score(self) -> float:
        """The mean overlap of the silhouettes, reduced in proportion to the colour error, in 0..1."""
        overlap = sum(self.silhouettes) / len(self.silhouettes)
        return overlap * max(0.0, 1 - self.colour_error / _WORST_COLOUR)


def measure_similarity(splats: Splats, reference: ReferenceViews) -> Similarity:
    """Compare splats, as they leave the miner, with views of the object."""
    return compare_views(render_rgba(splats, reference.cameras), reference.views)


def compare_views(views: Tensor, reference: Tensor) -> Similarity:
    """Compare RGBA views [V, 4, H, W] with those of a reference; the first is the prompt's."""
    silhouettes = tuple(silhouette_iou(a[3], b[3]) for a, b in zip(views, reference, strict=True))
    return Similarity(silhouettes, colour_error(views[0], reference[0]))


def render_rgba(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """Render RGBA [V, 4, H, W] in 0..1; colours are not multiplied by alpha."""
    rendering = rasterize(splats, cameras, background=(0.0, 0.0, 0.0))
    rgb = rendering.rgb / rendering.alpha[..., None].clamp(min=1e-6)
    return torch.cat([rgb.clamp(0, 1), rendering.alpha[..., None]], dim=-1).permute(0, 3, 1, 2)


def silhouette_iou(alpha: Tensor, reference: Tensor) -> float:
    """Return the intersection over union of two alphas [H, W]; 0 if both are empty."""
    a, b = alpha > _COVERED, reference > _COVERED
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def colour_error(view: Tensor, reference: Tensor) -> float:
    """Return the mean absolute difference of RGBA pictures [4, H, W] inside both silhouettes; 1 if they do not meet."""
    both = (view[3] > _COVERED) & (reference[3] > _COVERED)
    if not bool(both.any()):
        return 1.0
    return float((view[:3] - reference[:3]).abs().mean(dim=0)[both].mean())
