import base64
import hashlib
import json
import struct
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from pipeline import ply, spz
from pipeline.errors import FormatError
from pipeline.splats.splats import Splats
from tests.support.paths import DATA

GOLDEN = DATA / "spz"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
HEADER_CASES = MANIFEST["ply_header_cases"]
PLYS = {name: base64.b64decode(text) for name, text in json.loads((GOLDEN / "ply_headers.json").read_text()).items()}

# What the reference refuses and we read.
READ_THOUGH_REFUSED = {
    "crlf", "comment_after_format", "comment_before_property", "comment_before_end", "obj_info", "float32_type",
    "format_trailing_space", "trailing_space_in_name", "second_element_face", "big_endian",
}  # fmt: skip
# What the reference reads wrongly, or writes as an empty container that it then refuses.
REFUSED_THOUGH_WRITTEN = {
    "duplicate_name_extra": "'foo' twice",
    "f_rest_3": "3 consecutive f_rest",
    "f_rest_6": "6 consecutive f_rest",
    "f_rest_12": "12 consecutive f_rest",
    "f_rest_27": "27 consecutive f_rest",
    "f_rest_48": "48 consecutive f_rest",
    "f_rest_gap_0_1_2_4": "3 consecutive f_rest",
}
REASONS = {
    "double_x": "too short",
    "uchar_extra": "too short",
    "ascii": "row 0 of the element 'vertex': 'ascii' codec",
    "count_zero": "0 vertices",
    "count_negative": "-5 vertices",
    "count_garbage": "not a number",
    "count_10485761": "10485761 vertices",
    "count_overflow": "99999999999 vertices",
    "count_more_than_body": "too short",
    "body_truncated_1byte": "751 of 750",
    "no_end_header": "end_header",
    "empty": "not a PLY",
    "only_ply": "not a PLY",
    "not_ply": "not a PLY",
    "missing_opacity": "without the vertex properties opacity",
    "f_rest_1": "1 consecutive f_rest",
}


def equal(left: Splats, right: Splats) -> bool:
    """Bit for bit, so that NaN equals NaN."""
    return ply.to_bytes(left) == ply.to_bytes(right)


@pytest.fixture(scope="module")
def splats() -> Splats:
    return ply.from_bytes((GOLDEN / "n1000.ply").read_bytes())


@pytest.fixture(scope="module")
def rows(splats: Splats) -> "np.ndarray":
    """The golden cloud as plyfile sees it."""
    return PlyData.read(BytesIO(ply.to_bytes(splats)))["vertex"].data


@pytest.mark.parametrize("name", HEADER_CASES)
def test_unusual_files_as_the_reference_or_better(name: str) -> None:
    case, data = HEADER_CASES[name], PLYS[name]
    assert hashlib.sha256(data).hexdigest() == case["ply_sha256"]
    if name in REFUSED_THOUGH_WRITTEN or (case["result"] != "ok" and name not in READ_THOUGH_REFUSED):
        with pytest.raises(FormatError, match=(REFUSED_THOUGH_WRITTEN | REASONS)[name]):
            ply.from_bytes(data)
        return
    read = ply.from_bytes(data)
    if case["result"] == "ok":
        container = spz.to_bytes(read, workers=1, lossy=True)
        assert hashlib.sha256(container).hexdigest() == case["spz_sha256"]
    elif name != "big_endian":
        assert equal(read, ply.from_bytes(PLYS["baseline"]))
    else:
        # The case keeps its little-endian body: reading it as announced swaps every value.
        swapped = read.means.numpy().byteswap()
        assert np.array_equal(swapped, ply.from_bytes(PLYS["baseline"]).means.numpy())


@pytest.mark.parametrize("name", ["n1", "n7", "n1000", "sh1", "sh2", "sh3"])
def test_writing_what_was_read_gives_the_same_file(name: str) -> None:
    data = (GOLDEN / f"{name}.ply").read_bytes()
    assert ply.to_bytes(ply.from_bytes(data)) == data
    decompressed = (GOLDEN / f"{name}.dec.ply").read_bytes()
    assert ply.to_bytes(ply.from_bytes(decompressed), normals=False) == decompressed


