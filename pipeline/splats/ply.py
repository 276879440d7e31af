"""Splats <-> PLY, the format of 3D gaussian splatting; values are stored as Splats holds them."""

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyParseError
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats.splats import SH_COEFFICIENTS, Splats

MAX_HEADER_BYTES = 1 << 20
MAX_GAUSSIANS = 10 * 1024 * 1024
"""Limit of the reference parser of the subnet."""
MAX_LIST_ROWS = 1 << 20
"""Limit of rows with lists, each of which takes a hundred bytes of memory for one in the file."""

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_F_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_OPACITY = ("opacity",)
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATERNIONS = ("rot_0", "rot_1", "rot_2", "rot_3")
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_LITTLE_ENDIAN = "binary_little_endian"
_FORMATS = ("ascii", _LITTLE_ENDIAN, "binary_big_endian")
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

    The file may be binary or ascii and may hold other elements. Besides the values of a gaussian, vertices may hold
    other properties of any type, in any order. Comments and CRLF are accepted, and everything after the last vertex is
    ignored. As in the reference parser, f_rest_* counts from 0 to the first gap and at most to 44. Raises FormatError
    with the reason for anything else.
    """
    header = read_header(data)
    vertex = header.vertex
    required = (*_MEANS, *_F_DC, *_OPACITY, *_SCALES, *_QUATERNIONS)
    if missing := [name for name in required if not vertex.has_scalar(name)]:
        raise FormatError(f"PLY without the vertex properties {', '.join(missing)}")
    rest = 0
    while rest < 3 * SH_COEFFICIENTS[-1] and vertex.has_scalar(f"f_rest_{rest}"):
        rest += 1
    if rest % 3 or rest // 3 not in SH_COEFFICIENTS:
        raise FormatError(f"PLY with {rest} consecutive f_rest properties: expected 0, 9, 24 or 45")

    _check_size(header, len(data))
    if header.is_fixed_layout:
        row = np.dtype([(name, f"<{_TYPES[kind]}") for name, (kind,) in vertex.properties.items()])
        rows = np.frombuffer(data, row, vertex.count, header.body)
    else:
        rows = _parse_rows(data, header)

    def field(*names: str) -> Tensor:
        values = np.empty((vertex.count, len(names)), np.float32)
        # A double may be larger than any float32; infinity is then the nearest value.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, name in enumerate(names):
                values[:, index] = rows[name]
        return torch.from_numpy(values)

    f_rest = field(*(f"f_rest_{i}" for i in range(rest)))
    return Splats(
        means=field(*_MEANS),
        quaternions=field(*_QUATERNIONS),
        log_scales=field(*_SCALES),
        opacity_logits=field(*_OPACITY)[:, 0],
        f_dc=field(*_F_DC),
        f_rest=f_rest.view(vertex.count, 3, rest // 3) if rest else None,
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


@dataclass(frozen=True)
class Element:
    """An element of a PLY: its name, its number of rows, and the declared types of its properties in file order.

    A type is a scalar's, such as ("float",), or a list's, ("list", type of its length, type of its items).
    """

    name: str
    count: int
    properties: dict[str, tuple[str, ...]]

    @property
    def has_lists(self) -> bool:
        """Whether any property is a list."""
        return any(len(kind) > 1 for kind in self.properties.values())

    def has_scalar(self, name: str) -> bool:
        """Return whether there is a property of that name that is not a list."""
        return len(self.properties.get(name, ())) == 1


@dataclass(frozen=True)
class Header:
    """The header of a PLY up to its vertices, and the offset of the byte after it."""

    format: str
    before: tuple[Element, ...]
    """The elements ahead of the vertices that have rows."""
    vertex: Element
    body: int

    @property
    def is_fixed_layout(self) -> bool:
        """Whether the vertices are rows of little-endian scalars right behind the header, as in the subnet's files."""
        return self.format == _LITTLE_ENDIAN and not self.before and not self.vertex.has_lists


