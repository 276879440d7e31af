"""From a prompt's picture to the square picture that the image encoder sees.

Steps and rounding: microsoft/TRELLIS, `TrellisImageTo3DPipeline.preprocess_image`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.errors import EmptyForeground

PICTURE_SIZE = 518
# Longest side that background removal sees.
_MAX_MATTING_SIDE = 1024
# A pixel belongs to the object above this alpha (0.8 * 255).
_FOREGROUND_ALPHA = 204
_MARGIN = 1.2


def has_alpha(image: Image.Image) -> bool:
    """Whether the picture says itself what is background: an alpha channel that is not opaque everywhere."""
    return image.mode == "RGBA" and int(np.asarray(image.getchannel("A")).min()) < 255


def cut_out(image: Image.Image, remove_background: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture as RGBA with its background transparent; a picture with real alpha is returned as it is.

    remove_background takes an RGB picture and returns an RGBA one of the same size.
    """
    if has_alpha(image):
        return image
    image = image.convert("RGB")
    shrink = min(1.0, _MAX_MATTING_SIDE / max(image.size))
    if shrink < 1:
        size = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return remove_background(image)


def frame_object(cutout: Image.Image) -> Image.Image:
    """RGBA picture -> RGB picture of 518 x 518 pixels, the object in the middle, on black.

    Raises EmptyForeground if no object is visible.
    """
    alpha = np.asarray(cutout.getchannel("A"))
    rows, columns = np.nonzero(alpha > _FOREGROUND_ALPHA)
    if len(rows) == 0:
        raise EmptyForeground("the image shows no object: nothing in it is opaque")
    left, right, top, bottom = (int(v) for v in (columns.min(), columns.max(), rows.min(), rows.max()))
    half = int(max(right - left, bottom - top) * _MARGIN) // 2
    if half == 0:
        raise EmptyForeground("the image shows no object: what is opaque in it is a few pixels small")
    x, y = (left + right) / 2, (top + bottom) / 2
    # Pillow rounds the box half to even and fills what lies outside with transparent black.
    square = cutout.crop((x - half, y - half, x + half, y + half))
    resized = square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    rgba = np.asarray(resized).astype(np.float32) / 255
    return Image.fromarray((rgba[:, :, :3] * rgba[:, :, 3:4] * 255).astype(np.uint8))
