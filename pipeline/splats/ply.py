"""Splats <-> PLY, the format of 3D gaussian splatting; values are stored as Splats holds them."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats.compressed_ply import read_compressed
from pipeline.splats.ply_header import MAX_GAUSSIANS, Header, read_header
from pipeline.splats.ply_rows import read_rows
from pipeline.splats.splats import SH_COEFFICIENTS, Splats

__all__ = ["Header", "from_bytes", "read_header", "to_bytes", "verify_round_trip"]

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_F_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_OPACITY = ("opacity",)
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATERNIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
_BLOCK_ROWS = 65536


def to_bytes(splats: Splats, *, normals: bool = True) -> bytes:
    """Write a binary little-endian PLY of float32 properties, header without comments.

    Columns: x y z, nx ny nz (zeros, unless `normals` is false), f_dc_*, f_rest_* (channel-major, when there
    are any), opacity, scale_*, rot_* (w first). Raises FormatError for 0 gaussians or more than readers take.
    """
    n = len(splats)
    if not 1 <= n <= MAX_GAUSSIANS:
        raise FormatError(f"{n} gaussians cannot be written as PLY: readers take 1 to {MAX_GAUSSIANS}")
    f_rest = splats.f_rest.flatten(1) if splats.f_rest is not None else splats.means[:, :0]
    columns: list[tuple[tuple[str, ...], Tensor | None]] = [
        (_MEANS, splats.means),
        (_NORMALS if normals else (), None),
        (_F_DC, splats.f_dc),
        (tuple(f"f_rest_{index}" for index in range(f_rest.shape[1])), f_rest),
        (_OPACITY, splats.opacity_logits[:, None]),
        (_SCALES, splats.log_scales),
        (_QUATERNIONS, splats.quaternions),
    ]
    columns = [(names, values) for names, values in columns if names]
    properties = "".join(f"property float {name}\n" for names, _ in columns for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n{properties}end_header\n"

    # The columns of an attribute are one opaque value of a row: numpy moves 12 bytes at once, not 3 floats.
    row = np.dtype([(names[0], f"V{4 * len(names)}") for names, _ in columns])
    attributes = {
        names[0]: np.ascontiguousarray(values.cpu().numpy(), "<f4").view(f"V{4 * len(names)}")[:, 0]
        for names, values in columns
        if values is not None
    }
    # The rows are written in place: fresh memory costs more than the copy, and two threads share that cost.
    file = BytesIO(bytes(len(header) + n * row.itemsize))
    with file.getbuffer() as buffer:
        buffer[: len(header)] = header.encode("ascii")
        _fill_rows(np.frombuffer(buffer, row, offset=len(header)), attributes)
    return file.getvalue()


def _fill_rows(rows: NDArray[np.void], attributes: Mapping[str, NDArray[np.void]]) -> None:
    def fill(start: int) -> None:
        for name, values in attributes.items():
            rows[name][start : start + _BLOCK_ROWS] = values[start : start + _BLOCK_ROWS]

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(fill, range(0, len(rows), _BLOCK_ROWS)):
            pass


def from_bytes(data: bytes) -> Splats:
    """Read a PLY as our writer, plyfile, the subnet's decompressor and common tools write it; on the CPU.

    The file may be binary or ascii and may hold other elements. Besides the values of a gaussian, vertices may hold
    other properties of any type, in any order. Comments and CRLF are accepted, and everything after the last vertex is
    ignored. Of harmonics above degree 3, those up to degree 3 are taken, and `Header.warning` says so. SuperSplat's
    compressed PLY is decoded. Raises FormatError with the reason for anything else.
    """
    header = read_header(data)
    if header.is_compressed:
        return read_compressed(data, header)
    vertex = header.vertex
    required = (*_MEANS, *_F_DC, *_OPACITY, *_SCALES, *_QUATERNIONS)
    if missing := [name for name in required if not vertex.has_scalar(name)]:
        no_splats = ": it is a point cloud or a mesh without gaussians" if len(missing) > len(required) // 2 else ""
        raise FormatError(f"PLY without the vertex properties {', '.join(missing)}{no_splats}")
    in_file = vertex.count_f_rest() // 3
    coefficients = min(in_file, SH_COEFFICIENTS[-1])
    rows = read_rows(data, header, vertex.name)[vertex.name]

    def field(*names: str) -> Tensor:
        values = np.empty((vertex.count, len(names)), np.float32)
        # A double may be larger than any float32; infinity is then the nearest value.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(names):
                values[:, index] = rows[name]
        return torch.from_numpy(values)

    # Channel-major, so that the degree in the file decides where the next channel begins.
    f_rest = [f"f_rest_{channel * in_file + index}" for channel in range(3) for index in range(coefficients)]
    return Splats(
        means=field(*_MEANS),
        quaternions=field(*_QUATERNIONS),
        log_scales=field(*_SCALES),
        opacity_logits=field(*_OPACITY)[:, 0],
        f_dc=field(*_F_DC),
        f_rest=field(*f_rest).view(vertex.count, 3, coefficients) if coefficients else None,
    )


def verify_round_trip(splats: Splats, data: bytes) -> Splats:
    """Decode `data` and check that it holds exactly `splats`.

    Returns the splats that a reader of `data` gets, on the CPU. Raises FormatError naming the attribute that differs;
    an attribute that holds a NaN does.
    """
    decoded = from_bytes(data)
    for name in ("means", "quaternions", "log_scales", "opacity_logits", "f_dc"):
        if not torch.equal(getattr(decoded, name), getattr(splats, name).cpu()):
            raise FormatError(f"PLY changed the {name}")
    return decoded
