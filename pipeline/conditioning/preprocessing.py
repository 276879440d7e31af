"""Preparation of a prompt's image for the image encoder: cut out, cropped to a square, on black.

Steps and rounding: microsoft/TRELLIS, `TrellisImageTo3DPipeline.preprocess_image`.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.errors import EmptyForeground

PICTURE_SIZE = 518
# Longest side of an image given to background removal.
_MAX_MATTING_SIDE = 1024
# A pixel belongs to the object above this alpha (0.8 * 255).
_FOREGROUND_ALPHA = 204
_MARGIN = 1.2


def has_alpha(image: Image.Image) -> bool:
    """Return whether the image has an alpha channel that is not opaque everywhere, which marks its background."""
    return image.mode == "RGBA" and int(np.asarray(image.getchannel("A")).min()) < 255


def cut_out(image: Image.Image, remove_background: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image as RGBA with a transparent background; one with real alpha is returned as it is.

    remove_background takes an RGB image and returns an RGBA image of the same size. Large images are shrunk first.
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
    """Turn an RGBA image into an RGB image of 518 x 518 pixels with the object centred on black.

    Raises EmptyForeground if no object is visible.
    """
    alpha = np.asarray(cutout.getchannel("A"))
    rows, columns = np.nonzero(alpha > _FOREGROUND_ALPHA)
    if len(rows) == 0:
        raise EmptyForeground("the image shows no object: nothing in it is opaque")
    left, right, top, bottom = (int(v) for v in (columns.min(), columns.max(), rows.min(), rows.max()))
    half = int(max(right - left, bottom - top) * _MARGIN) // 2
    if half == 0:
        raise EmptyForeground("the image shows no object: its opaque part is only a few pixels large")
    x, y = (left + right) / 2, (top + bottom) / 2
    # Pillow rounds the box half to even and fills what lies outside with transparent black.
    square = cutout.crop((x - half, y - half, x + half, y + half))
    resized = square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    rgba = np.asarray(resized).astype(np.float32) / 255
    return Image.fromarray((rgba[:, :, :3] * rgba[:, :, 3:4] * 255).astype(np.uint8))
