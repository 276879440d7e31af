"""Prompts, with the limits that protect against what untrusted senders submit."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from PIL import Image

from pipeline.conditioning.image_file import read_image
from pipeline.conditioning.sentences import PLACE
from pipeline.errors import PromptError
from pipeline.params import CutOutParams

MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_IMAGE_SIDE = 4096
# The validation service refuses longer sentences, so work on one earns nothing.
MAX_TEXT_LENGTH = 1024

# How several images of one object are combined into one condition; the names are upstream's.
Combine = Literal["stochastic", "multidiffusion"]


@dataclass(frozen=True)
class TextPrompt:
    """A sentence without surrounding whitespace, not empty.

    template: what is encoded or drawn, with the sentence in its place; scores are of the sentence alone.
    """

    text: str
    template: str = PLACE

    @property
    def filled(self) -> str:
        """The template with the sentence in its place."""
        return self.template.replace(PLACE, self.text)

    @property
    def label(self) -> str:
        """Description for logs, on one line."""
        return repr(self.text[:80])


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """A decoded image of mode RGB or RGBA, and the bytes of its file; a drawn image has its raw pixels as file.

    params: how its object is cut out and framed.
    """

    image: Image.Image
    file: bytes
    params: CutOutParams = field(default_factory=CutOutParams)

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


def check_image_bytes(file: bytes) -> None:
    """Raise PromptError if the file of an image is longer than MAX_IMAGE_BYTES."""
    if len(file) > MAX_IMAGE_BYTES:
        raise PromptError(f"the image has {len(file)} bytes, more than {MAX_IMAGE_BYTES}")


def decode_image_prompt(file: bytes) -> ImagePrompt:
    """Decode the bytes of an image file, upright; transparency of any kind becomes an alpha channel.

    The size is checked before any pixel is decoded. Raises PromptError if it is too large or unreadable. What strangers
    send is decoded by a DecoderProcess instead, since a file of a few kB may take hours.
    """
    check_image_bytes(file)
    return ImagePrompt(read_image(file, MAX_IMAGE_SIDE), file)


def with_cut_out(prompt: Prompt, params: CutOutParams) -> Prompt:
    """Return the prompt with all its images to be cut out as `params` say; a sentence is returned as it is."""
    if isinstance(prompt, ImagePrompt):
        return replace(prompt, params=params)
    if isinstance(prompt, ImagesPrompt):
        return replace(prompt, images=tuple(replace(image, params=params) for image in prompt.images))
    return prompt


def with_template(prompt: Prompt, template: str) -> Prompt:
    """Return a sentence to be read in a template; images are returned as they are."""
    return replace(prompt, template=template) if isinstance(prompt, TextPrompt) else prompt
