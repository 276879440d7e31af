"""Changes to a cut-out: pieces that are left out, and edges without the colours of the old ground."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.conditioning.matte_measures import EIGHT_NEIGHBOURS

Pieces = Literal["all", "largest"] | float
"""Which pieces of an object are kept: all, the largest, or those of at least this share of its visible pixels."""

# Pieces are connected by pixels of a higher alpha, so that haze between objects does not make them one.
_CONNECTING_ALPHA = 25
Floats = NDArray[np.floating[Any]]

# Radii in pixels over which colours are averaged, the second to refine the first (Forte, "Approximate Fast Foreground
# Colour Estimation", ICIP 2021).
_RADII = (45, 3)
_TINY = np.float32(1e-5)


def keep_pieces(cutout: Image.Image, pieces: Pieces) -> Image.Image:
    """Return an RGBA image without the pieces of its object that are not wanted; all of it if there is but one."""
    if pieces == "all":
        return cutout
    alpha = np.asarray(cutout.getchannel("A"))
    labels, count = ndimage.label(alpha > _CONNECTING_ALPHA, EIGHT_NEIGHBOURS)
    if count < 2:
        return cutout
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    wanted = sizes == sizes.max() if pieces == "largest" else sizes >= min(float(pieces) * sizes.sum(), sizes.max())
    # What connects nothing, such as the soft edge of a piece, stays with the nearest one.
    _, (rows, columns) = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    kept = cutout.copy()
    kept.putalpha(Image.fromarray(np.where(wanted[labels[rows, columns]], alpha, 0).astype(np.uint8)))
    return kept


def decontaminate(picture: Image.Image, matte: Image.Image) -> Image.Image:
    """Return an RGBA image of the object's own colours, without what shines through its soft edge.

    picture: RGB; matte: mode L, of the same size.
    """
    alpha: Floats = np.asarray(matte, np.float32)[..., None] / np.float32(255)
    colours: Floats = np.asarray(picture, np.float32) / np.float32(255)
    foreground = background = colours
    for radius in _RADII:
        foreground, background = _estimate(colours, alpha, foreground, background, radius)
    rgba = Image.fromarray((foreground.clip(0, 1) * 255).round().astype(np.uint8))
    rgba.putalpha(matte)
    return rgba


def _estimate(
    colours: Floats, alpha: Floats, foreground: Floats, background: Floats, radius: int
) -> tuple[Floats, Floats]:
    """Return better estimates of what is mixed in each pixel: means around it, corrected to mix to its colour."""
    near_foreground = _mean(foreground * alpha, radius) / np.maximum(_mean(alpha, radius), _TINY)
    near_background = _mean(background * (1 - alpha), radius) / np.maximum(_mean(1 - alpha, radius), _TINY)
    error = colours - alpha * near_foreground - (1 - alpha) * near_background
    return (near_foreground + alpha * error).clip(0, 1), near_background


def _mean(values: Floats, radius: int) -> Floats:
    """Return the mean over a square of so many pixels to each side, for each channel of [H, W, C]."""
    size = 2 * radius + 1
    return np.asarray(ndimage.uniform_filter(values, (size, size, 1), mode="nearest"))
