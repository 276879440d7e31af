"""The rows of a PLY's elements as numpy tables; lists are skipped."""

import struct
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FormatError
from pipeline.splats.ply_header import BYTE_ORDERS, TYPES, Element, Header
from pipeline.splats.ply_text import read_text

_BLOCK_ROWS = 65536
_STRUCT_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}


def read_rows(data: bytes, header: Header, *names: str) -> dict[str, NDArray[np.void]]:
    """Return the rows of the named elements, with a field for each property that is not a list.

    Raises FormatError if the file is too short or malformed. What follows the last of these elements is ignored.
    """
    elements = header.up_to(*names)
    header.check_size(elements, len(data))
    if header.format == "ascii":
        return {name: rows for name, rows in read_text(data, header.body, elements) if name in names}
    order = BYTE_ORDERS[header.format]
    tables = {}
    offset = header.body
    for element in elements:
        if element.has_lists:
            rows, offset = _read_lists(data, element, order, offset, is_wanted=element.name in names)
        else:
            row = np.dtype([(name, order + TYPES[kind]) for name, (kind,) in element.properties.items()])
            if row.itemsize == 0:
                continue
            if offset + row.itemsize * element.count > len(data):
                raise _too_short(element, (len(data) - offset) // row.itemsize)
            rows = np.frombuffer(data, row, element.count, offset)
            offset += row.itemsize * element.count
        if element.name in names:
            tables[element.name] = rows
    return tables


def _read_lists(
    data: bytes, element: Element, order: str, offset: int, *, is_wanted: bool
) -> tuple[NDArray[np.void], int]:
    """Return the rows of an element with lists, none unless they are wanted, and the offset of the byte after them."""
    properties = element.properties.items()
    runs = [(is_list, list(run)) for is_list, run in groupby(properties, lambda item: len(item[1]) > 1)]
    scalars = [np.dtype([(name, order + TYPES[kind[0]]) for name, kind in run]) for is_list, run in runs if not is_list]
    starts = np.empty((len(scalars), element.count if is_wanted else 0), np.int64)
    # What a row consists of: a run of scalars of so many bytes, or a list with its length's reader and its items' size.
    steps: list[tuple[struct.Struct | None, int]] = []
    for is_list, run in runs:
        if is_list:
            for _, (_, length, item) in run:
                length_format = struct.Struct(order + _STRUCT_CODES[TYPES[length]])
                steps.append((length_format, np.dtype(TYPES[item]).itemsize))
        else:
            steps.append((None, sum(np.dtype(TYPES[kind[0]]).itemsize for _, kind in run)))
    size = len(data)
    for row in range(element.count):
        part = 0
        for reader, width in steps:
            if reader is None:
                if is_wanted:
                    starts[part, row] = offset
                part += 1
                offset += width
                continue
            if offset + reader.size > size:
                raise _too_short(element, row)
            (length,) = reader.unpack_from(data, offset)
            if length < 0:
                raise _too_short(element, row, f"a list of {length} items, or ")
            offset += reader.size + length * width
        if offset > size:
            raise _too_short(element, row)
    table = np.empty(starts.shape[1], [(name, dtype[name]) for dtype in scalars for name in dtype.names or ()])
    content = np.frombuffer(data, np.uint8)
    for dtype, at in zip(scalars, starts, strict=True):
        for first in range(0, len(at), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            values = content[at[block, None] + np.arange(dtype.itemsize)].view(dtype)[:, 0]
            for name in dtype.names or ():
                table[name][block] = values[name]
    return table, offset


def _too_short(element: Element, row: int, also: str = "") -> FormatError:
    return FormatError(f"PLY too short: {also}early end-of-file in row {row} of the element {element.name[:80]!r}")