def test_special_values_survive() -> None:
    for path in GOLDEN.glob("edge_*.ply"):
        data = path.read_bytes()
        assert ply.to_bytes(ply.from_bytes(data), normals=".dec." not in path.name) == data


def test_more_rows_than_a_block_are_written_in_order() -> None:
    n = 150_000
    counter = torch.arange(n, dtype=torch.float32)
    many = Splats(
        means=torch.stack([counter, counter + 0.25, -counter], dim=1),
        quaternions=counter[:, None].expand(n, 4),
        log_scales=torch.zeros(n, 3),
        opacity_logits=counter.flip(0),
        f_dc=torch.ones(n, 3),
    )
    vertices = PlyData.read(BytesIO(ply.to_bytes(many)))["vertex"]
    assert np.array_equal(vertices["y"], np.arange(n) + 0.25)
    assert np.array_equal(vertices["opacity"], np.arange(n)[::-1])
    assert np.array_equal(vertices["rot_3"], np.arange(n))
    assert not np.any(vertices["nz"])


def test_plyfile_reads_what_we_write() -> None:
    splats = ply.from_bytes((GOLDEN / "sh1.ply").read_bytes())
    assert splats.f_rest is not None
    vertices = PlyData.read(BytesIO(ply.to_bytes(splats, normals=False)))["vertex"]
    assert [p.name for p in vertices.properties] == [*NAMES[:6], *(f"f_rest_{i}" for i in range(9)), *NAMES[6:]]
    for axis, name in enumerate("xyz"):
        assert np.array_equal(vertices[name], splats.means[:, axis].numpy())
    # Channel-major: f_rest_4 is the second coefficient of green.
    assert np.array_equal(vertices["f_rest_4"], splats.f_rest[:, 1, 1].numpy())
    assert np.array_equal(vertices["opacity"], splats.opacity_logits.numpy())
    assert np.array_equal(vertices["scale_2"], splats.log_scales[:, 2].numpy())
    assert np.array_equal(vertices["rot_0"], splats.quaternions[:, 0].numpy())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("text", [False, True])
def test_reading_what_plyfile_writes(splats: Splats, rows: "np.ndarray", order: str, text: bool) -> None:
    wide = {"x": "f8", "opacity": "f8"}
    kinds = [("class", "u1"), *((name, wide.get(name, "f4")) for name in reversed(rows.dtype.names)), ("id", "i2")]
    table = np.zeros(len(rows), kinds)
    for name in rows.dtype.names:
        table[name] = rows[name]
    camera = PlyElement.describe(np.zeros(3, [("view", "f8"), ("flag", "u1")]), "camera")
    elements = [camera, PlyElement.describe(table, "vertex")]
    file = BytesIO()
    PlyData(elements, text=text, byte_order=order, comments=["by another tool"], obj_info=["x"]).write(file)
    assert equal(ply.from_bytes(file.getvalue()), splats)


def with_vertices(header: str, body: bytes = b"") -> bytes:
    return f"ply\n{header}\nend_header\n".encode("latin-1") + body


NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
         "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
