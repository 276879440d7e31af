"""Limits on the parts that a picture's file is made of, checked before a decoder sees it.

Each part costs the decoder time and memory, whatever the number of pixels: a scan of a JPEG goes over all pixels again,
and a strip of a TIFF takes three hundred bytes in Pillow. The limits are far beyond what any program writes.
"""

import re
import struct
from itertools import islice

from pipeline.errors import PromptError

MAX_SCANS = 100
"""Scans of a JPEG; progressive ones have about ten."""
MAX_CHUNKS = 65_536
"""Chunks of a PNG; 32 MiB in chunks of 512 bytes."""
MAX_TILES = 65_536
"""Strips or tiles of a TIFF; 4096x4096 pixels in tiles of 16x16."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# A marker that ends the compressed data of a scan: not a stuffed zero, a restart or a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_TIFF_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
# What the count of a TIFF's directory can say at most; BigTIFF's has eight bytes.
_MAX_ENTRIES = 65_535
_OFFSET_TAGS = {273: "strips", 324: "tiles"}


def check_parts(file: bytes) -> None:
    """Raise PromptError for a JPEG, PNG or TIFF of too many scans, chunks, strips or tiles; others and damage pass."""
    if file.startswith(_JPEG):
        _check(_count_scans(file), MAX_SCANS, "scans")
    elif file.startswith(_PNG):
        _check(_count_chunks(file), MAX_CHUNKS, "chunks")
    elif (order := _TIFF_BYTE_ORDERS.get(file[:4])) is not None:
        for count, parts in _count_tiles(file, order):
            _check(count, MAX_TILES, parts)


def _check(count: int, limit: int, parts: str) -> None:
    if count > limit:
        raise PromptError(f"the image consists of more than {limit} {parts}: save it again as PNG")


def _count_scans(file: bytes) -> int:
    """Count scans up to the end of the first image, or to one beyond the limit."""
    position, scans = len(_JPEG), 0
    while scans <= MAX_SCANS and (found := _NEXT_MARKER.search(file, position)):
        marker = file[found.end() - 1]
        if marker == _END_OF_IMAGE:
            break
        scans += marker == _START_OF_SCAN
        # The length of a segment includes its own two bytes.
        position = found.end() + max(int.from_bytes(file[found.end() : found.end() + 2]), 2)
    return scans


def _count_chunks(file: bytes) -> int:
    """Count chunks up to the last one, or to one beyond the limit."""
    position, chunks = len(_PNG), 0
    while chunks <= MAX_CHUNKS and position < len(file):
        chunks += 1
        if file[position + 4 : position + 8] == b"IEND":
            break
        # Length, type and checksum take four bytes each.
        position += 12 + int.from_bytes(file[position : position + 4])
    return chunks


def _count_tiles(file: bytes, order: str) -> list[tuple[int, str]]:
    """Return the number of strips and of tiles of a TIFF's first picture, as its directory tells them."""
    is_big = file[2:3] == b"+" or file[3:4] == b"+"
    start, counter, entry = (8, "Q", "HHQQ") if is_big else (4, "H", "HHII")
    offset_format = order + ("Q" if is_big else "I")
    try:
        (offset,) = struct.unpack_from(offset_format, file, start)
        (entries,) = struct.unpack_from(order + counter, file, offset)
        directory = file[offset + struct.calcsize(counter) :]
    except (struct.error, OverflowError):
        return []
    size = struct.calcsize("=" + entry)
    whole = directory[: len(directory) // size * size]
    found = islice(struct.iter_unpack(order + entry, whole), min(entries, _MAX_ENTRIES))
    return [(count, _OFFSET_TAGS[tag]) for tag, _, count, _ in found if tag in _OFFSET_TAGS]
