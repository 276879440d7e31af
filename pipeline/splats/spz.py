"""Splats <-> SPZ, the container of subnet 17: one zstd frame around 19 bytes a gaussian (404-Repo/spz).

The bytes are those of the reference library, see `spz_quantisation`. The frame also depends on the release of libzstd:
1.5.7 in the reference build and in zstandard 0.24 and later.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
import zstandard
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.signatures import identify
from pipeline.splats import niantic_spz
from pipeline.splats.defects import count_zero_rotations
from pipeline.splats.rotations import rescale_extreme
from pipeline.splats.splats import Splats
from pipeline.splats.spz_header import MAX_GAUSSIANS, MAX_TRAILING_BYTES, Header, parse_header
from pipeline.splats.spz_quantisation import HEADER, dequantise, quantise
from pipeline.splats.zstd_frame import MAX_WINDOW, decompress_frame, walk_frame

__all__ = ["Header", "from_bytes", "loss_reason", "read_header", "to_bytes", "verify_round_trip"]

_VERSIONS = (1, 2)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = 0x184D2A50
# A frame that does not declare its size is given this many times the input's, as in the reference.
_UNDECLARED_RATIO = 6
_DROP_INVALID = "`sn17-miner splats convert IN OUT --drop-invalid` leaves such gaussians out"


def to_bytes(splats: Splats, *, level: int = 1, workers: int = 0, lossy: bool = False) -> bytes:
    """Write the container, quantised on the device of the splats.

    level: zstd level, clamped to 1..22. workers: zstd threads; 0 compresses in this one, any other number
    gives the same bytes as 1, which differ from those of 0 above 512 KiB of raw data.
    Rotations of any length are written, but for those of length zero.
    Raises FormatError for splats that would not be read back: none, more than 10,000,000, or those with a
    `loss_reason`; with `lossy` the latter are written as the reference writes them.
    """
    if not 1 <= len(splats) <= MAX_GAUSSIANS:
        raise FormatError(f"{len(splats)} gaussians cannot be written as SPZ: readers take 1 to {MAX_GAUSSIANS}")
    if not lossy and (reason := loss_reason(splats)):
        raise FormatError(reason)
    raw = quantise(replace(splats, quaternions=rescale_extreme(splats.quaternions))).cpu().numpy()
    threads = min(max(workers, 0), 256)
    return zstandard.ZstdCompressor(level=min(max(level, 1), 22), threads=threads).compress(raw.data)


def loss_reason(splats: Splats) -> str | None:
    """Return why a container cannot hold these splats (at least one), or None; clamping is no loss."""
    fields = {name: tensor for name, tensor in splats.tensors().items() if tensor.numel()}
    # One transfer for all of them; a NaN anywhere makes both ends NaN.
    ranges = torch.stack([torch.stack(torch.aminmax(field)) for field in fields.values()]).tolist()
    by_name = dict(zip(fields, ranges, strict=True))
    reasons = []
    if poisoned := [name for name, (low, _) in by_name.items() if math.isnan(low)]:
        reasons.append(f"{', '.join(poisoned)} hold a NaN, which SPZ cannot: {_DROP_INVALID}")
    if any(math.isinf(end) for end in by_name["quaternions"]):
        reasons.append(f"quaternions hold an infinity, which is no rotation: {_DROP_INVALID}")
    if zeros := count_zero_rotations(splats):
        reasons.append(f"{zeros} of {len(splats)} quaternions are zero, which is no rotation: {_DROP_INVALID}")
    low, high = by_name["means"]
    # Half a step below 2048 rounds up to it, and 2048 wraps to -2048.
    if low < -2048.0 or high >= 2048.0 - 2.0**-13:
        reasons.append(
            f"means from {low:g} to {high:g}: SPZ wraps outside -2048 to 2047.9998; scale the object with "
            "`sn17-miner splats convert IN OUT --extent 1`, or with export.extent in the phase"
        )
    return "; ".join(reasons) or None


def from_bytes(data: bytes) -> Splats:
    """Read a container of the subnet, version 1 or 2, as the reference does, or one of nianticlabs/spz; on the CPU.

    Bytes after the last plane, flags and the reserved byte are ignored. Of harmonics above degree 3, those up to degree
    3 are taken, and `Header.warning` says so. Raises FormatError with the reason for everything that the reference
    refuses, and for more than 24 fractional bits.
    """
    header = read_header(data)
    if header.compression != "zstd":
        planes = niantic_spz.read_planes(data, header)
    else:
        raw = decompress_frame(memoryview(data)[: header.frame_bytes], header.max_raw_bytes)
        if len(raw) < header.raw_bytes:
            raise FormatError(f"SPZ too short: {len(raw)} raw bytes, its header asks for {header.raw_bytes}")
        # A bytearray because torch takes no read-only buffer without a warning.
        planes = bytearray(memoryview(raw)[HEADER.size :])
    tensor = torch.frombuffer(planes, dtype=torch.uint8)
    return dequantise(tensor, header.count, header.sh_degree, header.version, header.fractional_bits)


def read_header(data: bytes) -> Header:
    """Check the frame and the header of a container, decompressing no more than its first block.

    Raises FormatError if they contradict each other, the data or the limits, so that no memory is allocated for
    gaussians that cannot be there.
    """
    if data.startswith((niantic_spz.GZIP_MAGIC, niantic_spz.PLAIN_MAGIC)):
        return niantic_spz.read_header(data)
    if not data.startswith(_ZSTD_MAGIC) and (kind := identify(data)):
        raise FormatError(f"not an SPZ but {kind.name}: {kind.cure}")
    frame_bytes, capacity = walk_frame(data, 0)
    _refuse_trailing_data(data, frame_bytes)
    declared = zstandard.get_frame_parameters(data).content_size
    if declared != zstandard.CONTENTSIZE_UNKNOWN and declared > capacity:
        raise FormatError(f"SPZ frame declares {declared} bytes, its blocks hold at most {capacity}")
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(data) as reader:
            start = reader.read(HEADER.size)
    except zstandard.ZstdError as error:
        raise FormatError(f"SPZ with a damaged zstd frame: {error}") from error
    if declared != zstandard.CONTENTSIZE_UNKNOWN:
        header = parse_header(start, "zstd", _VERSIONS, available=declared, frame_bytes=frame_bytes)
        if declared > header.raw_bytes + MAX_TRAILING_BYTES:
            raise FormatError(f"SPZ frame declares {declared} bytes, its header asks for {header.raw_bytes} only")
        return header
    undeclared = min(capacity, _UNDECLARED_RATIO * len(data))
    header = parse_header(start, "zstd", _VERSIONS, available=undeclared, frame_bytes=frame_bytes)
    return replace(header, max_raw_bytes=min(undeclared, header.raw_bytes + MAX_TRAILING_BYTES))


def _refuse_trailing_data(data: bytes, at: int) -> None:
    # The reference decompresses everything after the first frame into a buffer of size zero, so that only skippable
    # and empty frames are accepted.
    while at < len(data):
        if int.from_bytes(data[at : at + 4], "little") & ~0xF == _SKIPPABLE_MAGIC and at + 8 <= len(data):
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            capacity = 0
        else:
            at, capacity = walk_frame(data, at)
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
    unit = F.normalize(rescale_extreme(original).double(), dim=1).float()
    same = (decoded - unit)[:, 1:].abs().amax(dim=1)
    opposite = (decoded + unit)[:, 1:].abs().amax(dim=1)
    return torch.minimum(same, opposite)