PROPERTIES = "\n".join(f"property float {name}" for name in NAMES)
ASCII = f"format ascii 1.0\nelement vertex 2\n{PROPERTIES}"
BINARY = f"format binary_little_endian 1.0\nelement vertex 1\n{PROPERTIES}"
LINE = b"1 2 3 4 5 6 7 8 9 10 11 12 13 14\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_vertices(PROPERTIES), "not understood: 'property float x'"),
        (with_vertices("element vertex 1\n" + PROPERTIES, bytes(56)), "without a format line"),
        (with_vertices("format binary_little_endian 2.0\n"), "not understood"),
        (with_vertices("format binary_little_endian 1.0"), "without a vertex element"),
        (with_vertices(BINARY + "\nproperty half q"), "not understood: 'property half q'"),
        (with_vertices(BINARY + "\nproperty list uchar half q"), "not understood: 'property list uchar half q'"),
        (with_vertices(BINARY + "\nproperty list uchar int q"), "too short"),
        (with_vertices(BINARY + "\nproperty list uchar int q", bytes(56) + b"\x02" + bytes(7)), "early end-of-file"),
        (with_vertices(BINARY + "\nproperty list char int q", bytes(56) + b"\xff"), "early end-of-file"),
        (with_vertices(BINARY.replace("float opacity", "list uchar float opacity"), bytes(90)), "properties opacity"),
        (with_vertices(BINARY + "\nelement vertex 3"), "not understood"),
        (with_vertices(BINARY.replace("1.0\n", "1.0\nelement face 1\nproperty list uchar int i\n")), "too short"),
        (
            with_vertices(BINARY.replace("1.0\n", "1.0\nelement a -1\nproperty int i\n"), bytes(56)),
            "-1 rows of the element 'a'",
        ),
        (with_vertices(BINARY.replace("1.0\n", "1.0\nelement a 9\nproperty int i\n"), bytes(56)), "too short"),
        (with_vertices(ASCII, LINE), "too short: 2 vertices"),
        (with_vertices(ASCII, LINE + b"\n" * 100), "1 readable lines of the element 'vertex': expected 2"),
        (
            with_vertices(ASCII, LINE + LINE.replace(b"7", b"seven")),
            "could not convert string 'seven' to float32 at row 1, column 7",
        ),
        (with_vertices(ASCII, (LINE[:-1] + b" 15\n") * 2), "requires 14 columns but 15 were found at row"),
        (with_vertices(ASCII, LINE + LINE[:-4] + b"\n" + LINE), "14 columns but 13 were found at row"),
        (with_vertices(ASCII, b" " * (1 << 20) + LINE * 2), "0 readable lines"),
        (with_vertices(ASCII + "\nproperty list uchar int q", LINE * 2), "row 0 .*: the line ends too early"),
        (with_vertices(ASCII + "\nproperty list uchar int q", (LINE[:-1] + b" 2 5\n") * 2), "the line ends too early"),
        (with_vertices(ASCII + "\nproperty list uchar int q", (LINE[:-1] + b" x\n") * 2), "'x' is no length"),
        (with_vertices(ASCII + "\nproperty list char int q", (LINE[:-1] + b" -1\n") * 2), "'-1' is no length"),
        (with_vertices(ASCII + "\nproperty list uchar int q", (LINE[:-1] + b" 1 5 5\n") * 2), "15 were found"),
        (with_vertices(ASCII + "\nproperty uchar q", (LINE[:-1] + b" 256\n") * 2), "256"),
    ],
)
def test_garbage_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        ply.from_bytes(data)


def test_ascii_values_and_blank_lines() -> None:
    read = ply.from_bytes(with_vertices(ASCII, b"\r\n" + LINE + b"\n" + LINE.replace(b"7", b"-inf") + b"rest"))
    assert read.means.tolist() == [[1.0, 2.0, 3.0]] * 2
    assert read.opacity_logits.tolist() == [7.0, -np.inf]
    assert read.quaternions.tolist() == [[11.0, 12.0, 13.0, 14.0]] * 2


def lists(*rows: list[int]) -> "np.ndarray":
    values = np.empty(len(rows), object)
    values[:] = [np.array(row, "i4") for row in rows]
    return values


@pytest.mark.parametrize("text", [False, True])
def test_lists_ahead_of_the_vertices_and_in_them_are_skipped(splats: Splats, rows: "np.ndarray", text: bool) -> None:
    faces = np.empty(3, [("vertex_indices", object), ("flag", "u1")])
    faces["vertex_indices"], faces["flag"] = lists([0, 1, 2], [], [5]), 7
    table = np.empty(len(rows), [("neighbours", object), *((name, "f4") for name in rows.dtype.names)])
    table["neighbours"] = lists(*([index] * (index % 3) for index in range(len(rows))))
    for name in rows.dtype.names:
        table[name] = rows[name]
    elements = [PlyElement.describe(faces, "face"), PlyElement.describe(table, "vertex")]
    file = BytesIO()
    PlyData(elements, text=text, byte_order="<").write(file)
    assert equal(ply.from_bytes(file.getvalue()), splats)