def read_header(data: bytes) -> Header:
    """Parse the header; raise FormatError with the reason unless it is that of a point cloud."""
    end = re.compile(rb"\nend_header[ \t]*\r?\n").search(data, 0, MAX_HEADER_BYTES)
    if not data.startswith((b"ply\n", b"ply\r\n")) or end is None:
        raise FormatError("not a PLY: expected 'ply' as first line and 'end_header' within the first MiB")
    form = None
    elements: dict[str, Element] = {}
    for line in data[: end.start()].decode("latin-1").split("\n")[1:]:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _FORMATS:
                form = name
            case ["element", name, number, *_] if name not in elements:
                elements[name] = Element(name, _parse_count(number), {})
            case ["property", *kind, name] if elements and _is_type(kind):
                properties = list(elements.values())[-1].properties
                if name in properties:
                    raise FormatError(f"PLY with the property {name[:80]!r} twice")
                properties[name] = tuple(kind)
            case _:
                raise FormatError(f"PLY header line not understood: {line[:80]!r}")
    if form is None:
        raise FormatError("PLY without a format line")
    if "vertex" not in elements:
        raise FormatError("PLY without a vertex element")
    vertex = elements["vertex"]
    if not 1 <= vertex.count <= MAX_GAUSSIANS:
        raise FormatError(f"PLY with {vertex.count} vertices: expected 1 to {MAX_GAUSSIANS}")
    before = list(elements.values())[: list(elements).index("vertex")]
    if negative := [element for element in before if element.count < 0]:
        raise FormatError(f"PLY with {negative[0].count} rows of the element {negative[0].name[:80]!r}")
    return Header(form, tuple(element for element in before if element.count), vertex, end.end())


def _parse_count(text: str) -> int:
    # The reference reads the count as C's strtol does: a sign is fine, anything after the digits is ignored.
    match = re.match(r"[+-]?[0-9]{1,20}", text, re.ASCII)
    if match is None:
        raise FormatError(f"PLY with the element count {text[:40]!r}, which is not a number")
    return int(match.group())


def _is_type(words: list[str]) -> bool:
    match words:
        case [scalar] | ["list", _, scalar] if scalar in _TYPES:
            return len(words) == 1 or words[1] in _TYPES
    return False


def _check_size(header: Header, size: int) -> None:
    """Raise FormatError if the rows cannot be in a file of so many bytes, before memory is allocated for them."""
    end = header.body
    for element in (*header.before, header.vertex):
        if element.has_lists and element.count > MAX_LIST_ROWS:
            raise FormatError(f"PLY with {element.count} rows of lists: expected up to {MAX_LIST_ROWS}")
        # A list takes its length at least; a value in text takes a digit and a separator.
        types = [kind[1] if len(kind) > 1 else kind[0] for kind in element.properties.values()]
        width = sum(2 if header.format == "ascii" else np.dtype(_TYPES[kind]).itemsize for kind in types)
        end += element.count * max(width, 1)
    if header.format == "ascii":
        end -= 1
    if end > size:
        raise FormatError(f"PLY too short: {header.vertex.count} vertices cannot end before byte {end} of {size}")


def _parse_rows(data: bytes, header: Header) -> NDArray[np.void]:
    """Return the vertices of a file with any other layout, read by plyfile. Raises FormatError."""
    lines = ["ply", f"format {header.format} 1.0"]
    for element in (*header.before, header.vertex):
        lines.append(f"element {element.name} {element.count}")
        lines += [f"property {' '.join(kind)} {name}" for name, kind in element.properties.items()]
    start = "\n".join([*lines, "end_header\n"])
    try:
        # plyfile warns of lists without items, numpy of text beyond the range of a type.
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore")
            if header.format == "ascii":
                rows = header.vertex.count + sum(element.count for element in header.before)
                content = PlyData.read(StringIO(start + "".join(_ascii_lines(data, header.body, rows))))
            else:
                # From a file and not from memory, because plyfile maps files and reads anything else value by value.
                with tempfile.TemporaryFile() as file:
                    file.write(start.encode("ascii"))
                    file.write(memoryview(data)[header.body :])
                    file.seek(0)
                    content = PlyData.read(file)
            return cast(NDArray[np.void], content["vertex"].data)
    except (PlyParseError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise FormatError(f"PLY that plyfile cannot read: {error}") from error


def _ascii_lines(data: bytes, offset: int, count: int) -> Iterator[str]:
    """Yield the first `count` lines that are not blank. Raises FormatError if there are fewer."""
    stream = BytesIO(data)
    stream.seek(offset)
    taken = 0
    while taken < count:
        line = stream.readline(_MAX_ASCII_LINE)
        if not line or len(line) == _MAX_ASCII_LINE:
            raise FormatError(f"PLY with {taken} readable lines: expected {count}")
        if line.strip():
            taken += 1
            yield line.decode("ascii")
