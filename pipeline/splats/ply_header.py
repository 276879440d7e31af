"""The header of a PLY: what the file holds, checked before anything is read or allocated for it."""

import math
import re
from dataclasses import dataclass

import numpy as np

from pipeline.errors import FormatError
from pipeline.signatures import identify
from pipeline.splats.splats import SH_COEFFICIENTS

MAX_HEADER_BYTES = 1 << 20
MAX_GAUSSIANS = 10 * 1024 * 1024
"""Limit of the reference parser of the subnet."""
MAX_LIST_ROWS = 1 << 20
"""Limit of rows with lists, which are read one by one."""

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
"""The types of values by their names in a header, as numpy calls them, without the byte order."""
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_FORMATS = ("ascii", *BYTE_ORDERS)
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


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

    def count_f_rest(self) -> int:
        """Return how many properties f_rest_0, f_rest_1, ... hold harmonics: those of a whole degree, or none.

        Raises FormatError if they are those of no degree, since their order depends on it.
        """
        count = sum(self.has_scalar(name) for name in self.properties if re.fullmatch("f_rest_[0-9]+", name))
        consecutive = 0
        while self.has_scalar(f"f_rest_{consecutive}"):
            consecutive += 1
        side = math.isqrt(consecutive // 3 + 1)
        if consecutive and (consecutive != count or consecutive != 3 * (side * side - 1)):
            others = f" and {count - consecutive} others" if count > consecutive else ""
            raise FormatError(
                f"PLY with {consecutive} consecutive f_rest properties{others}: expected 0, 9, 24 or 45, or those of a "
                "higher degree"
            )
        return consecutive


@dataclass(frozen=True)
class Header:
    """The header of a PLY, and the offset of the byte after it."""

    format: str
    elements: tuple[Element, ...]
    """All elements that have rows, in file order."""
    vertex: Element
    body: int

    @property
    def is_compressed(self) -> bool:
        """Whether the vertices are packed into integers, as SuperSplat's compressed PLY has them."""
        types = [self.vertex.properties.get(name) for name in _PACKED]
        return all(kind is not None and len(kind) == 1 and TYPES[kind[0]] in ("u4", "i4") for kind in types)

    @property
    def warning(self) -> str:
        """What of the file is not read, "" if everything that splats have is."""
        count = self.vertex.count_f_rest()
        if count > 3 * SH_COEFFICIENTS[-1]:
            return f"spherical harmonics of degree {math.isqrt(count // 3)} are read up to degree 3 only"
        if not count and any(re.fullmatch("f_rest_[0-9]+", name) for name in self.vertex.properties):
            return "there is no f_rest_0, so that the other f_rest properties are not read"
        return ""

    def up_to(self, *names: str) -> tuple[Element, ...]:
        """Return the elements up to the last one of these names, which is what has to be read to get at them."""
        last = max(index for index, element in enumerate(self.elements) if element.name in names)
        return self.elements[: last + 1]

    def check_size(self, elements: tuple[Element, ...], size: int) -> None:
        """Raise FormatError if the rows of these elements, the first ones, cannot be in a file of so many bytes."""
        end = self.body
        for element in elements:
            if element.has_lists and element.count > MAX_LIST_ROWS:
                raise FormatError(f"PLY with {element.count} rows of lists: expected up to {MAX_LIST_ROWS}")
            # A list takes its length at least; a value in text takes a digit and a separator.
            types = [kind[1] if len(kind) > 1 else kind[0] for kind in element.properties.values()]
            width = sum(2 if self.format == "ascii" else np.dtype(TYPES[kind]).itemsize for kind in types)
            end += element.count * max(width, 1)
        if self.format == "ascii":
            end -= 1
        if end > size:
            raise FormatError(f"PLY too short: {self.vertex.count} vertices cannot end before byte {end} of {size}")


def read_header(data: bytes) -> Header:
    """Parse the header; raise FormatError with the reason unless it is that of a point cloud."""
    end = re.compile(rb"\nend_header[ \t]*\r?\n").search(data, 0, MAX_HEADER_BYTES)
    if not data.startswith((b"ply\n", b"ply\r\n")) or end is None:
        raise FormatError(_explain_not_ply(data))
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
    if negative := [element for element in elements.values() if element.count < 0]:
        raise FormatError(f"PLY with {negative[0].count} rows of the element {negative[0].name[:80]!r}")
    return Header(form, tuple(element for element in elements.values() if element.count), vertex, end.end())


def _explain_not_ply(data: bytes) -> str:
    if re.match(rb"ply\r[^\n]", data):
        return "not a PLY that can be read: its lines end in CR alone; save it with LF as line ends"
    kind = identify(data)
    if kind is None or data.startswith((b"ply\n", b"ply\r")):
        return "not a PLY: expected 'ply' as first line and 'end_header' within the first MiB"
    return f"not a PLY but {kind.name}: {kind.cure}"


def _parse_count(text: str) -> int:
    # The reference reads the count as C's strtol does: a sign is fine, anything after the digits is ignored.
    match = re.match(r"[+-]?[0-9]{1,20}", text, re.ASCII)
    if match is None:
        raise FormatError(f"PLY with the element count {text[:40]!r}, which is not a number")
    return int(match.group())


def _is_type(words: list[str]) -> bool:
    match words:
        case [scalar] | ["list", _, scalar] if scalar in TYPES:
            return len(words) == 1 or TYPES.get(words[1], "f")[0] in "iu"
    return False
