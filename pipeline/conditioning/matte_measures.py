"""What an alpha matte looks like, in numbers from which its quality can be judged without knowing the object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

# Longest side of the mattes that are measured; larger ones are shrunk.
MEASURED_SIDE = 256
_OPAQUE = 0.5
# Alpha in between is a soft edge, or doubt.
_SOFT = (0.1, 0.9)
# Smaller parts of the foreground are specks.
_PIECE_SHARE = 0.01
# All eight neighbours of a pixel touch it.
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)

Alpha = NDArray[np.float64]


@dataclass(frozen=True)
class MatteMeasures:
    """Measures of a matte; its foreground are the pixels of an alpha above 0.5.

    area:      mean alpha, 0 to 1.
    border:    share of the picture's outermost pixels that are foreground.
    pieces:    connected pieces of the foreground that have at least a hundredth of it.
    largest:   share of the foreground in its largest piece; 0 without foreground.
    holes:     share of the filled foreground that is holes.
    softness:  pixels with an alpha from 0.1 to 0.9, as a share of all above 0.1.
    roughness: length of the foreground's outline over that of a circle of its area: about 1 for a disc, 0 without any.
    agreement: mean over the other models of the IoU of both mattes, min over max of each pixel; None without others.
    """

    area: float
    border: float
    pieces: int
    largest: float
    holes: float
    softness: float
    roughness: float
    agreement: float | None


def measure_mattes(mattes: Sequence[Image.Image]) -> list[MatteMeasures]:
    """Return the measures of mattes of one picture, images of mode L and of one size, each by another model."""
    alphas = [_shrink(matte) for matte in mattes]
    return [
        _measure(alpha, [intersection_over_union(alpha, other) for other in alphas[:index] + alphas[index + 1 :]])
        for index, alpha in enumerate(alphas)
    ]


def intersection_over_union(a: Alpha, b: Alpha) -> float:
    """Return the soft IoU of two mattes [H, W] in 0..1: the sum of minima over that of maxima; 1 if both are empty."""
    union = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / union if union else 1.0


def _shrink(matte: Image.Image) -> Alpha:
    small = matte.copy()
    small.thumbnail((MEASURED_SIDE, MEASURED_SIDE), Image.Resampling.BOX)
    return np.asarray(small) / 255


def _measure(alpha: Alpha, agreements: Sequence[float]) -> MatteMeasures:
    opaque = alpha > _OPAQUE
    count = int(opaque.sum())
    labels, _ = ndimage.label(opaque, EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]
    filled = int(ndimage.binary_fill_holes(opaque).sum())
    visible = int((alpha > _SOFT[0]).sum())
    border = np.concatenate([opaque[0], opaque[-1], opaque[1:-1, 0], opaque[1:-1, -1]])
    return MatteMeasures(
        area=float(alpha.mean()),
        border=float(border.mean()),
        pieces=int((sizes >= _PIECE_SHARE * count).sum()),
        largest=float(sizes.max(initial=0)) / count if count else 0.0,
        holes=(filled - count) / filled if filled else 0.0,
        softness=int(((alpha > _SOFT[0]) & (alpha < _SOFT[1])).sum()) / visible if visible else 0.0,
        roughness=_outline(opaque) / (2 * (np.pi * count) ** 0.5) if count else 0.0,
        agreement=float(np.mean(agreements)) if agreements else None,
    )


def _outline(opaque: NDArray[np.bool_]) -> float:
    """Return the length of the outline in pixels: edges between pixels, times pi / 4 as for a circle."""
    padded = np.pad(opaque, 1)
    edges = int((padded[1:] != padded[:-1]).sum()) + int((padded[:, 1:] != padded[:, :-1]).sum())
    return edges * np.pi / 4
