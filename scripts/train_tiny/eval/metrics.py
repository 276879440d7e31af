"""Metrics of how near a generated object is to the one on its prompt."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.rendering.cameras import Camera
from pipeline.scoring.similarity import compare_views
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.rendering import BACK_AZIMUTH, PROMPT_AZIMUTH, camera, render

VIEW_SIZE = 256


@dataclass(frozen=True)
class Metrics:
    """The metrics of one result.

    voxel_iou: intersection over union of voxels with a tolerance of one voxel.
    silhouette_iou, colour_error: in the prompt's view; the colour error is the mean absolute difference, 0..1, where
    the silhouettes overlap.
    behind_iou: of the silhouettes seen from behind.
    """

    voxel_iou: float
    silhouette_iou: float
    colour_error: float
    behind_iou: float


def tolerant_iou(generated: Tensor, true: Tensor) -> float:
    """Return (|A in B+1| + |B in A+1|) / (|A| + |B|) of occupancies [R, R, R] bool, +1 meaning dilated by a voxel."""
    a, b = generated[None, None].float(), true[None, None].float()
    inside = (a * F.max_pool3d(b, 3, 1, 1)).sum() + (b * F.max_pool3d(a, 3, 1, 1)).sum()
    return float(inside / (a.sum() + b.sum()))


def view_cameras() -> tuple[Camera, Camera]:
    """Return the prompt's camera, and one behind the object."""
    return camera(PROMPT_AZIMUTH, VIEW_SIZE), camera(BACK_AZIMUTH, VIEW_SIZE)


def render_object(single: ObjectBatch) -> Tensor:
    """Render a batch of one object as RGBA [2, 4, S, S] from the prompt's camera and from behind."""
    return torch.cat([render(single, VIEW_SIZE, azimuth) for azimuth in (PROMPT_AZIMUTH, BACK_AZIMUTH)])


def compute_metrics(occupancy: Tensor, true_occupancy: Tensor, views: Tensor, true_views: Tensor) -> Metrics:
    """Compare occupancy [R, R, R] and views [2, 4, S, S] of a result with those of the object itself."""
    similarity = compare_views(views, true_views)
    front, behind = similarity.silhouettes
    return Metrics(tolerant_iou(occupancy, true_occupancy), front, similarity.colour_error, behind)


def summarise(metrics: Sequence[Metrics], baseline: Sequence[Metrics] | None = None) -> dict[str, list[float]]:
    """Return the mean of each metric and half the width of its 95 % interval (normal approximation), to four digits.

    With a baseline for the same objects, these are of the differences from it, object by object.
    """
    table = torch.tensor([astuple(row) for row in metrics], dtype=torch.float64)
    if baseline is not None:
        table -= torch.tensor([astuple(row) for row in baseline], dtype=torch.float64)
    half = 1.96 * table.std(dim=0) / math.sqrt(len(metrics)) if len(metrics) > 1 else torch.zeros(table.shape[1])
    pairs = torch.stack([table.mean(dim=0), half], dim=1).tolist()
    names = [field.name for field in fields(Metrics)]
    return {name: [round(value, 4) for value in pair] for name, pair in zip(names, pairs, strict=True)}


def retrieval_accuracy(views: Tensor, true_views: Tensor) -> float:
    """Return the share of results whose nearest prompt, by the mean difference of images on grey, is their own.

    The views [N, 4, S, S] are from the prompt's camera.
    """

    def on_grey(rgba: Tensor) -> Tensor:
        return (rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])).flatten(1)

    distances = torch.cdist(on_grey(views), on_grey(true_views), p=1)
    own = torch.arange(len(views), device=views.device)
    return float((distances.argmin(dim=1) == own).double().mean())
