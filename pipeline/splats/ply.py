"""Splats <-> PLY, the format of 3D gaussian splatting; values are stored as Splats holds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats.splats import SH_COEFFICIENTS, Splats

MAX_HEADER_BYTES = 1 << 20
MAX_GAUSSIANS = 10 * 1024 * 1024
"""Limit of the reference parser of the subnet."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_F_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_OPACITY = ("opacity",)
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATERNIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
_LIST = "list"
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "list": _LIST, "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_BYTE_ORDERS = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_ASCII_LINE = 1 << 20
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

    The vertices may hold further scalar properties, of any type and in any order; comments, CRLF, ascii and
    big endian are read; what follows the last vertex is ignored. As in the reference parser, f_rest_* counts
    from 0 to the first gap and at most to 44. Raises FormatError with the reason for anything else.
    """
    header = read_header(data)
    required = (*_MEANS, *_F_DC, *_OPACITY, *_SCALES, *_QUATERNIONS)
    if missing := [name for name in required if name not in header.properties]:
        raise FormatError(f"PLY without the vertex properties {', '.join(missing)}")
    rest = 0
    while rest < 3 * SH_COEFFICIENTS[-1] and f"f_rest_{rest}" in header.properties:
        rest += 1
    if rest % 3 or rest // 3 not in SH_COEFFICIENTS:
        raise FormatError(f"PLY with {rest} consecutive f_rest properties: expected 0, 9, 24 or 45")

    columns = _ascii_columns(data, header) if header.byte_order == "ascii" else _binary_columns(data, header)

    def field(*names: str) -> Tensor:
        values = np.empty((header.count, len(names)), np.float32)
        # A double may be larger than any float32; infinity is then the nearest value.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(names):
                values[:, index] = columns[name]
        return torch.from_numpy(values)

    f_rest = field(*(f"f_rest_{i}" for i in range(rest)))
    return Splats(
        means=field(*_MEANS),
        quaternions=field(*_QUATERNIONS),
        log_scales=field(*_SCALES),
        opacity_logits=field(*_OPACITY)[:, 0],
        f_dc=field(*_F_DC),
        f_rest=f_rest.view(header.count, 3, rest // 3) if rest else None,
    )


def verify_round_trip(splats: Splats, data: bytes) -> Splats:
    """Decode `data` and check that it holds exactly `splats`.

    Returns what the reader of `data` sees, on the CPU; raises FormatError naming the attribute that differs, as
    one that holds a NaN does.
    """
    decoded = from_bytes(data)
    for name in ("means", "quaternions", "log_scales", "opacity_logits", "f_dc"):
        if not torch.equal(getattr(decoded, name), getattr(splats, name).cpu()):
            raise FormatError(f"PLY changed the {name}")
    return decoded


@dataclass(frozen=True)
class Header:
    """What a PLY says about itself, and where its vertices are."""

    byte_order: str
    """numpy's "<" or ">", or "ascii"."""
    count: int
    properties: dict[str, str]
    """Of the vertices: name -> numpy type without byte order, in file order."""
    body: int
    """Offset of the byte after the header."""
    before: list[tuple[int, dict[str, str]]]
    """Count and properties of the elements ahead of the vertices."""


def read_header(data: bytes) -> Header:
    """Parse the header; raises FormatError with the reason when it is none, or not that of a point cloud."""
    end = re.compile(rb"\nend_header[ \t]*\r?\n").search(data, 0, MAX_HEADER_BYTES)
    if not data.startswith((b"ply\n", b"ply\r\n")) or end is None:
        raise FormatError("not a PLY: expected 'ply' as first line and 'end_header' within the first MiB")
    byte_order = None
    elements: dict[str, tuple[int, dict[str, str]]] = {}
    properties: dict[str, str] | None = None
    for line in data[: end.start()].decode("latin-1").split("\n")[1:]:
        match line.split(maxsplit=2):
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, version] if name in _BYTE_ORDERS and version.strip() == "1.0":
                byte_order = _BYTE_ORDERS[name]
            case ["element", name, number] if name not in elements:
                properties = {}
                elements[name] = (_parse_count(number), properties)
            case ["property", kind, name] if properties is not None and kind in _TYPES:
                if name.strip() in properties:
                    raise FormatError(f"PLY with the property {name.strip()[:80]!r} twice")
                properties[name.strip()] = _TYPES[kind]
            case _:
                raise FormatError(f"PLY header line not understood: {line[:80]!r}")
    if byte_order is None:
        raise FormatError("PLY without a format line")
    if "vertex" not in elements:
        raise FormatError("PLY without a vertex element")
    count, vertex = elements["vertex"]
    if not 1 <= count <= MAX_GAUSSIANS:
        raise FormatError(f"PLY with {count} vertices: expected 1 to {MAX_GAUSSIANS}")
    if _LIST in vertex.values():
        raise FormatError("PLY with a list property in its vertices")
    before = list(elements.values())[: list(elements).index("vertex")]
    return Header(byte_order, count, vertex, end.end(), before)


def _parse_count(text: str) -> int:
    # The reference reads the count as C's strtol does: a sign is fine, anything after the digits is ignored.
    match = re.match(r"[+-]?[0-9]{1,20}", text, re.ASCII)
    if match is None:
        raise FormatError(f"PLY with the element count {text[:40]!r}, which is not a number")
    return int(match.group())


def _binary_columns(data: bytes, header: Header) -> Mapping[str, NDArray[np.generic]]:
    """Strided views of the properties in `data`; nothing is copied."""
    offset = header.body
    for count, properties in header.before:
        if _LIST in properties.values() or count < 0:
            raise FormatError("PLY with an element of unknown size ahead of its vertices")
        offset += count * sum(np.dtype(kind).itemsize for kind in properties.values())
    types = {name: np.dtype(header.byte_order + kind) for name, kind in header.properties.items()}
    stride = sum(kind.itemsize for kind in types.values())
    if offset + header.count * stride > len(data):
        raise FormatError(
            f"PLY too short: {header.count} vertices of {stride} bytes end at byte "
            f"{offset + header.count * stride} of {len(data)}"
        )
    columns = {}
    for name, kind in types.items():
        columns[name] = np.ndarray((header.count,), kind, data, offset, (stride,))
        offset += kind.itemsize
    return columns


def _ascii_columns(data: bytes, header: Header) -> Mapping[str, NDArray[np.generic]]:
    width = len(header.properties)
    # A value takes a digit and a separator at least; checked before anything of that size is allocated.
    if header.count * 2 * width > len(data) - header.body + 1:
        raise FormatError(f"PLY too short for {header.count} vertices of {width} values")
    skipped = sum(max(count, 0) for count, _ in header.before)
    try:
        table = np.loadtxt(_ascii_lines(data, header.body, skipped, header.count), np.float32, comments=None, ndmin=2)
    except ValueError as error:
        raise FormatError(f"PLY with text that is not a table of numbers: {error}") from error
    if table.shape != (header.count, width):
        raise FormatError(f"PLY with {table.shape[1]} values in a line: expected {width}")
    return {name: table[:, index] for index, name in enumerate(header.properties)}


def _ascii_lines(data: bytes, offset: int, skipped: int, count: int) -> Iterator[str]:
    stream = BytesIO(data)
    stream.seek(offset)
    taken = 0
    while taken < skipped + count:
        line = stream.readline(_MAX_ASCII_LINE)
        if not line or len(line) == _MAX_ASCII_LINE:
            raise FormatError(f"PLY with {taken} readable lines: expected {skipped + count}")
        if line.strip():
            taken += 1
            if taken > skipped:
                yield line.decode("ascii")
