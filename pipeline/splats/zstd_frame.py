"""zstd frames (RFC 8878), measured before they are decompressed."""

import zstandard

from pipeline.errors import FormatError

MAX_WINDOW = 1 << 30
_BLOCK_BYTES = 128 << 10
_MAX_BLOCKS = 1 << 20


def walk_frame(data: bytes, start: int) -> tuple[int, int]:
    """Return where the zstd frame at `start` ends, and how many bytes its blocks can hold at most.

    Raises FormatError if there is none, or if it is cut short.
    """
    try:
        frame = data[start : start + 18]
        checksum = 4 * zstandard.get_frame_parameters(frame).has_checksum
        at = start + zstandard.frame_header_size(frame)
    except zstandard.ZstdError as error:
        raise FormatError(f"not an SPZ: {error}") from error
    capacity = 0
    for _ in range(_MAX_BLOCKS):
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += 3 + (1 if kind == 1 else size)
        capacity += size if kind < 2 else _BLOCK_BYTES
        if at + checksum * last > len(data):
            raise FormatError("SPZ with a zstd frame that is cut short")
        if last:
            return at + checksum, capacity
    raise FormatError(f"SPZ with a zstd frame of more than {_MAX_BLOCKS} blocks")


def decompress_frame(data: memoryview, max_bytes: int) -> bytes:
    """Return the content of a frame, at most `max_bytes` of it. Raises FormatError."""
    try:
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(data, max_output_size=max_bytes)
    except zstandard.ZstdError as error:
        raise FormatError(f"SPZ with a damaged zstd frame: {error}") from error
