"""Files of splats in layouts that this package reads and does not write."""

import gzip
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import zstandard

from pipeline import Splats
from pipeline.splats.spz_quantisation import quantise

NAMES = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip


def columns(splats: Splats) -> dict[str, np.ndarray]:
    """The properties of a PLY by their names."""
    parts = [splats.means, splats.f_dc, splats.opacity_logits[:, None], splats.log_scales, splats.quaternions]
    table = dict(zip(NAMES, torch.cat(parts, dim=1).T.numpy(), strict=True))
    if splats.f_rest is not None:
        table |= {f"f_rest_{index}": column for index, column in enumerate(splats.f_rest.flatten(1).T.numpy())}
    return table


TYPES = {"f4": "float", "f8": "double", "u1": "uchar", "i2": "short", "u4": "uint", "i4": "int"}


def element(name: str, table: Mapping[str, np.ndarray], order: str = "<") -> tuple[str, bytes]:
    """The header lines and the binary rows of an element of scalars."""
    count = len(next(iter(table.values())))
    kinds = {key: column.dtype.str[1:] for key, column in table.items()}
    lines = [f"element {name} {count}", *(f"property {TYPES[kind]} {key}" for key, kind in kinds.items())]
    rows = np.empty(count, [(key, order + kind) for key, kind in kinds.items()])
    for key, column in table.items():
        rows[key] = column
    return "\n".join(lines), rows.tobytes()


def list_element(name: str, rows: Sequence[Sequence[int]], order: str = "<") -> tuple[str, bytes]:
    """The header lines and the binary rows of an element of a list of int."""
    body = b"".join(struct.pack(f"{order}B{len(row)}i", len(row), *row) for row in rows)
    return f"element {name} {len(rows)}\nproperty list uchar int vertex_indices", body


def ply_file(*elements: tuple[str, bytes], order: str = "<", comment: str = "", newline: str = "\n") -> bytes:
    """A binary PLY of elements."""
    endian = "little" if order == "<" else "big"
    lines = [
        f"ply\nformat binary_{endian}_endian 1.0",
        *([comment] if comment else []),
        *(head for head, _ in elements),
    ]
    header = "\n".join([*lines, "end_header\n"]).replace("\n", newline)
    return header.encode("utf-8") + b"".join(body for _, body in elements)


def ascii_ply(splats: Splats, newline: str = "\n") -> bytes:
    table = columns(splats)
    header = element("vertex", table)[0]
    rows = (" ".join(repr(float(value)) for value in row) for row in np.stack(list(table.values()), axis=1))
    return newline.join(["ply", "format ascii 1.0", *header.split("\n"), "end_header", *rows, ""]).encode()


