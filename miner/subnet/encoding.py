"""Base64, in which pictures and results travel; nothing beyond the transports sees it."""

import base64
from collections.abc import Callable
from typing import Literal

from pipeline import MAX_IMAGE_BYTES, ImagePrompt, Prompt, PromptError, decode_image_prompt, parse_text_prompt


def decode_prompt(
    task_type: Literal["text", "image"],
    text: str,
    decode_image: Callable[[bytes], ImagePrompt] = decode_image_prompt,
) -> Prompt:
    """Decode a prompt as it travels: a sentence, or an image file in base64, perhaps with a `data:...;base64,` prefix.

    `decode_image` decodes the file. Raises PromptError if the prompt is empty, too large, not base64, or not an
    acceptable sentence or image.
    """
    if task_type == "text":
        return parse_text_prompt(text)
    encoded = "".join((text.rpartition(",")[2] if text.startswith("data:") else text).split())
    if not encoded:
        raise PromptError("the prompt is empty")
    if len(encoded) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise PromptError(f"the image has more than {MAX_IMAGE_BYTES} bytes")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise PromptError(f"the image is not valid base64: {error}") from None
    return decode_image(data)


def encode_result(data: bytes) -> str:
    """Encode a result's file for the answer; an empty one stays empty."""
    return base64.b64encode(data).decode()


def encoded_size(data: bytes) -> int:
    """Return the length of `encode_result(data)`."""
    return (len(data) + 2) // 3 * 4
