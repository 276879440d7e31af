"""Image files of any layout, decoded to what the rest works on: upright, 8 bits, RGB or RGBA."""

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from pipeline.conditioning.deep_grey import deep_grey_to_eight_bit, is_deep_grey, tiff_tag
from pipeline.conditioning.image_limits import check_parts
from pipeline.errors import PromptError
from pipeline.signatures import identify

OPAQUE_ALPHA = 204
"""A pixel belongs to the object above this alpha (0.8 * 255), as upstream has it."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Bounds on the search of an animation for a frame that shows something.
_MAX_FRAMES = 256
_MAX_FRAME_PIXELS = 1 << 26
# Differences up to this in every channel are those of a single colour that was compressed with losses.
_FLAT = 8
# Pillow's decoders report damaged files with any of these.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, struct.error,
    ImageCms.PyCMSError,
)  # fmt: skip
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# Colours of 16 bits whose upper 8 are all below this were meant for 12 bits or fewer.
_DARKEST = 16
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(file: bytes, max_side: int) -> Image.Image:
    """Decode the bytes of an image file to RGB, or to RGBA if it holds transparency of any kind; without metadata.

    It is turned as its EXIF orientation says. Of an animation or of several pages, the first that shows something is
    taken. Sizes are checked before any pixel is decoded. Raises PromptError if a side is longer than `max_side`, or if
    the file is damaged, of a kind that cannot be read, or made of too many parts.
    """
    check_parts(file)
    try:
        with Image.open(io.BytesIO(file), formats=IMAGE_FORMATS) as opened:
            image = _first_with_content(opened, file, max_side)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PromptError(f"the image is far more than {max_side} pixels a side") from None
    except UnidentifiedImageError:
        raise PromptError(_explain_unidentified(file)) from None
    except _DECODING_ERRORS as error:
        raise PromptError(f"the image cannot be decoded: {' '.join(str(error).split())}") from None
    # rembg would turn an image once more that still held its orientation.
    image.info.clear()
    return image


def _explain_unidentified(file: bytes) -> str:
    message = f"the data is not an image of a known format ({', '.join(IMAGE_FORMATS)})"
    kind = identify(file)
    if kind is None:
        return message
    if kind.is_read:
        return f"{message}: it begins as {kind.name}, but is damaged or of a rare layout; {kind.cure}"
    return f"{message} but {kind.name}: {kind.cure}"


def _first_with_content(opened: Image.Image, file: bytes, max_side: int) -> Image.Image:
    """Return the first frame that shows something opaque; if there is none, the first one that shows anything."""
    frames: dict[int, Image.Image] = {}
    for image in _frames(opened, file, max_side):
        visibility = _visibility(image)
        frames.setdefault(visibility, image)
        if visibility == 2:
            break
    return frames[max(frames)]


def _frames(opened: Image.Image, file: bytes, max_side: int) -> Iterator[Image.Image]:
    """Decode frame after frame. What is wrong with the first one is raised, anything after it ends the frames."""
    _check_size(opened, max_side)
    yield _decode(opened, file)
    allowance = _MAX_FRAME_PIXELS
    with suppress(PromptError, *_DECODING_ERRORS):
        for index in range(1, _MAX_FRAMES):
            opened.seek(index)
            _check_size(opened, max_side)
            allowance -= opened.width * opened.height
            if allowance < 0:
                return
            yield _decode(opened, file)


def _check_size(opened: Image.Image, max_side: int) -> None:
    if max(opened.size) > max_side:
        raise PromptError(f"the image is {opened.width}x{opened.height} pixels, more than {max_side} a side")


def _visibility(image: Image.Image) -> int:
    """Return 2 if a frame shows something opaque, 1 if something faint, 0 if it is empty or of one colour."""
    # Of several channels, Pillow returns a pair for each.
    ranges = cast(list[tuple[int, int]], list(image.getextrema()))
    if image.mode == "RGBA":
        faintest, strongest = ranges.pop()
        if strongest == 0:
            return 0
        if faintest <= OPAQUE_ALPHA:
            return 2 if strongest > OPAQUE_ALPHA else 1
    return 2 if any(high - low > _FLAT for low, high in ranges) else 0


def _decode(opened: Image.Image, file: bytes) -> Image.Image:
    opened.load()
    image = _to_rgb(opened, file)
    method = _UPRIGHT.get(_orientation(opened))
    return image if method is None else image.transpose(method)


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or if it is damaged; of a TIFF, Pillow has seen to it."""
    # Pillow warns of damage that it can live with.
    with suppress(UserWarning, *_DECODING_ERRORS):
        value = opened.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) else 1
    return 1


def _to_rgb(image: Image.Image, file: bytes) -> Image.Image:
    if is_deep_grey(image):
        return deep_grey_to_eight_bit(image)
    if image.mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        result = ImageCms.applyTransform(image, transform)
        assert result is not None, "None is for transforms in place"
        return result
    bit_depth = file[24] if image.format == "PNG" else tiff_tag(image, _BITS_PER_SAMPLE) or 8
    if image.format == "PNG" and "transparency" in image.info:
        image.info["transparency"] = _scale_transparency(image, bit_depth)
    converted = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if bit_depth == 16 and (brightest := int(np.asarray(converted)[..., :3].max())) < _DARKEST:
        # Pillow keeps the upper 8 bits of each channel.
        raise PromptError(
            f"the image uses no more than {256 * brightest + 255} of the 65535 levels of its 16-bit channels, which is "
            "black: scale them to the full range, or save it as PNG with 8 bits a channel"
        )
    return converted


def _scale_transparency(image: Image.Image, bit_depth: int) -> object:
    """Return the transparent colour of a PNG in the 8 bits of its pixels; the file has it in its own bit depth."""
    key, white = image.info["transparency"], (1 << bit_depth) - 1
    if image.mode == "RGB" and bit_depth == 16:
        return tuple(value >> 8 for value in key)
    if image.mode == "1":
        return 255 if key else 0
    if image.mode == "L" and bit_depth < 8:
        return (key & white) * 255 // white
    return key
