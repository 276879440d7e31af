"""Greyscale with more than 8 bits, or of floating-point numbers, in 8 bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from pipeline.errors import PromptError

# The values of white in common use: fractions, and 8, 10, 12, 14 and 16 bits.
_WHITES = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# A picture whose brightest value is below this share of a white was not made for it.
_DARKEST = 0.25
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_UNSIGNED, _WHITE_IS_ZERO = 1, 0


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether the image is greyscale beyond 8 bits, which Pillow converts by clipping."""
    return image.mode == "F" or image.mode.startswith("I")


def deep_grey_to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale greyscale of mode I;16, I or F to 8 bits; RGB, or RGBA if one value stands for transparency.

    White is the smallest white in common use that holds the brightest value, unless the picture would then be nearly
    black: then the brightest value itself is. With negative values, the darkest is black and the brightest white.
    Raises PromptError for NaN and infinity.
    """
    values = np.asarray(image)
    if image.mode == "I" and tiff_tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
        # Pillow reads 32 bits into signed integers.
        values = values.view(np.uint32)
    if values.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(values)))):
        raise PromptError(
            f"the image has {bad} pixels that are NaN or infinite: save it as PNG with 8 or 16 bits a channel"
        )
    grey = _scale(values)
    if tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    result = Image.fromarray(grey)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return result.convert("RGB")
    alpha = np.where(values == key, 0, 255).astype(np.uint8)
    return Image.merge("RGBA", (result, result, result, Image.fromarray(alpha)))


def _scale(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    offset = min(low, 0.0)
    span = high - offset
    usual = (white for white in _WHITES if offset == 0 and _DARKEST * white <= span <= white)
    white = next(usual, span)
    if values.dtype.kind in "iu" and white in _WHITES[1:]:
        # The highest 8 bits, as everybody else takes them.
        return (values.astype(np.uint32) >> (int(white).bit_length() - 8)).astype(np.uint8)
    scaled = values.astype(np.float64)
    scaled -= offset
    # Divided first, because the largest floats times 255 are infinite.
    scaled /= white or 1.0
    scaled *= 255.0
    return np.rint(scaled, out=scaled).astype(np.uint8)


def tiff_tag(image: Image.Image, tag: int, default: int | None = None) -> int | None:
    """Return a number of a TIFF's directory, that of the first channel if there are several."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    value = image.tag_v2.get(tag, default)
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else None
