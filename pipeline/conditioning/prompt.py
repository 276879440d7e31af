"""Prompts, with the limits that protect against what untrusted senders submit."""

import hashlib
import io
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import PromptError

MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_IMAGE_SIDE = 4096
# The validation service refuses longer sentences, so work on one earns nothing.
MAX_TEXT_LENGTH = 1024
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


# How several images of one object are combined into one condition; the names are upstream's.
Combine = Literal["stochastic", "multidiffusion"]


@dataclass(frozen=True)
class TextPrompt:
    """A sentence without surrounding whitespace, not empty."""

    text: str

    @property
    def label(self) -> str:
        """Description for logs, on one line."""
        return repr(self.text[:80])


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """A decoded image of mode RGB or RGBA, and the bytes of its file; a drawn image has its raw pixels as file."""

    image: Image.Image
    file: bytes

    @cached_property
    def digest(self) -> str:
        """First 12 hex digits of the file's sha256."""
        return hashlib.sha256(self.file).hexdigest()[:12]

    @property
    def label(self) -> str:
        """Description for logs, which never contains the image's own bytes."""
        return f"image {self.digest} ({self.image.width}x{self.image.height} {self.image.mode})"


@dataclass(frozen=True, eq=False)
class ImagesPrompt:
    """Several images of one object, which take turns from step to step or are averaged in every step."""

    images: tuple[ImagePrompt, ...]
    combine: Combine = "stochastic"

    def __post_init__(self) -> None:
        """Raise PromptError if there is no image."""
        if not self.images:
            raise PromptError("the prompt has no image")

    @property
    def label(self) -> str:
        """Description for logs."""
        return f"{len(self.images)} images, {self.combine}: " + "; ".join(image.label for image in self.images)


Prompt = TextPrompt | ImagePrompt | ImagesPrompt


def parse_text_prompt(text: str) -> TextPrompt:
    """Strip a sentence; raise PromptError if it is empty or longer than MAX_TEXT_LENGTH."""
    stripped = text.strip()
    if not stripped:
        raise PromptError("the prompt is empty")
    if len(stripped) > MAX_TEXT_LENGTH:
        raise PromptError(f"the prompt has {len(stripped)} characters, more than {MAX_TEXT_LENGTH}")
    return TextPrompt(stripped)


def decode_image_prompt(file: bytes) -> ImagePrompt:
    """Decode the bytes of an image file; transparency of any kind becomes an alpha channel.

    The size is checked before any pixel is decoded. Raises PromptError if it is too large or unreadable.
    """
    if len(file) > MAX_IMAGE_BYTES:
        raise PromptError(f"the image has {len(file)} bytes, more than {MAX_IMAGE_BYTES}")
    try:
        with Image.open(io.BytesIO(file), formats=IMAGE_FORMATS) as opened:
            if max(opened.size) > MAX_IMAGE_SIDE:
                raise PromptError(
                    f"the image is {opened.width}x{opened.height} pixels, more than {MAX_IMAGE_SIDE} a side"
                )
            image = _to_eight_bit(opened).convert("RGBA" if opened.has_transparency_data else "RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PromptError(f"the image is far more than {MAX_IMAGE_SIDE} pixels a side") from None
    except UnidentifiedImageError:
        raise PromptError(f"the data is not an image of a known format ({', '.join(IMAGE_FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, struct.error) as error:
        # Pillow's decoders report damaged files with any of these.
        raise PromptError(f"the image cannot be decoded: {error}") from None
    return ImagePrompt(image, file)


def _to_eight_bit(image: Image.Image) -> Image.Image:
    # Pillow converts 16-bit grey by clipping, which makes nearly all of it white.
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
