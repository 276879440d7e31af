"""The validator's terms `ssim` and `lpips`: how much each view of an object is like the next one.

torchmetrics is an optional dependency (the extra score) that is imported only when networks are loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.scoring.lpips import Lpips
from pipeline.scoring.outliers import filter_outliers, geometric_mean

# The size that LPIPS sees, in pixels.
_LPIPS_SIZE = 256
# Pairs that SSIM takes together; the memory that it needs grows with it, 70 MB for each at 518 pixels.
_SSIM_BATCH = 4


@dataclass(frozen=True, eq=False)
class ViewSimilarity:
    """Views -> ssim and lpips, from pairs of view i and the next one, and of the last view and the first."""

    lpips: Lpips
    ssim: Callable[..., Tensor]

    @staticmethod
    def load(alexnet: Path, device: torch.device) -> "ViewSimilarity":
        """Load AlexNet, see Lpips.load, onto a device. Raises CheckpointError, also if torchmetrics is missing."""
        try:
            from torchmetrics.functional.image import structural_similarity_index_measure
        except ImportError as error:
            raise CheckpointError(
                f"ssim and lpips need the package torchmetrics ({error}): pip install 'sn17-miner[score]'"
            ) from None
        return ViewSimilarity(Lpips.load(alexnet, device), structural_similarity_index_measure)

    def measure(self, views: Tensor) -> tuple[float, float]:
        """Return ssim and lpips of views [V, S, S, 3] uint8 on the networks' device, see `combine_pairs`."""
        return combine_pairs(self.pair_similarities(views), self.pair_distances(views))

    @torch.inference_mode()
    def pair_similarities(self, views: Tensor) -> Tensor:
        """Return SSIM, at most 1, of each pair: [V, S, S, 3] uint8 -> [V] float32."""
        pictures = _as_pictures(views)
        batches = zip(pictures.split(_SSIM_BATCH), pictures.roll(-1, 0).split(_SSIM_BATCH), strict=True)
        return torch.cat([self.ssim(view, following, data_range=1.0, reduction="none") for view, following in batches])

    @torch.inference_mode()
    def pair_distances(self, views: Tensor) -> Tensor:
        """Return LPIPS, 0 for the same picture, of each pair: [V, S, S, 3] uint8 -> [V] float32."""
        resized = F.interpolate(_as_pictures(views), (_LPIPS_SIZE, _LPIPS_SIZE), mode="bicubic").clamp(0, 1)
        features = self.lpips.encode(resized)
        return self.lpips.distances(features, tuple(feature.roll(-1, 0) for feature in features))


def combine_pairs(similarities: Tensor, distances: Tensor) -> tuple[float, float]:
    """Return ssim and lpips, both usually in 0..1, the higher the more alike, of the pairs' SSIM and LPIPS, [V] each.

    Outliers are dropped; ssim is the geometric mean of the other similarities, NaN if one is negative, and lpips is 1
    minus that of the other distances. Raises ValueError for fewer than 6 pairs.
    """
    ssim, distance = (
        geometric_mean(filter_outliers(pairs.cpu().numpy().astype(np.float64))) for pairs in (similarities, distances)
    )
    return ssim, 1 - distance


def _as_pictures(views: Tensor) -> Tensor:
    """Return views [V, S, S, 3] uint8 as [V, 3, S, S] float32 in 0..1."""
    return views.permute(0, 3, 1, 2).float() / 255
