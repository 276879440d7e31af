import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.image_limits import MAX_CHUNKS, MAX_SCANS, MAX_TILES, check_parts
from pipeline.errors import PromptError
from scripts.validation.picture_bombs import jpeg_of_scans, png_of_chunks, tiff_of_strips
from tests.support.picture_corpus import PICTURES, PictureCase
from tests.support.picture_files import encode


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (lambda: jpeg_of_scans(200, side=64), f"{MAX_SCANS} scans"),
        (lambda: png_of_chunks(900_000), f"{MAX_CHUNKS} chunks"),
        (lambda: tiff_of_strips(1_500_000), f"{MAX_TILES} strips"),
    ],
    ids=["JPEG", "PNG", "TIFF"],
)
def test_pictures_of_too_many_parts_are_refused(file: object, parts: str) -> None:
    assert callable(file)
    with pytest.raises(PromptError, match=f"more than {parts}: save it again as PNG"):
        check_parts(file())


def test_the_parts_of_a_big_tiff_of_either_byte_order_are_counted() -> None:
    for order, big in (("<", True), (">", True), (">", False)):
        directory = {324: MAX_TILES + 1}
        with pytest.raises(PromptError, match=f"{MAX_TILES} tiles"):
            check_parts(tiff_directory(order, big, directory))


def tiff_directory(order: str, big: bool, counts: dict[int, int]) -> bytes:
    """The beginning of a TIFF, with a directory of tags that have so many values."""
    letters = b"II" if order == "<" else b"MM"
    if big:
        head = letters + struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(counts))
        return head + b"".join(struct.pack(order + "HHQQ", tag, 16, count, 0) for tag, count in counts.items())
    head = letters + struct.pack(order + "HIH", 42, 8, len(counts))
    return head + b"".join(struct.pack(order + "HHII", tag, 4, count, 0) for tag, count in counts.items())


@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case.name)
def test_pictures_that_people_have_are_within_the_limits(case: PictureCase) -> None:
    check_parts(case.make())


def test_only_the_picture_itself_is_counted() -> None:
    """Telephones put films behind their JPEGs, in which any bytes occur."""
    scan, chunk = b"\xff\xda\0\2", bytes(12)
    check_parts(encode(Image.new("RGB", (8, 8)), "JPEG") + scan * 1000)
    check_parts(encode(Image.new("RGB", (8, 8)), "PNG") + chunk * 100_000)
    thumbnail = scan * 1000
    check_parts(encode(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0" + thumbnail))


def test_a_progressive_jpeg_of_a_busy_picture_has_a_tenth_of_the_scans() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = encode(Image.fromarray(noise), "JPEG", progressive=True)
    assert file.count(b"\xff\xda") <= MAX_SCANS / 10
    check_parts(file)


@pytest.mark.parametrize("start", [b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
def test_damage_passes_for_the_decoder_to_name(start: bytes) -> None:
    for rest in (b"", b"\xff", b"\xff\xda", b"\xff" * 64, bytes(64)):
        check_parts(start + rest)
