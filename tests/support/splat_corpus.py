"""Splat files of the kinds that people have, each with its right reading."""

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
import zstandard

from pipeline import Splats, ply, spz
from pipeline.splats.spz_quantisation import quantise
from tests.support.generated import make_splats
from tests.support.splat_files import (
    ascii_ply,
    columns,
    compressed_ply,
    element,
    list_element,
    niantic_spz,
    ply_file,
)

# The largest differences that the formats allow, with quaternions of unit length.
SPZ_BOUNDS = {"means": 2**-13, "log_scales": 1 / 32, "opacity_logits": 0.4, "f_dc": 0.0132, "quaternions": 0.12}
SMALLEST_THREE = SPZ_BOUNDS | {"quaternions": 0.0025, "f_rest": 1 / 256}
COMPRESSED = {
    "means": 1 / 2046, "log_scales": 1 / 2046, "opacity_logits": 0.4, "f_dc": 0.02,
    "quaternions": 0.003, "f_rest": 8 / 255,
}  # fmt: skip


@dataclass(frozen=True)
class SplatCase:
    """A file, and the splats that it must be read as, or the message that it must be refused with.

    bounds: the largest difference of each attribute; none where it is not named. warning: what its header says of it.
    """

    name: str
    make: Callable[[], bytes]
    expected: Splats | str
    bounds: dict[str, float] = field(default_factory=dict)
    warning: str = ""

    @property
    def suffix(self) -> str:
        return "spz" if self.name.startswith("SPZ") else "ply"


@cache
def cloud(coefficients: int = 0, count: int = 6) -> Splats:
    """Splats whose harmonics, [count, 3, coefficients], tell every channel and coefficient apart."""
    f_rest = torch.arange(count * 3 * coefficients).view(count, 3, coefficients) % 97 / 128 - 0.375
    # Neither nearly transparent nor nearly opaque, where a byte of alpha tells little of the logit.
    splats = replace(make_splats(count), opacity_logits=torch.linspace(-3, 3, count))
    return replace(splats, f_rest=f_rest if coefficients else None)


def harmonics(per_channel: int) -> dict[str, np.ndarray]:
    """Properties f_rest_*, of any number a channel, that begin with those of `cloud(15)` in each channel."""
    f_rest = np.zeros((6, 3, per_channel), "f4")
    known = min(per_channel, 15)
    f_rest[:, :, :known] = cloud(15).f_rest[:, :, :known]
    return {f"f_rest_{index}": column for index, column in enumerate(f_rest.reshape(6, -1).T)}


def vertex(order: str = "<", splats: Splats | None = None, **more: np.ndarray) -> tuple[str, bytes]:
    return element("vertex", columns(splats or cloud()) | more, order)


