"""Small files that cost a decoder far more time or memory than their pixels do."""

import io
import struct
import zlib

from PIL import Image


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return the file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg_of_scans(count: int, side: int = 4096) -> bytes:
    """Return a progressive JPEG of one colour, whose last scan, over all pixels, stands in it `count` times."""
    whole = encode(Image.new("RGB", (side, side), (90, 120, 150)), "JPEG", progressive=True)
    head, body = whole[:-2], whole[-2:]
    start = head.rindex(b"\xff\xda")
    return head + head[start:] * (count - 1) + body


def tiff_of_strips(count: int) -> bytes:
    """Return a TIFF, one pixel wide, with a directory of `count` strips, which are all the same pixel."""
    width, height, pixel_offset = 1, count, 8
    values = struct.pack("<I", pixel_offset) * count
    lengths = struct.pack("<I", 1) * count
    offsets_at = pixel_offset + 4
    lengths_at = offsets_at + len(values)
    directory_at = lengths_at + len(lengths)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, count, offsets_at), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, lengths_at),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", directory_at) + bytes(4) + values + lengths + directory


def png_of_chunks(count: int) -> bytes:
    """Return a PNG of one pixel with `count` empty chunks of text before it."""
    whole = encode(Image.new("RGB", (1, 1)), "PNG")
    empty = struct.pack(">I", 0) + b"teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    place = whole.index(b"IDAT") - 4
    return whole[:place] + empty * count + whole[place:]
