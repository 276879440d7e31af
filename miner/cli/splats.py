"""Describe a file of gaussian splats: python scripts/splat_info.py FILE

Prints the header, the statistics of the cloud and whether the validator would score it, with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import ply, spz
from pipeline.errors import FormatError
from pipeline.splats.splats import SH_COEFFICIENTS, Splats
from pipeline.splats.statistics import compute_statistics
from pipeline.splats.validation import invalid_reason


def main() -> int:
    """Run the command line; returns 2 after one line on stderr when the file cannot be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path, help="a .ply or .spz file")
    path = parser.parse_args().file
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".ply":
            splats, header = ply.from_bytes(data), describe_ply(data)
        elif path.suffix.lower() == ".spz":
            splats, header = spz.from_bytes(data), describe_spz(data)
        else:
            parser.error(f"{path}: expected a name that ends in .ply or .spz")
    except FormatError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    reason = invalid_reason(splats)
    rows = [
        ("file", f"{path}, {len(data)} bytes"),
        *header,
        *describe(splats),
        ("validator", "accepted" if reason is None else f"refused: {reason}"),
    ]
    for name, value in rows:
        print(f"{name:<12} {value}")
    return 0


def describe_ply(data: bytes) -> list[tuple[str, str]]:
    header = ply.read_header(data)
    form = {"<": "binary, little endian", ">": "binary, big endian"}.get(header.byte_order, "ascii")
    return [("format", f"PLY, {form}"), ("properties", " ".join(header.properties))]


def describe_spz(data: bytes) -> list[tuple[str, str]]:
    header = spz.read_header(data)
    flags = ", antialiased" if header.antialiased else ""
    return [
        ("format", f"SPZ version {header.version}, {header.fractional_bits} fractional bits{flags}"),
        ("raw size", f"{header.raw_bytes} bytes, compressed to {header.frame_bytes}"),
    ]


def describe(splats: Splats) -> list[tuple[str, str]]:
    numbers = compute_statistics(splats)
    low, high = ([f"{value:.4f}" for value in corner] for corner in (numbers.box_min, numbers.box_max))
    return [
        ("gaussians", str(numbers.count)),
        ("harmonics", f"degree {splats.sh_degree}, {SH_COEFFICIENTS[splats.sh_degree]} coefficients a channel"),
        ("opacity", f"{numbers.opacity_min:.4f} to {numbers.opacity_max:.4f}, mean {numbers.opacity_mean:.4f}"),
        ("transparent", f"{100 * numbers.transparent_share:.2f} % below 0.001"),
        ("box", f"({', '.join(low)}) to ({', '.join(high)}), volume {numbers.volume:.6g}"),
        ("density", f"{numbers.density_mean:.2f} per occupied voxel of 64^3, at most {numbers.density_max}"),
        ("scale", f"5 % {numbers.scale_p5:.3g}, median {numbers.scale_p50:.3g}, 95 % {numbers.scale_p95:.3g}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
