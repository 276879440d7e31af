"""The containers of nianticlabs/spz: gzip or plain in versions 1 to 3, a zstd frame a plane in version 4.

Their planes are those of the subnet's container, but for the rotations from version 3 on and a fourth degree of
harmonics. Coordinates are left as they are in the file; by default its writers store +y up.
"""

import struct
import zlib
from dataclasses import replace

import zstandard

from pipeline.errors import FormatError
from pipeline.signatures import identify
from pipeline.splats.spz_header import MAX_TRAILING_BYTES, Header, parse_header
from pipeline.splats.spz_quantisation import HEADER, plane_widths
from pipeline.splats.zstd_frame import decompress_frame, walk_frame

GZIP_MAGIC = b"\x1f\x8b"
PLAIN_MAGIC = b"NGSP"
_VERSIONS, _STREAM_VERSION = (1, 2, 3), 4
# zlib's code for gzip, and the most that deflate can expand a byte to.
_GZIP_BITS = 31
_GZIP_RATIO = 1032
_NO_LIMIT = 1 << 63
# After the header's 16 bytes: where the table of the streams begins, and reserved bytes; then two sizes a stream.
_STREAM_HEADER = struct.Struct("<16xI12x")
_SIZES = struct.Struct("<QQ")


def read_header(data: bytes) -> Header:
    """Read the header of data that begins with GZIP_MAGIC or PLAIN_MAGIC. Raises FormatError."""
    size = len(data)
    if data.startswith(GZIP_MAGIC):
        start, _ = _gunzip(data, HEADER.size)
        if not start.startswith(PLAIN_MAGIC) and (kind := identify(start)):
            raise FormatError(f"not an SPZ: gzip data of {kind.name}; unpack it first with gunzip")
        return parse_header(start, "gzip", _VERSIONS, available=_GZIP_RATIO * size, frame_bytes=size)
    if data[4:8] != struct.pack("<I", _STREAM_VERSION):
        versions = (*_VERSIONS, _STREAM_VERSION)
        return parse_header(data[: HEADER.size], "none", versions, available=size, frame_bytes=size)
    if size < _STREAM_HEADER.size:
        raise FormatError(f"SPZ too short: {size} bytes, its header alone has {_STREAM_HEADER.size}")
    # Each stream is measured below.
    header = parse_header(
        data[: HEADER.size], "zstd streams", (_STREAM_VERSION,), available=_NO_LIMIT, frame_bytes=size
    )
    _locate_streams(data, header)
    return replace(header, max_raw_bytes=header.raw_bytes)


def read_planes(data: bytes, header: Header) -> bytearray:
    """Return the planes of a container behind one another. Raises FormatError."""
    if header.compression == "zstd streams":
        planes = bytearray()
        for (start, end), size in zip(_locate_streams(data, header), _stream_sizes(header), strict=True):
            plane = decompress_frame(memoryview(data)[start:end], size)
            if len(plane) != size:
                raise FormatError(f"SPZ with a stream of {len(plane)} bytes, its header asks for {size}")
            planes += plane
        return planes
    if header.compression == "none":
        return bytearray(memoryview(data)[HEADER.size : header.raw_bytes])
    raw, is_complete = _gunzip(data, header.raw_bytes + MAX_TRAILING_BYTES)
    if len(raw) < header.raw_bytes:
        raise FormatError(f"SPZ too short: {len(raw)} raw bytes, its header asks for {header.raw_bytes}")
    if not is_complete:
        raise FormatError("SPZ whose gzip data is cut short, or goes on long after the last plane")
    return bytearray(memoryview(raw)[HEADER.size : header.raw_bytes])


def _gunzip(data: bytes, limit: int) -> tuple[bytes, bool]:
    """Return up to `limit` bytes of the content, and whether that is all of it."""
    decompressor = zlib.decompressobj(_GZIP_BITS)
    try:
        raw = decompressor.decompress(data, limit)
    except zlib.error as error:
        raise FormatError(f"not an SPZ: damaged gzip data: {error}") from error
    return raw, decompressor.eof


def _stream_sizes(header: Header) -> list[int]:
    return [header.count * width for width in plane_widths(header.sh_degree, header.version) if width]


def _locate_streams(data: bytes, header: Header) -> list[tuple[int, int]]:
    """Return where the zstd frame of each plane begins and ends; none can hold less than its plane."""
    sizes = _stream_sizes(header)
    (table,) = _STREAM_HEADER.unpack_from(data)
    end = table + _SIZES.size * len(sizes)
    if data[HEADER.size - 1] != len(sizes):
        raise FormatError(f"SPZ with {data[HEADER.size - 1]} streams: degree {header.sh_degree} needs {len(sizes)}")
    if table < _STREAM_HEADER.size or end > len(data):
        raise FormatError(f"SPZ too short: the table of its streams is at byte {table} of {len(data)}")
    frames = []
    for index, size in enumerate(sizes):
        compressed, declared = _SIZES.unpack_from(data, table + _SIZES.size * index)
        start, end = end, end + compressed
        if end > len(data):
            raise FormatError(f"SPZ too short: stream {index} ends at byte {end} of {len(data)}")
        frame_end, capacity = walk_frame(data[start:end], 0)
        content = zstandard.get_frame_parameters(data[start:end]).content_size
        if declared != size or content not in (size, zstandard.CONTENTSIZE_UNKNOWN) or capacity < size:
            raise FormatError(f"SPZ whose stream {index} holds {declared} bytes, its header asks for {size}")
        if frame_end != compressed:
            raise FormatError(f"SPZ with data after the zstd frame of stream {index}")
        frames.append((start, end))
    if end != len(data):
        raise FormatError(f"SPZ with {len(data) - end} bytes after its last stream")
    return frames
