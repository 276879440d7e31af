"""The header of an SPZ and its limits, the same in all containers."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import FormatError
from pipeline.splats.splats import SH_COEFFICIENTS
from pipeline.splats.spz_quantisation import HEADER, MAGIC, raw_size

MAX_GAUSSIANS = 10_000_000
"""Limit of the reference reader; the reference writer takes up to 10,485,760."""
MAX_FRACTIONAL_BITS = 24
MAX_TRAILING_BYTES = 32 << 20
"""Raw bytes after the last plane that are ignored; more of them are an error."""
MAX_DEGREE = len(SH_COEFFICIENTS) - 1
NIANTIC_MAX_DEGREE = 4
_ANTIALIASED, _HAS_EXTENSIONS = 1, 2

# One zstd frame is the subnet's; gzip, plain planes and one zstd frame a plane are those of nianticlabs/spz.
Compression = Literal["zstd", "gzip", "none", "zstd streams"]


@dataclass(frozen=True)
class Header:
    """The header of a container, and the sizes of its frame."""

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    flags: int
    raw_bytes: int
    """Size of header and planes."""
    max_raw_bytes: int
    """Largest size that the frame may decompress to."""
    frame_bytes: int
    """Compressed size of the data."""
    compression: Compression

    @property
    def antialiased(self) -> bool:
        """Whether the splats were trained with antialiasing."""
        return bool(self.flags & _ANTIALIASED)

    @property
    def warning(self) -> str:
        """What of the file is not read, "" if everything that splats have is."""
        notes = []
        if self.sh_degree > MAX_DEGREE:
            notes.append(f"spherical harmonics of degree {self.sh_degree} are read up to degree {MAX_DEGREE} only")
        if self.compression != "zstd" and self.flags & _HAS_EXTENSIONS:
            notes.append("its extensions, which may tell another coordinate system, are not read")
        return "; ".join(notes)


def parse_header(
    start: bytes, compression: Compression, versions: tuple[int, ...], *, available: int, frame_bytes: int
) -> Header:
    """Parse the first 16 raw bytes of a container of one of the versions, whose raw data is `available` bytes at most.

    Raises FormatError for what is not an SPZ, or beyond a limit.
    """
    if len(start) < HEADER.size:
        raise FormatError(f"SPZ too short: {len(start)} raw bytes, its header alone has {HEADER.size}")
    magic, version, count, degree, fractional_bits, flags, _ = HEADER.unpack(start[: HEADER.size])
    if magic != MAGIC:
        raise FormatError(f"not an SPZ: magic {magic:#010x} instead of {MAGIC:#010x}")
    if version not in versions:
        raise FormatError(f"SPZ of version {version}: expected {' or '.join(map(str, versions))}")
    if not 1 <= count <= MAX_GAUSSIANS:
        raise FormatError(f"SPZ of {count} gaussians: expected 1 to {MAX_GAUSSIANS}")
    max_degree = MAX_DEGREE if compression == "zstd" else NIANTIC_MAX_DEGREE
    if degree > max_degree:
        raise FormatError(f"SPZ of spherical-harmonic degree {degree}: expected 0 to {max_degree}")
    if fractional_bits > MAX_FRACTIONAL_BITS:
        raise FormatError(f"SPZ with {fractional_bits} fractional bits: expected up to {MAX_FRACTIONAL_BITS}")
    required = raw_size(count, degree, version)
    if required > available:
        raise FormatError(f"SPZ too short: at most {available} raw bytes, its header asks for {required}")
    return Header(version, count, degree, fractional_bits, flags, required, available, frame_bytes, compression)
