"""How near a generated object is to the one on its prompt."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline import Splats
from pipeline.rendering.cameras import Camera
from pipeline.scoring.similarity import compare_views, render_rgba
from scripts.train_tiny.distances import Objects
from scripts.train_tiny.pictures import BEHIND_AZIMUTH, PROMPT_AZIMUTH, camera, pictures

VIEW_SIZE = 256


@dataclass(frozen=True)
class Measures:
    """voxel_iou: with one voxel of tolerance; silhouette_iou and colour_error in the prompt's view, behind_iou from the
    other side. Colour errors are mean absolute differences, 0..1, where both silhouettes are."""

    voxel_iou: float
    silhouette_iou: float
    colour_error: float
    behind_iou: float


def tolerant_iou(ours: Tensor, truth: Tensor) -> float:
    """(|A in B+1| + |B in A+1|) / (|A| + |B|) of occupied voxels [R, R, R] bool, where +1 is dilated by one."""
    a, b = ours[None, None].float(), truth[None, None].float()
    inside = (a * F.max_pool3d(b, 3, 1, 1)).sum() + (b * F.max_pool3d(a, 3, 1, 1)).sum()
    return float(inside / (a.sum() + b.sum()))


def cameras() -> tuple[Camera, Camera]:
    """The prompt's, and one behind the object."""
    return camera(PROMPT_AZIMUTH, VIEW_SIZE), camera(BEHIND_AZIMUTH, VIEW_SIZE)


def views(splats: Splats) -> Tensor:
    """RGBA [2, 4, S, S] from the prompt's camera and from behind."""
    return render_rgba(splats, cameras())


def true_views(thing: Objects) -> Tensor:
    """The same of the object itself, one object."""
    return torch.cat([pictures(thing, VIEW_SIZE, azimuth) for azimuth in (PROMPT_AZIMUTH, BEHIND_AZIMUTH)])


def measure(occupied: Tensor, truth: Tensor, ours: Tensor, true: Tensor) -> Measures:
    """Occupied voxels [R, R, R] and views [2, 4, S, S] of a result and of the object it should be."""
    found = compare_views(ours, true)
    front, behind = found.silhouettes
    return Measures(tolerant_iou(occupied, truth), front, found.colour_error, behind)


def summary(found: list[Measures], base: list[Measures] | None = None) -> dict[str, tuple[float, float]]:
    """Mean of each measure and half the width of its 95 % interval (normal approximation).

    base: of the same objects; then it is the mean of each object's difference from it.
    """
    table = _table(found) if base is None else _table(found) - _table(base)
    half = 1.96 * table.std(dim=0) / math.sqrt(len(found)) if len(found) > 1 else torch.zeros(table.shape[1])
    names = asdict(found[0])
    return {name: (float(table[:, i].mean()), float(half[i])) for i, name in enumerate(names)}


def _table(found: list[Measures]) -> Tensor:
    return torch.tensor([list(asdict(measures).values()) for measures in found], dtype=torch.float64)


def matched(ours: Tensor, true: Tensor) -> float:
    """The share of results whose nearest prompt, by the mean difference of the pictures on grey, is their own.

    Views [N, 4, S, S] from the prompt's camera.
    """

    def on_grey(rgba: Tensor) -> Tensor:
        return (rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])).flatten(1)

    distances = torch.cdist(on_grey(ours), on_grey(true), p=1)
    own = torch.arange(len(ours), device=ours.device)
    return float((distances.argmin(dim=1) == own).double().mean())