def compressed_ply(splats: Splats, *, with_colours: bool = True, order: str = "<") -> bytes:
    """A compressed PLY as SuperSplat's documentation describes it; ranges of chunks of 256 gaussians."""
    count = len(splats)
    chunk = np.arange(count) // 256
    ranges: dict[str, np.ndarray] = {}

    def place(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Record the range of each column in each chunk; return the fractions within them."""
        result = np.empty(values.shape)
        for index, name in enumerate(names):
            parts = [values[chunk == number, index] for number in range(chunk[-1] + 1)]
            low, high = (np.array([function(part) for part in parts], "f4") for function in (np.min, np.max))
            ranges[f"min_{name}"], ranges[f"max_{name}"] = low, high
            span = np.where(high > low, high.astype(float) - low, 1)
            result[:, index] = (values[:, index] - low[chunk]) / span[chunk]
        return result

    def pack(fractions: np.ndarray, bits: Sequence[int]) -> np.ndarray:
        word = np.zeros(count, np.uint32)
        for column, width in zip(fractions.T, bits, strict=True):
            level = np.rint(column.clip(0, 1) * ((1 << width) - 1)).astype(np.uint32)
            word = (word << np.uint32(width)) | level
        return word

    positions = place(splats.means.numpy(), "xyz")
    scales = place(splats.log_scales.numpy(), ("scale_x", "scale_y", "scale_z"))
    colours = splats.f_dc.numpy() * 0.28209479177387814 + 0.5
    if with_colours:
        colours = place(colours, "rgb")
    opacities = splats.opacity_logits.sigmoid().numpy()[:, None]
    vertex = {
        "packed_position": pack(positions, (11, 10, 11)),
        "packed_rotation": smallest_three(splats.quaternions.numpy()),
        "packed_scale": pack(scales, (11, 10, 11)),
        "packed_color": pack(np.concatenate([colours, opacities], axis=1), (8, 8, 8, 8)),
    }
    elements = [element("chunk", ranges, order), element("vertex", vertex, order)]
    if splats.f_rest is not None:
        levels = ((splats.f_rest.flatten(1).numpy() / 8 + 0.5) * 256).clip(0, 255).astype("u1")
        elements.append(element("sh", {f"f_rest_{index}": column for index, column in enumerate(levels.T)}, order))
    return ply_file(*elements, order=order)


def smallest_three(quaternions: np.ndarray) -> np.ndarray:
    """Index of the largest component of w, x, y, z in two bits, the others in ten bits each from -sqrt(1/2) up."""
    words = []
    for quaternion in quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True):
        largest = int(np.abs(quaternion).argmax())
        word = largest
        for value in np.delete(quaternion * np.sign(quaternion[largest]), largest):
            word = word << 10 | round((value * 0.5**0.5 + 0.5) * 1023)
        words.append(word)
    return np.array(words, np.uint32)


def niantic_planes(splats: Splats, version: int) -> list[bytes]:
    """The planes of a container of nianticlabs/spz; from version 3 on with rotations of its own kind.

    Harmonics are [N, 3, D], of any degree.
    """
    count = len(splats)
    raw = (
        quantise(Splats(**{name: x for name, x in splats.tensors().items() if name != "f_rest"})).numpy().tobytes()[16:]
    )
    ends = np.cumsum([0, 9 * count, count, 3 * count, 3 * count, 3 * count])
    planes = [raw[start:end] for start, end in pairwise(ends)]
    if version == 1:
        planes[0] = splats.means.numpy().astype("<f2").tobytes()
    if version >= 3:
        xyzw = splats.quaternions.numpy()[:, [1, 2, 3, 0]]
        words = []
        for quaternion in xyzw / np.linalg.norm(xyzw, axis=1, keepdims=True):
            largest = int(np.abs(quaternion).argmax())
            word = largest
            for value in np.delete(quaternion * np.sign(quaternion[largest]), largest):
                word = word << 10 | int(value < 0) << 9 | round(abs(value) * 2**0.5 * 511)
            words.append(word)
        planes[4] = np.array(words, "<u4").tobytes()
    return planes


def harmonics_plane(f_rest: np.ndarray) -> bytes:
    """Harmonics [N, 3, D] as bytes, coefficient by coefficient."""
    return (np.rint(f_rest * 128) + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 1).tobytes()


def niantic_spz(
    splats: Splats, version: int, f_rest: np.ndarray | None = None, *, plain: bool = False, flags: int = 0
) -> bytes:
    """A file of nianticlabs/spz: gzip (or `plain`) up to version 3, a zstd frame a plane in version 4."""
    planes = niantic_planes(splats, version)
    degree = 0
    if f_rest is not None:
        degree = round((f_rest.shape[2] + 1) ** 0.5) - 1
        planes.append(harmonics_plane(f_rest))
    fields = (0x5053474E, version, len(splats), degree, 12, flags)
    if version < 4:
        content = struct.pack("<IIIBBBB", *fields, 0) + b"".join(planes)
        return content if plain else gzip.compress(content)
    frames = [zstandard.ZstdCompressor().compress(plane) for plane in planes]
    extension = b"\x01\0\0\0\x04\0\0\0abcd" if flags & 2 else b""
    header = struct.pack("<IIIBBBBI12x", *fields, len(planes), 32 + len(extension)) + extension
    table = b"".join(struct.pack("<QQ", len(f), len(p)) for f, p in zip(frames, planes, strict=True))
    return header + table + b"".join(frames)