def read_plys() -> Iterator[SplatCase]:
    splats = cloud()
    table = columns(splats)
    faces, ragged = [[0, 1, 2]] * 5, [[0, 1], [], [3, 4, 5, 6]]
    wide = element("vertex", {name: column.astype("f8") for name, column in table.items()})
    backwards = element("vertex", dict(reversed(table.items())))
    normals = {name: np.zeros(6, "f4") for name in ("nx", "ny", "nz")}
    colours = {name: np.arange(6, dtype="u1") for name in ("red", "green", "blue")}
    for name, make in {
        "little endian": lambda: ply_file(vertex()),
        "big endian": lambda: ply_file(vertex(">"), order=">"),
        "text": lambda: ascii_ply(splats),
        "text with CRLF": lambda: ascii_ply(splats, "\r\n"),
        "CRLF in its header": lambda: ply_file(vertex(), newline="\r\n"),
        "a comment": lambda: ply_file(vertex(), comment="comment by another tool"),
        "a comment in another script": lambda: ply_file(vertex(), comment="comment ⟨物体⟩ élan"),
        "a comment that says end_header": lambda: ply_file(vertex(), comment="comment end_header follows"),
        "an empty comment": lambda: ply_file(vertex(), comment="comment"),
        "a blank line": lambda: ply_file(vertex(), comment="   "),
        "obj_info": lambda: ply_file(vertex(), comment="obj_info element vertex 3"),
        "doubles": lambda: ply_file(wide),
        "properties in another order": lambda: ply_file(backwards),
        "normals": lambda: ply_file(vertex(**normals)),
        "colours of bytes": lambda: ply_file(vertex(**colours)),
        "a property of doubles": lambda: ply_file(vertex(confidence=np.ones(6, "f8"))),
        "an element behind": lambda: ply_file(vertex(), list_element("face", faces)),
        "an element ahead": lambda: ply_file(element("camera", {"view": np.ones(3, "i2")}), vertex()),
        "lists ahead": lambda: ply_file(list_element("face", faces), vertex()),
        "lists of many lengths ahead": lambda: ply_file(list_element("face", ragged), vertex()),
        "lists ahead, big endian": lambda: ply_file(list_element("face", ragged, ">"), vertex(">"), order=">"),
        "empty lists ahead": lambda: ply_file(list_element("face", []), vertex()),
        "two elements of lists ahead": lambda: ply_file(list_element("a", faces), list_element("b", ragged), vertex()),
        "bytes after the last row": lambda: ply_file(vertex()) + b"rest",
        "types called float32": lambda: ply_file(vertex()).replace(b"property float ", b"property float32 "),
    }.items():
        yield SplatCase(f"PLY with {name}", make, splats)
    lists = b"".join(
        row.tobytes() + struct.pack(f"<B{length}h", length, *range(length))
        for length, row in enumerate(np.stack(list(table.values()), axis=1).astype("<f4"))
    )
    header = vertex()[0] + "\nproperty list uchar short neighbours"
    yield SplatCase("PLY with lists in its vertices", lambda: ply_file((header, lists)), splats)
    for count in (3, 8, 15):
        yield SplatCase(
            f"PLY with {3 * count} harmonics", lambda c=count: ply_file(vertex(splats=cloud(c))), cloud(count)
        )
        yield SplatCase(f"PLY in text with {3 * count} harmonics", lambda c=count: ascii_ply(cloud(c)), cloud(count))
    for degree in (4, 5):
        yield SplatCase(
            f"PLY with harmonics of degree {degree}",
            lambda d=degree: ply_file(vertex(**harmonics((d + 1) ** 2 - 1))),
            cloud(15),
            warning=f"harmonics of degree {degree} are read up to degree 3 only",
        )
    later = {f"f_rest_{index}": np.ones(6, "f4") for index in range(1, 10)}
    yield SplatCase(
        "PLY with harmonics but the first", lambda: ply_file(vertex(**later)), splats, warning="there is no f_rest_0"
    )
    for name, special in (("NaN", np.nan), ("infinity", np.inf), ("zeros", 0.0), ("huge values", 3e38)):
        odd = replace(splats, quaternions=splats.quaternions.index_fill(0, torch.tensor(2), special))
        yield SplatCase(f"PLY with {name}", lambda s=odd: ply_file(vertex(splats=s)), odd)
    many = cloud(0, 600)
    for name, whole, colours_, order in (
        ("", cloud(), True, "<"), (" of several chunks", many, True, "<"),
        (" without ranges of colours", many, False, "<"),
        (" with harmonics of degree 1", cloud(3), True, "<"), (" of degree 3", cloud(15), True, "<"),
        (", big endian", many, True, ">"),
    ):  # fmt: skip
        within = replace(whole, f_dc=whole.f_dc.clamp(-1.7, 1.7))
        yield SplatCase(
            f"PLY compressed by SuperSplat{name}",
            lambda s=within, c=colours_, o=order: compressed_ply(s, with_colours=c, order=o),
            within,
            COMPRESSED,
        )


