import hashlib
import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.prompt import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_SIDE,
    MAX_TEXT_LENGTH,
    decode_image_prompt,
    parse_text_prompt,
)
from pipeline.errors import PromptError


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(mode: str, size: tuple[int, int] = (12, 9)) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).squeeze())


def png_header(width: int, height: int) -> bytes:
    """A PNG file that announces a size and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


PNG = encode(noise("RGB"))


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", bytes(999)],
)
def test_what_is_not_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(PromptError, match=r"not an image of a known format \(PNG, JPEG, "):
        decode_image_prompt(data)


def test_formats_that_are_not_needed_are_not_decoded() -> None:
    with pytest.raises(PromptError, match="known format"):
        decode_image_prompt(encode(noise("RGB"), "PPM"))
    with pytest.raises(PromptError, match="known format"):
        decode_image_prompt(encode(noise("RGB"), "EPS"))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_file_is_refused(image_format: str, keep: float) -> None:
    data = encode(noise("RGB", (40, 40)), image_format)
    with pytest.raises(PromptError, match=r"cannot be decoded|known format"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decode_image_prompt(data[: int(len(data) * keep)])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damage_anywhere_gives_an_image_or_a_prompt_error(image_format: str) -> None:
    chance = random.Random(0)
    data = encode(noise("RGB", (8, 8)), image_format)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 2, 5])):
            damaged[chance.randrange(min(len(data), 400))] = chance.choice([0, 255, chance.randrange(256)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode_image_prompt(bytes(damaged)).image.mode in ("RGB", "RGBA")
            except PromptError:
                refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((MAX_IMAGE_SIDE + 1, 1), "the image is 4097x1 pixels, more than 4096 a side"),
        ((1, MAX_IMAGE_SIDE + 1), "the image is 1x4097 pixels, more than 4096 a side"),
        ((5000, 5000), "the image is 5000x5000 pixels, more than 4096 a side"),
        ((10000, 10000), "more than 4096 "),
        ((60000, 60000), "far more than 4096 pixels a side"),
    ],
)
def test_a_large_picture_is_refused_by_its_header(size: tuple[int, int], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        decode_image_prompt(png_header(*size))


def test_the_largest_picture_is_taken() -> None:
    prompt = decode_image_prompt(encode(Image.new("L", (MAX_IMAGE_SIDE, 1))))
    assert prompt.image.size == (MAX_IMAGE_SIDE, 1)


def test_more_than_32_megabytes_are_refused_before_decoding() -> None:
    assert MAX_IMAGE_BYTES == 32 * 1024 * 1024
    with pytest.raises(PromptError, match="33554433 bytes, more than 33554432"):
        decode_image_prompt(bytes(MAX_IMAGE_BYTES + 1))


def test_a_file_of_just_32_megabytes_is_decoded() -> None:
    padded = PNG + bytes(MAX_IMAGE_BYTES - len(PNG))
    assert np.array_equal(decode_image_prompt(padded).image, noise("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_pictures_without_transparency_become_rgb(mode: str) -> None:
    image = noise("RGB").convert(mode)
    prompt = decode_image_prompt(encode(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert prompt.image.mode == "RGB"
    if mode not in ("CMYK", "YCbCr"):
        assert np.array_equal(prompt.image, image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_kept(mode: str) -> None:
    image = noise("RGBA").convert(mode)
    prompt = decode_image_prompt(encode(image))
    assert prompt.image.mode == "RGBA"
    assert np.array_equal(prompt.image, image.convert("RGBA"))


def test_a_transparent_colour_becomes_alpha() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 255))
    image.putpixel((1, 2), (10, 20, 30))
    prompt = decode_image_prompt(encode(image, transparency=(255, 0, 255)))
    assert np.count_nonzero(np.array(prompt.image)[:, :, 3]) == 1
    assert prompt.image.getpixel((1, 2)) == (10, 20, 30, 255)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_palette_with_transparency_becomes_alpha(image_format: str) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((3, 0), 1)
    prompt = decode_image_prompt(encode(image, image_format, transparency=0))
    assert prompt.image.mode == "RGBA"
    assert prompt.image.getpixel((3, 0)) == (200, 100, 50, 255)
    assert prompt.image.getpixel((0, 0))[3] == 0


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_brightness(image_format: str) -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    prompt = decode_image_prompt(encode(Image.fromarray(grey), image_format))
    assert np.array_equal(np.array(prompt.image)[:, :, 0], [[0, 0, 1, 128, 255]])
    assert prompt.image.mode == "RGB"


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(image_format: str) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50, **options)
    prompt = decode_image_prompt(data)
    assert prompt.image.size == (6, 5)
    assert prompt.image.convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_a_label_tells_pictures_apart_and_shows_none_of_their_bytes() -> None:
    prompt, other = decode_image_prompt(PNG), decode_image_prompt(encode(noise("RGBA")))
    assert prompt.label == f"image {prompt.digest} (12x9 RGB)"
    assert (prompt.file, prompt.digest) == (PNG, hashlib.sha256(PNG).hexdigest()[:12])
    assert other.label != prompt.label


def test_a_sentence_is_stripped_and_its_label_short() -> None:
    prompt = parse_text_prompt("  a red\nfox \n")
    assert prompt.text == "a red\nfox"
    # One line in the log, whatever was sent.
    assert prompt.label == r"'a red\nfox'"
    assert len(parse_text_prompt("x" * MAX_TEXT_LENGTH).label) == 82


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" \n\t", "the prompt is empty"),
        ("x" * 1025, "the prompt has 1025 characters, more than 1024"),
    ],
)
def test_a_sentence_that_is_empty_or_too_long_is_refused(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        parse_text_prompt(text)
