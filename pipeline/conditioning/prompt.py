"""Decoding and limits of what strangers send: a sentence, or the base64 text of an image file."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import PromptError

MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_IMAGE_SIDE = 4096
# The validation service refuses longer sentences, so work on one earns nothing.
MAX_TEXT_LENGTH = 1024
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


# How several pictures of one object become one condition; the names are upstream's.
Combine = Literal["stochastic", "multidiffusion"]


@dataclass(frozen=True)
class TextPrompt:
    """A sentence, stripped, not empty."""

    text: str

    @property
    def label(self) -> str:
        """What to show in a log."""
        return repr(self.text[:80])


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """A decoded picture of mode RGB or RGBA; digest is the first 12 hex digits of its file's sha256."""

    image: Image.Image
    digest: str

    @property
    def label(self) -> str:
        """What to show in a log: never the picture's own bytes."""
        return f"image {self.digest} ({self.image.width}x{self.image.height} {self.image.mode})"


@dataclass(frozen=True, eq=False)
class ImagesPrompt:
    """Several pictures of one object, which take turns from step to step or are averaged in every step."""

    images: tuple[ImagePrompt, ...]
    combine: Combine = "stochastic"

    def __post_init__(self) -> None:
        if not self.images:
            raise PromptError("the prompt has no image")

    @property
    def label(self) -> str:
        """What to show in a log."""
        return f"{len(self.images)} images, {self.combine}: " + "; ".join(image.label for image in self.images)


Prompt = TextPrompt | ImagePrompt | ImagesPrompt


def parse_text_prompt(text: str) -> TextPrompt:
    """Raises PromptError if the sentence is empty or longer than MAX_TEXT_LENGTH."""
    stripped = text.strip()
    if not stripped:
        raise PromptError("the prompt is empty")
    if len(stripped) > MAX_TEXT_LENGTH:
        raise PromptError(f"the prompt has {len(stripped)} characters, more than {MAX_TEXT_LENGTH}")
    return TextPrompt(stripped)


def decode_base64_image(text: str) -> ImagePrompt:
    """The picture in a base64 text, with or without a `data:...;base64,` head and line breaks.

    Raises PromptError if it is empty, not base64, or no acceptable image.
    """
    encoded = "".join(text.rpartition(",")[2].split()) if text.startswith("data:") else "".join(text.split())
    if not encoded:
        raise PromptError("the prompt is empty")
    if len(encoded) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise PromptError(f"the image has more than {MAX_IMAGE_BYTES} bytes")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise PromptError(f"the image is not valid base64: {error}") from None
    return decode_image_prompt(data)


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow converts 16-bit grey by clipping, which makes nearly all of it white.
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def decode_image_prompt(data: bytes) -> ImagePrompt:
    """The picture in the bytes of an image file; transparency of any kind becomes an alpha channel.

    The size is checked before any pixel is decoded. Raises PromptError if it is too large or unreadable.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise PromptError(f"the image has {len(data)} bytes, more than {MAX_IMAGE_BYTES}")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            if max(opened.size) > MAX_IMAGE_SIDE:
                raise PromptError(
                    f"the image is {opened.width}x{opened.height} pixels, more than {MAX_IMAGE_SIDE} a side"
                )
            image = _eight_bit(opened).convert("RGBA" if opened.has_transparency_data else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PromptError(f"the image is far more than {MAX_IMAGE_SIDE} pixels a side") from None
    except UnidentifiedImageError:
        raise PromptError(f"the data is not an image of a known format ({', '.join(IMAGE_FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, struct.error) as error:
        # Pillow's decoders report damaged files with any of these.
        raise PromptError(f"the image cannot be decoded: {error}") from None
    return ImagePrompt(image, hashlib.sha256(data).hexdigest()[:12])
