"""The compressed PLY of SuperSplat: gaussians packed into four integers, within the ranges of chunks of 256.

Source: playcanvas/splat-transform, `decompress-ply.ts`.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import FormatError
from pipeline.splats.ply_header import Header
from pipeline.splats.ply_rows import read_rows
from pipeline.splats.splats import SH_COEFFICIENTS, Splats

CHUNK_ROWS = 256
_SH_C0 = 0.28209479177387814
_RANGES = tuple(f"{end}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z") for end in ("min", "max"))
# Harmonics are bytes for values from -4 to 4.
_SH_RANGE = 8.0

Table = NDArray[np.void]
Column = NDArray[np.float64]


def read_compressed(data: bytes, header: Header) -> Splats:
    """Decode the gaussians of a file whose header `is_compressed`; on the CPU. Raises FormatError."""
    elements = {element.name: element for element in header.elements}
    count, rows = header.vertex.count, elements["chunk"].count if "chunk" in elements else 0
    if rows != math.ceil(count / CHUNK_ROWS):
        raise FormatError(f"compressed PLY with {rows} chunks: {count} gaussians need {math.ceil(count / CHUNK_ROWS)}")
    if missing := [name for name in _RANGES if not elements["chunk"].has_scalar(name)]:
        raise FormatError(f"compressed PLY without the chunk properties {', '.join(missing)}")
    coefficients = 0
    if "sh" in elements:
        coefficients = elements["sh"].count_f_rest() // 3
        are_bytes = all(kind in (("uchar",), ("uint8",)) for kind in elements["sh"].properties.values())
        if coefficients not in SH_COEFFICIENTS[1:] or elements["sh"].count != count or not are_bytes:
            raise FormatError(
                f"compressed PLY with {elements['sh'].count} rows of {3 * coefficients} harmonics: expected {count} "
                "rows of 9, 24 or 45, as bytes"
            )
    tables = read_rows(data, header, "vertex", "chunk", *(["sh"] if coefficients else []))
    # Ranges may be infinite or NaN, and the logits of 0 and 1 are infinite.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return _decode(tables["vertex"], tables["chunk"], tables.get("sh"), coefficients)


def _decode(vertex: Table, chunks: Table, harmonics: Table | None, coefficients: int) -> Splats:
    *colours, alpha = _unpack(vertex["packed_color"], 8, 8, 8, 8)
    positions, scales = (_unpack(vertex[f"packed_{name}"], 11, 10, 11) for name in ("position", "scale"))
    return Splats(
        means=_tensor([_place(chunks, name, values) for name, values in zip("xyz", positions, strict=True)]),
        quaternions=_unpack_rotations(vertex["packed_rotation"]),
        log_scales=_tensor([_place(chunks, f"scale_{name}", v) for name, v in zip("xyz", scales, strict=True)]),
        opacity_logits=_tensor([-np.log(1 / alpha - 1)])[:, 0],
        f_dc=_tensor([(_place(chunks, name, v) - 0.5) / _SH_C0 for name, v in zip("rgb", colours, strict=True)]),
        f_rest=None if harmonics is None else _unpack_harmonics(harmonics, coefficients),
    )


def _unpack(packed: NDArray[Any], *bits: int) -> list[Column]:
    """Split 32-bit integers into fields of so many bits from the highest to the lowest, each as a fraction 0 to 1."""
    words = packed.astype(np.uint32)
    shifts = [sum(bits[index + 1 :]) for index in range(len(bits))]
    return [
        ((words >> np.uint32(shift)) & np.uint32((1 << width) - 1)) / ((1 << width) - 1)
        for shift, width in zip(shifts, bits, strict=True)
    ]


def _place(chunks: Table, name: str, fractions: Column) -> Column:
    """Return the values of these fractions within the range that each chunk has; 0 to 1 if it has none."""
    if f"min_{name}" not in (chunks.dtype.names or ()) or f"max_{name}" not in (chunks.dtype.names or ()):
        return fractions
    low, high = (np.repeat(chunks[f"{end}_{name}"].astype(np.float64), CHUNK_ROWS) for end in ("min", "max"))
    return low[: len(fractions)] * (1 - fractions) + high[: len(fractions)] * fractions


def _unpack_rotations(packed: NDArray[Any]) -> Tensor:
    """Return quaternions of which the largest component, whose index is in the highest bits, was left out."""
    largest = (packed.astype(np.uint32) >> np.uint32(30)).astype(np.intp)
    _, *fractions = _unpack(packed, 2, 10, 10, 10)
    stored = np.stack([(fraction - 0.5) * math.sqrt(2) for fraction in fractions], axis=1)
    left_out = np.sqrt(np.maximum(0.0, 1 - (stored**2).sum(axis=1)))
    rows = np.arange(len(stored))
    quaternions = np.empty((len(stored), 4))
    quaternions[rows, largest] = left_out
    for index in range(3):
        quaternions[rows, index + (index >= largest)] = stored[:, index]
    return torch.from_numpy(quaternions.astype(np.float32))


def _unpack_harmonics(table: Table, coefficients: int) -> Tensor:
    columns = []
    for index in range(3 * coefficients):
        levels = table[f"f_rest_{index}"].astype(np.float64)
        # The middle of each level's interval, but for the first and the last.
        fractions = np.where(levels == 0, 0.0, np.where(levels == 255, 1.0, (levels + 0.5) / 256))
        columns.append((fractions - 0.5) * _SH_RANGE)
    return _tensor(columns).view(len(table), 3, coefficients)


def _tensor(columns: list[Column]) -> Tensor:
    result = np.empty((len(columns[0]), len(columns)), np.float32)
    for index, column in enumerate(columns):
        result[:, index] = column
    return torch.from_numpy(result)
