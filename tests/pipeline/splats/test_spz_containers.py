"""SPZ containers as strangers send them: they are read or refused, cheaply and with a reason."""

import struct
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import ply, spz
from pipeline.errors import FormatError
from pipeline.splats.spz_quantisation import quantise
from tests.support.golden_spz import BASELINE, CASES, CONTAINERS, golden


def container(raw: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(raw)


def refused_cheaply(data: bytes, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=reason):
            spz.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


HEADER = struct.pack("<IIIBBBB", 0x5053474E, 2, 5, 0, 12, 0, 0)


def test_a_declared_size_that_the_blocks_cannot_hold_is_refused_cheaply() -> None:
    data = bytearray(container(HEADER + bytes(95)))
    assert data[4] == 0x20, "a single segment with one byte of content size"
    # The same frame with eight bytes of content size, claiming 640 MB.
    claim = bytes(data[:4]) + bytes([0xE0]) + struct.pack("<Q", 640_000_016) + bytes(data[6:])
    refused_cheaply(claim, "declares 640000016 bytes, its blocks hold at most")


def test_a_bomb_behind_the_planes_is_refused_cheaply() -> None:
    slack = 32 << 20
    refused_cheaply(container(HEADER + bytes(95 + slack + 1)), "its header asks for 111 only")
    assert len(spz.from_bytes(container(HEADER + bytes(95 + slack)))) == 5


def test_a_frame_of_very_many_blocks_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(HEADER)
    start = zstandard.frame_header_size(frame)
    with pytest.raises(FormatError, match="blocks"):
        spz.from_bytes(frame[:start] + bytes(3 << 20))


def test_a_wrong_checksum_and_damaged_blocks_are_refused() -> None:
    raw = quantise(golden("n7")).numpy().tobytes()
    checked = bytearray(container(raw, write_checksum=True))
    assert len(spz.from_bytes(bytes(checked))) == 7
    checked[-1] ^= 1
    with pytest.raises(FormatError, match="damaged zstd frame"):
        spz.from_bytes(bytes(checked))


@pytest.mark.parametrize("options", [{"level": 19}, {"level": -5}, {"threads": 2}, {"write_content_size": False}])
def test_foreign_frames_are_read(options: dict[str, Any]) -> None:
    splats = golden("n1000")
    raw = quantise(splats).numpy().tobytes()
    foreign = spz.from_bytes(container(raw, **options))
    assert ply.to_bytes(foreign) == ply.to_bytes(spz.from_bytes(spz.to_bytes(splats)))


def test_header_of_a_container() -> None:
    header = spz.read_header(spz.to_bytes(golden("sh2")))
    assert (header.version, header.count, header.sh_degree, header.fractional_bits) == (2, 50, 2, 12)
    assert (header.raw_bytes, header.antialiased) == (CASES["sh2"]["raw"]["bytes"], False)
    assert header.frame_bytes == CASES["sh2"]["spz"]["bytes"]
    assert spz.read_header(bytes.fromhex(CONTAINERS["flags_1"]["spz_hex"])).antialiased


@settings(derandomize=True, max_examples=300)
@given(cut=st.floats(0, 1), length=st.integers(0, 6), insert=st.binary(max_size=6))
def test_any_changed_container_gives_splats_or_a_format_error(cut: float, length: int, insert: bytes) -> None:
    at = round(cut * len(BASELINE))
    try:
        read = spz.from_bytes(BASELINE[:at] + insert + BASELINE[at + length :])
    except FormatError as error:
        assert str(error)
    else:
        assert len(read) >= 1


@settings(derandomize=True, max_examples=300)
@given(
    magic=st.sampled_from([0x5053474E, 0]),
    version=st.integers(0, 3),
    count=st.one_of(st.integers(0, 8), st.integers(0, 2**32 - 1)),
    tail=st.binary(min_size=4, max_size=4),
    body=st.binary(max_size=400),
)
def test_any_raw_container_gives_splats_or_a_format_error(
    magic: int, version: int, count: int, tail: bytes, body: bytes
) -> None:
    raw = struct.pack("<III", magic, version, count) + tail + body
    try:
        read = spz.from_bytes(container(raw))
    except FormatError as error:
        assert str(error)
    else:
        assert len(read) == count


@settings(derandomize=True, max_examples=100)
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_refused_with_a_format_error(data: bytes, framed: bool) -> None:
    with pytest.raises(FormatError):
        spz.from_bytes(b"\x28\xb5\x2f\xfd" + data if framed else data)