def test_big_endian_lists() -> None:
    # By hand, since plyfile writes the values of such elements in the order of the machine.
    header = BINARY.replace("little", "big").replace("1.0\n", "1.0\nelement a 1\nproperty list ushort int q\n")
    body = struct.pack(">H2i14f", 2, 5, 6, *range(1, 15))
    read = ply.from_bytes(with_vertices(header, body))
    assert read.means.tolist() == [[1.0, 2.0, 3.0]]
    assert read.quaternions.tolist() == [[11.0, 12.0, 13.0, 14.0]]


def test_a_value_beyond_its_type_in_text_is_infinite() -> None:
    assert ply.from_bytes(with_vertices(ASCII, LINE + LINE.replace(b"7", b"1e300"))).opacity_logits[1] == np.inf


def test_a_double_beyond_float32_becomes_infinite() -> None:
    header = BINARY.replace("float opacity", "double opacity")
    body = bytes(24) + np.array([1e300], "<f8").tobytes() + bytes(28)
    assert ply.from_bytes(with_vertices(header, body)).opacity_logits.tolist() == [np.inf]


HUGE = f"element vertex 10485760\n{PROPERTIES}"


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (HUGE, "too short"),
        (f"{HUGE}\nproperty list uchar int q", "10485760 rows of lists"),
        (f"element a 4000000000\nproperty uchar q\nelement vertex 1\n{PROPERTIES}", "too short"),
        (f"element a 4000000000\nelement vertex 1\n{PROPERTIES}", "too short"),
        (f"element a 4000000000\nproperty list uchar int q\nelement vertex 1\n{PROPERTIES}", "rows of lists"),
    ],
)
def test_a_large_count_is_checked_before_memory_is_taken(form: str, elements: str, reason: str) -> None:
    data = with_vertices(f"format {form} 1.0\n{elements}", LINE * 1000)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=reason):
            ply.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_no_gaussian_is_no_file(splats: Splats) -> None:
    empty = Splats(*(torch.zeros(shape) for shape in [(0, 3), (0, 4), (0, 3), (0,), (0, 3)]))
    with pytest.raises(FormatError, match="0 gaussians"):
        ply.to_bytes(empty)


BASELINES = [
    PLYS["baseline"],
    PLYS["f_rest_9"],
    PLYS["crlf"],
    PLYS["big_endian"],
    with_vertices(ASCII, LINE * 2),
    with_vertices(BINARY + "\nproperty list uchar int q", bytes(56) + b"\x02" + bytes(8)),
    with_vertices(BINARY.replace("1.0\n", "1.0\nelement a 2\nproperty list uchar short q\n"), bytes(60)),
]


@settings(derandomize=True, max_examples=300)
@given(
    base=st.sampled_from(BASELINES),
    cut=st.floats(0, 1),
    length=st.integers(0, 12),
    insert=st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"\n", b"0", b"-", b"list ", b"9" * 9, b"\nelement a 7\n", b"double", b"char x\n", b"\x00"]),
    ),
)
def test_any_change_gives_splats_or_a_format_error(base: bytes, cut: float, length: int, insert: bytes) -> None:
    at = round(cut * len(base))
    try:
        read = ply.from_bytes(base[:at] + insert + base[at + length :])
    except FormatError as error:
        assert str(error)
    else:
        assert len(read) >= 1


@settings(derandomize=True, max_examples=100)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_splats_or_a_format_error(data: bytes, headed: bool) -> None:
    with pytest.raises(FormatError):
        ply.from_bytes(b"ply\n" + data if headed else data)


def test_a_written_file_is_verified(splats: Splats) -> None:
    data = ply.to_bytes(splats)
    decoded = ply.verify_round_trip(splats, data)
    assert torch.equal(decoded.means, splats.means)
    spoiled = bytearray(data)
    spoiled[-1] ^= 0x40
    with pytest.raises(FormatError, match="quaternions"):
        ply.verify_round_trip(splats, bytes(spoiled))