def refused_plys() -> Iterator[SplatCase]:
    whole, compressed = ply_file(vertex()), compressed_ply(cloud(3, 300))
    text = ascii_ply(cloud())
    mesh = ply_file(element("vertex", {name: np.zeros(3, "f4") for name in "xyz"}), list_element("face", [[0, 1, 2]]))
    long_list = struct.pack("<I", 2**31 - 1)
    header = "element face 1\nproperty list uint double vertex_indices"
    for name, data, message in (
        ("no bytes", b"", "not a PLY"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer: run `git lfs pull`"),
        ("a web page", b"<!DOCTYPE html>", "not a PLY but a web page"),
        ("a picture", b"\x89PNG\r\n\x1a\n", "not a PLY but a PNG picture"),
        ("a GLB scene", b"glTF\x02\0\0\0", "not a PLY but a GLB scene"),
        ("a ZIP archive", b"PK\x03\x04", "not a PLY but a ZIP archive"),
        ("lines that end in CR", whole.replace(b"\n", b"\r"), "its lines end in CR alone"),
        ("no end of its header", whole.replace(b"end_header", b"end"), "'end_header' within the first MiB"),
        ("no format", whole.replace(b"format binary_little_endian 1.0\n", b""), "without a format line"),
        ("another format", whole.replace(b"1.0", b"1.1"), "not understood: 'format"),
        ("no vertices", whole.replace(b"element vertex", b"element points"), "without a vertex element"),
        ("a count of 0", whole.replace(b"vertex 6", b"vertex 0"), "0 vertices"),
        ("a negative count", whole.replace(b"vertex 6", b"vertex -6"), "-6 vertices"),
        ("a count that is no number", whole.replace(b"vertex 6", b"vertex six"), "not a number"),
        ("too large a count", whole.replace(b"vertex 6", b"vertex 4000000000"), "4000000000 vertices"),
        ("more rows than it has", whole.replace(b"vertex 6", b"vertex 7"), "too short: 7 vertices"),
        ("a row cut off", whole[:-1], "too short"),
        ("a line cut off", text[: text.rindex(b" ")].rsplit(b"\n", 1)[0] + b"\n", "too short|5 readable lines"),
        ("a word for a number", text.replace(b"-3.0", b"three"), "could not convert string 'three'"),
        ("no opacity", whole.replace(b"float opacity", b"float opaque"), "without the vertex properties opacity"),
        ("a mesh", mesh, "a point cloud or a mesh without gaussians"),
        ("a property twice", whole.replace(b"float rot_3", b"float rot_2"), "'rot_2' twice"),
        ("a type of its own", whole.replace(b"float rot_3", b"half rot_3"), "not understood: 'property half"),
        ("a list for a number", whole.replace(b"float opacity", b"list uchar float opacity"), "without .* opacity"),
        ("a list of unknown length", whole.replace(b"float opacity", b"list float int opacity"), "not understood"),
        ("a very long list", ply_file((header, long_list), vertex()), "end-of-file in row 0 of the element 'face'"),
        ("a negative list", ply_file((header.replace("uint", "int"), b"\xff" * 4), vertex()), "a list of -1 items"),
        ("a list cut off", ply_file(list_element("face", [[1] * 99] * 9), vertex())[:-400], "too short"),
        ("a negative element", whole.replace(b"element", b"element a -1\nproperty int i\nelement"), "-1 rows of"),
        ("chunks missing", compressed.replace(b"chunk 2", b"chunk 1"), "with 1 chunks: 300 gaussians need 2"),
        ("no chunks", compressed.replace(b"element chunk", b"element block"), "compressed PLY with 0 chunks"),
        ("chunks without a range", compressed.replace(b"float max_x", b"float maxx"), "the chunk properties max_x"),
        ("harmonics missing", compressed.replace(b"element sh 300", b"element sh 299"), "with 299 rows of 9 harmonics"),
        ("harmonics cut off", compressed[:-1], "too short"),
    ):  # fmt: skip
        yield SplatCase(f"PLY with {name}", lambda d=data: d, message)
    for count in (1, 3, 6, 12, 27, 44, 46, 48):
        properties = {f"f_rest_{index}": np.ones(6, "f4") for index in range(count)}
        yield SplatCase(
            f"PLY with {count} harmonics", lambda p=properties: ply_file(vertex(**p)), f"{count} consecutive f_rest"
        )
    gap = {f"f_rest_{index}": np.ones(6, "f4") for index in (*range(9), *range(10, 30))}
    yield SplatCase("PLY with a gap", lambda: ply_file(vertex(**gap)), "9 consecutive f_rest properties and 20 others")


def read_spzs() -> Iterator[SplatCase]:
    for count in (0, 3, 8, 15):
        splats = cloud(count)
        bounds = SPZ_BOUNDS | {"f_rest": 8.5 / 128}
        yield SplatCase(f"SPZ with {count} harmonics", lambda s=splats: spz.to_bytes(s), splats, bounds)
    splats = cloud()
    half = SPZ_BOUNDS | {"means": 2**-12}
    first = quantise(splats).numpy().tobytes()
    planes_1 = struct.pack("<I", 0x5053474E) + struct.pack("<I", 1) + first[8:16]
    planes_1 += splats.means.numpy().astype("<f2").tobytes() + first[16 + 54 :]
    yield SplatCase("SPZ of version 1", lambda: zstandard.ZstdCompressor().compress(planes_1), splats, half)
    yield SplatCase(
        "SPZ of another level", lambda: zstandard.ZstdCompressor(level=19).compress(first), splats, SPZ_BOUNDS
    )
    yield SplatCase(
        "SPZ with bytes after its planes",
        lambda: zstandard.ZstdCompressor().compress(first + b"rest"),
        splats,
        SPZ_BOUNDS,
    )
    for version, bounds in ((1, half), (2, SPZ_BOUNDS), (3, SMALLEST_THREE), (4, SMALLEST_THREE)):
        bounds = bounds | {"f_rest": 1 / 256}
        for count in (0, 3, 15):
            f_rest = None if not count else cloud(count).f_rest.numpy()
            yield SplatCase(
                f"SPZ of Niantic, version {version}, {count} harmonics",
                lambda v=version, f=f_rest: niantic_spz(splats, v, f),
                cloud(count),
                bounds,
            )
        if version < 4:
            yield SplatCase(
                f"SPZ of Niantic, plain, version {version}",
                lambda v=version: niantic_spz(splats, v, plain=True),
                splats,
                bounds,
            )
        higher = np.concatenate([cloud(15).f_rest.numpy(), np.full((6, 3, 9), 0.5, "f4")], axis=2)
        yield SplatCase(
            f"SPZ of Niantic, version {version}, degree 4",
            lambda v=version, f=higher: niantic_spz(splats, v, f),
            cloud(15),
            bounds,
            "harmonics of degree 4 are read up to degree 3 only",
        )
    yield SplatCase(
        "SPZ of Niantic with extensions",
        lambda: niantic_spz(splats, 4, flags=2),
        splats,
        SMALLEST_THREE,
        "its extensions",
    )


def refused_spzs() -> Iterator[SplatCase]:
    whole = spz.to_bytes(cloud())
    raw = quantise(cloud()).numpy().tobytes()
    pack = zstandard.ZstdCompressor().compress
    streams, gzipped = niantic_spz(cloud(), 4), niantic_spz(cloud(), 3)
    plain = niantic_spz(cloud(), 2, plain=True)
    fields = struct.Struct("<IIIBBBB")

    def header(version: int = 2, count: int = 6, degree: int = 0, bits: int = 12, magic: int = 0x5053474E) -> bytes:
        return fields.pack(magic, version, count, degree, bits, 0, 0) + raw[16:]

    for name, data, message in (
        ("no bytes", b"", "not an SPZ"),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer: run `git lfs pull`"),
        ("a PLY", ply_file(vertex()), "not an SPZ but a PLY"),
        ("a ZIP archive", b"PK\x03\x04" + bytes(30), "not an SPZ but a ZIP archive: unpack it first; a SOG"),
        ("gzip of a PLY", gzip.compress(ply_file(vertex())), "gzip data of a PLY; unpack it first with gunzip"),
        ("gzip of anything", gzip.compress(bytes(99)), "not an SPZ: magic"),
        ("gzip that is damaged", b"\x1f\x8b\x08" + bytes(30), "not an SPZ: (damaged gzip|magic)|too short"),
        ("gzip cut short", gzipped[:-20], "too short|cut short"),
        ("gzip without its end", gzipped[:-4], "cut short"),
        ("gzip that claims more", gzip.compress(header(3, 9_000_000)), "too short"),
        ("plain bytes missing", plain[:-1], "too short"),
        ("the wrong magic", pack(header(magic=0x12345678)), "magic 0x12345678"),
        ("version 0", pack(header(0)), "version 0"),
        ("version 9", header(9), "version 9: expected 1 or 2 or 3 or 4"),
        ("degree 7", pack(header(degree=7)), "degree 7"),
        ("degree 5 of Niantic", header(degree=5), "degree 5: expected 0 to 4"),
        ("no gaussians", pack(header(count=0)), "0 gaussians"),
        ("too many gaussians", pack(header(count=4_000_000_000)), "4000000000 gaussians"),
        ("gaussians missing", pack(header(count=7)), "too short"),
        ("40 fractional bits", pack(header(bits=40)), "40 fractional bits"),
        ("its frame cut", whole[:-3], "cut short"),
        ("bytes after its frame", whole + b"rest", "not an SPZ"),
        ("two frames", whole + whole, "data after its zstd frame"),
        ("a frame that declares more", whole[:5] + b"\xff" + whole[6:], "declares|cut short|damaged|not an SPZ"),
        ("a frame that declares less", whole[:5] + b"\x05" + whole[6:], "damaged|too short"),
        ("version 4 cut in its header", streams[:30], "too short: 30 bytes"),
        ("version 4 cut in its table", streams[:70], "too short"),
        ("version 4 cut in a stream", streams[:-5], "stream 4 ends at byte"),
        ("version 4 and bytes after it", streams + b"rest", "4 bytes after its last stream"),
        ("version 4 with a stream less", streams[:15] + b"\x04" + streams[16:], "with 4 streams: degree 0 needs 5"),
        ("version 4 with a wrong table", streams[:16] + b"\x08" + streams[17:], "table of its streams is at byte 8"),
        ("version 4 with a wrong size", streams[:40] + b"\xff" + streams[41:], "stream 0 holds 255 bytes"),
        ("version 4 that claims more", streams[:8] + b"\0\0\x80\0" + streams[12:], "stream 0 holds 54 b"),
    ):  # fmt: skip
        yield SplatCase(f"SPZ with {name}", lambda d=data: d, message)


SPLATS = [case for family in (read_plys, refused_plys, read_spzs, refused_spzs) for case in family()]


def read(case: SplatCase) -> Splats:
    return (ply if case.suffix == "ply" else spz).from_bytes(case.make())


def warning(case: SplatCase) -> str:
    return (ply if case.suffix == "ply" else spz).read_header(case.make()).warning
