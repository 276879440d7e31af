"""Files of pictures that Pillow does not write: PNG and TIFF in any layout, byte by byte."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def animate(frames: Sequence[Image.Image], image_format: str, **options: object) -> bytes:
    """An animation, or a TIFF of several pages."""
    return encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50, **options)


GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def raw_png(values: np.ndarray, colour_type: int, bit_depth: int, **chunks: bytes) -> bytes:
    """A PNG of the samples [H, W] or [H, W, channels] as they are; further chunks, such as tRNS, precede the pixels."""

    def chunk(name: str, data: bytes) -> bytes:
        body = name.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape[:2]
    samples = values.reshape(height, -1)
    if bit_depth < 8:
        bits = samples[..., None] >> np.arange(bit_depth - 1, -1, -1) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = samples.astype(">u2" if bit_depth == 16 else "u1")
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [("IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)), *chunks.items()]
    parts += [("IDAT", zlib.compress(pixels)), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1


def raw_tiff(values: np.ndarray, photometric: int = BLACK_IS_ZERO, order: str = "<", orientation: int = 1) -> bytes:
    """An uncompressed greyscale TIFF of the samples [H, W] in their own type."""
    height, width = values.shape
    sample_format = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 274: orientation,
        277: 1, 278: height, 279: len(data), 339: sample_format,
    }  # fmt: skip
    directory = struct.pack(order + "H", len(tags))
    for tag, value in tags.items():
        directory += struct.pack(order + "HHII", tag, 4, 1, value)
    magic = b"II" if order == "<" else b"MM"
    return magic + struct.pack(order + "HI", 42, 8 + len(data)) + data + directory + struct.pack(order + "I", 0)
