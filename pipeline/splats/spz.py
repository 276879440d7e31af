"""Splats <-> SPZ, the container of subnet 17: one zstd frame around 19 bytes a gaussian (404-Repo/spz).

The bytes are those of the reference library, see `spz_quantisation`. The frame also depends on the release of libzstd:
1.5.7 in the reference build and in zstandard 0.24 and later.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import zstandard
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats.splats import SH_COEFFICIENTS, Splats
from pipeline.splats.spz_quantisation import HEADER, MAGIC, dequantise, quantise, raw_size

MAX_GAUSSIANS = 10_000_000
"""Limit of the reference reader; the reference writer takes up to 10,485,760."""
MAX_FRACTIONAL_BITS = 24
MAX_TRAILING_BYTES = 32 << 20
"""Raw bytes after the last plane that are ignored; more of them are an error."""

_BLOCK_BYTES = 128 << 10
_MAX_BLOCKS = 1 << 20
_MAX_WINDOW = 1 << 30
_SKIPPABLE_MAGIC = 0x184D2A50
# A frame that does not declare its size is given this many times the input's, as in the reference.
_UNDECLARED_RATIO = 6


def to_bytes(splats: Splats, *, level: int = 1, workers: int = 0, lossy: bool = False) -> bytes:
    """Write the container, quantised on the device of the splats.

    level: zstd level, clamped to 1..22. workers: zstd threads; 0 compresses in this one, any other number
    gives the same bytes as 1, which differ from those of 0 above 512 KiB of raw data.
    Raises FormatError for splats that would not be read back: none, more than 10,000,000, or those with a
    `loss_reason`; with `lossy` the latter are written as the reference writes them.
    """
    if not 1 <= len(splats) <= MAX_GAUSSIANS:
        raise FormatError(f"{len(splats)} gaussians cannot be written as SPZ: readers take 1 to {MAX_GAUSSIANS}")
    if not lossy and (reason := loss_reason(splats)):
        raise FormatError(reason)
    raw = quantise(splats).cpu().numpy()
    threads = min(max(workers, 0), 256)
    return zstandard.ZstdCompressor(level=min(max(level, 1), 22), threads=threads).compress(raw.data)


def loss_reason(splats: Splats) -> str | None:
    """Return why a container cannot hold these splats (at least one), or None; clamping is no loss."""
    fields = {name: tensor for name, tensor in splats.tensors().items() if tensor.numel()}
    # One transfer for all of them; a NaN anywhere makes both ends NaN.
    ranges = torch.stack([torch.stack(torch.aminmax(field)) for field in fields.values()]).tolist()
    for name, (low, _) in zip(fields, ranges, strict=True):
        if math.isnan(low):
            return f"{name} hold a NaN, which SPZ cannot: call drop_non_finite() first"
    low, high = ranges[0]
    # Half a step below 2048 rounds up to it, and 2048 wraps to -2048.
    if low < -2048.0 or high >= 2048.0 - 2.0**-13:
        return f"means from {low:g} to {high:g}: SPZ wraps outside -2048 to 2047.9998, call normalise() first"
    return None


def from_bytes(data: bytes) -> Splats:
    """Read a container of version 1 or 2 as the reference does; on the CPU.

    Bytes after the last plane, flags and the reserved byte are ignored. Raises FormatError with the reason for
    everything that the reference refuses, and for more than 24 fractional bits.
    """
    header = read_header(data)
    try:
        raw = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompress(
            memoryview(data)[: header.frame_bytes], max_output_size=header.max_raw_bytes
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"SPZ with a damaged zstd frame: {error}") from error
    if len(raw) < header.raw_bytes:
        raise FormatError(f"SPZ too short: {len(raw)} raw bytes, its header asks for {header.raw_bytes}")
    # A bytearray because torch takes no read-only buffer without a warning.
    planes = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[HEADER.size :]
    return dequantise(planes, header.count, header.sh_degree, header.version, header.fractional_bits)


@dataclass(frozen=True)
class Header:
    """The header of a container, and the sizes of its frame."""

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    antialiased: bool
    raw_bytes: int
    """Size of header and planes."""
    max_raw_bytes: int
    """Largest size that the frame may decompress to."""
    frame_bytes: int
    """Compressed size of the data frame."""


def read_header(data: bytes) -> Header:
    """Check the frame and the header of a container, decompressing no more than its first block.

    Raises FormatError if they contradict each other, the data or the limits, so that no memory is allocated for
    gaussians that cannot be there.
    """
    frame_bytes, capacity = _walk_frame(data, 0)
    _refuse_trailing_data(data, frame_bytes)
    declared = zstandard.get_frame_parameters(data).content_size
    if declared != zstandard.CONTENTSIZE_UNKNOWN and declared > capacity:
        raise FormatError(f"SPZ frame declares {declared} bytes, its blocks hold at most {capacity}")
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(data) as reader:
            start = reader.read(HEADER.size)
    except zstandard.ZstdError as error:
        raise FormatError(f"SPZ with a damaged zstd frame: {error}") from error
    if len(start) < HEADER.size:
        raise FormatError(f"SPZ too short: {len(start)} raw bytes, its header alone has {HEADER.size}")
    magic, version, count, degree, fractional_bits, flags, _ = HEADER.unpack(start)
    if magic != MAGIC:
        raise FormatError(f"not an SPZ: magic {magic:#010x} instead of {MAGIC:#010x}")
    if version not in (1, 2):
        raise FormatError(f"SPZ of version {version}: expected 1 or 2")
    if not 1 <= count <= MAX_GAUSSIANS:
        raise FormatError(f"SPZ of {count} gaussians: expected 1 to {MAX_GAUSSIANS}")
    if degree >= len(SH_COEFFICIENTS):
        raise FormatError(f"SPZ of spherical-harmonic degree {degree}: expected 0 to 3")
    if fractional_bits > MAX_FRACTIONAL_BITS:
        raise FormatError(f"SPZ with {fractional_bits} fractional bits: expected up to {MAX_FRACTIONAL_BITS}")

    required = raw_size(count, degree, version)
    available = declared
    if declared == zstandard.CONTENTSIZE_UNKNOWN:
        available = min(capacity, _UNDECLARED_RATIO * len(data), required + MAX_TRAILING_BYTES)
    if required > available:
        raise FormatError(f"SPZ too short: at most {available} raw bytes, its header asks for {required}")
    if available > required + MAX_TRAILING_BYTES:
        raise FormatError(f"SPZ frame declares {available} bytes, its header asks for {required} only")
    return Header(version, count, degree, fractional_bits, bool(flags & 1), required, available, frame_bytes)


def _walk_frame(data: bytes, start: int) -> tuple[int, int]:
    """Return where the zstd frame at `start` ends, and how many bytes its blocks can hold at most (RFC 8878)."""
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


def _refuse_trailing_data(data: bytes, at: int) -> None:
    # The reference decompresses everything after the first frame into a buffer of size zero, so that only skippable
    # and empty frames are accepted.
    while at < len(data):
        if int.from_bytes(data[at : at + 4], "little") & ~0xF == _SKIPPABLE_MAGIC and at + 8 <= len(data):
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            capacity = 0
        else:
            at, capacity = _walk_frame(data, at)
        if capacity or at > len(data):
            raise FormatError("SPZ with data after its zstd frame")


def verify_round_trip(splats: Splats, data: bytes) -> Splats:
    """Decode `data` and check that it holds `splats` within the error bounds of the format.

    Values outside an attribute's range are compared with the nearest end of the range. Returns the splats that a
    reader of `data` gets, on the device of `splats`. Raises FormatError naming the attribute that differs, and by how
    much.
    """
    decoded = from_bytes(data).to(splats.device)
    if len(decoded) != len(splats) or decoded.sh_degree != splats.sh_degree:
        raise FormatError(
            f"SPZ holds {len(decoded)} gaussians of degree {decoded.sh_degree} instead of "
            f"{len(splats)} of degree {splats.sh_degree}"
        )
    errors = {
        "means": ((decoded.means - splats.means).abs(), 2.0**-13),
        "opacities": ((decoded.opacity_logits.sigmoid() - splats.opacity_logits.sigmoid()).abs(), 1 / 510 + _ROUNDING),
        "f_dc": ((decoded.f_dc - splats.f_dc.clamp(-10 / 3, 10 / 3)).abs(), 1 / 76.5 + _ROUNDING),
        "log_scales": ((decoded.log_scales - splats.log_scales.clamp(-10, 5.9375)).abs(), 1 / 32 + _ROUNDING),
        "quaternions": (_rotation_error(decoded.quaternions, splats.quaternions), 1 / 255 + _ROUNDING),
    }
    if splats.sh_degree and splats.f_rest is not None and decoded.f_rest is not None:
        harmonics = (decoded.f_rest - splats.f_rest.clamp(-1, 127 / 128)).abs()
        errors["f_rest of degree 1"] = (harmonics[..., :3], 4.5 / 128)
        errors["f_rest above degree 1"] = (harmonics[..., 3:], 8.5 / 128)
    worst = torch.stack([error.amax() if error.numel() else error.new_zeros(()) for error, _ in errors.values()])
    for name, value in zip(errors, worst.tolist(), strict=True):
        if not value <= errors[name][1]:
            raise FormatError(f"SPZ changed the {name} by {value:.6g}; its format allows {errors[name][1]:.6g}")
    return decoded


# Float32 rounding in the quantisation and in this comparison, for values of the size of 1 to 10.
_ROUNDING = 2e-6


def _rotation_error(decoded: Tensor, original: Tensor) -> Tensor:
    """Return the largest difference in x, y, z of the unit quaternions, float32 [N]; q and -q are the same rotation."""
    unit = F.normalize(original.double(), dim=1).float()
    same = (decoded - unit)[:, 1:].abs().amax(dim=1)
    opposite = (decoded + unit)[:, 1:].abs().amax(dim=1)
    return torch.minimum(same, opposite)
