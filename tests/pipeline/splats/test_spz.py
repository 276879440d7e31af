import hashlib
import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import ply, spz
from pipeline.errors import FormatError
from pipeline.splats.splats import Splats
from pipeline.splats.spz_quantisation import alpha_logits, dequantise, lowest_logits, quantise
from tests.support.golden_spz import CASES, CONTAINERS, GOLDEN, golden, regenerate

# The one difference to the reference that is meant: it shifts by any number of bits.
REFUSED_THOUGH_READ = {"fracbits_30": "30 fractional bits", "fracbits_31": "31", "fracbits_32": "32"}
REASONS = {
    "bad_magic": "magic",
    "version_0": "version 0",
    "version_3": "version 3",
    "degree_1_missing_sh": "111 raw bytes, its header asks for 156",
    "degree_4": "degree 4",
    "points_0": "0 gaussians",
    "points_6_short": "111 raw bytes, its header asks for 130",
    "points_10000001": "10000001 gaussians",
    "points_10000000_short": "too short",
    "header_short": "15 raw bytes",
    "gzip_magic": "not an SPZ",
    "empty": "not an SPZ",
    "truncated_frame": "cut short",
    "trailing_garbage_after_frame": "not an SPZ",
    "two_frames_split": "data after its zstd frame",
    "skippable_frame_first": "cut short",
    "no_content_size_ratio_gt_6": "too short",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", CASES)
def test_golden_inputs_are_the_recorded_ones(name: str) -> None:
    assert sha256(ply.to_bytes(golden(name))) == CASES[name]["ply"]["sha256"]


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_of_the_reference(name: str) -> None:
    case, splats = CASES[name], golden(name)
    assert sha256(quantise(splats).numpy().tobytes()) == case["raw"]["sha256"]
    with_worker = spz.to_bytes(splats, level=1, workers=1, lossy=True)
    assert sha256(with_worker) == case["spz"]["sha256"]
    assert spz.to_bytes(splats, level=1, workers=8, lossy=True) == with_worker
    expected = case["spz"] if case["spz_w-1"] == "identical to spz" else case["spz_w-1"]
    assert sha256(spz.to_bytes(splats, lossy=True)) == expected["sha256"]
    assert sha256(spz.to_bytes(splats, workers=-1, lossy=True)) == expected["sha256"]
    for level in (0, 3, 22, 23):
        if f"spz_level{level}" in case:
            data = spz.to_bytes(splats, level=level, workers=1, lossy=True)
            assert sha256(data) == case[f"spz_level{level}"]["sha256"], level


@pytest.mark.parametrize("name", CASES)
def test_decoding_is_that_of_the_reference(name: str) -> None:
    case = CASES[name]
    decoded = spz.from_bytes(spz.to_bytes(golden(name), workers=1, lossy=True))
    assert sha256(ply.to_bytes(decoded, normals=False)) == case["dec"]["sha256"]
    assert sha256(ply.to_bytes(decoded, normals=True)) == case["dec_normals"]["sha256"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_unusual_containers_as_the_reference(name: str) -> None:
    case = CONTAINERS[name]
    data = bytes.fromhex(case["spz_hex"])
    assert sha256(data) == case["spz_sha256"]
    if name in REFUSED_THOUGH_READ or case["result"] != "ok":
        with pytest.raises(FormatError, match=(REFUSED_THOUGH_READ | REASONS)[name]):
            spz.from_bytes(data)
    else:
        assert sha256(ply.to_bytes(spz.from_bytes(data), normals=False)) == case["ply_sha256"]


def test_tables_are_those_of_the_reference() -> None:
    tables = json.loads((GOLDEN / "tables.json").read_text())

    def bits(name: str) -> list[int]:
        return [int(pattern, 16) for pattern in tables[name]]

    assert lowest_logits()[1:-1].view(np.uint32).tolist() == bits("alpha_encode_min")
    assert alpha_logits().view(np.uint32).tolist() == bits("alpha_decode")
    # One gaussian for each value of a byte, in every plane.
    raw = torch.arange(256, dtype=torch.uint8)
    planes = torch.cat([torch.zeros(9 * 256, dtype=torch.uint8), raw, *[raw.repeat_interleave(3)] * 3])
    decoded = dequantise(planes, 256, 0, 2, 12)
    for values, name in [
        (decoded.opacity_logits, "alpha_decode"),
        (decoded.f_dc[:, 1], "color_decode"),
        (decoded.log_scales[:, 2], "scale_decode"),
        (decoded.quaternions[:, 1], "rot_decode_clang"),
    ]:
        assert values.contiguous().numpy().view(np.uint32).tolist() == bits(name), name


def neighbours(values: np.ndarray, steps: int = 40) -> torch.Tensor:
    """Every float32 within `steps` representable values of the given ones, which are not near zero."""
    patterns = values.astype(np.float32).view(np.int32)[:, None] + np.arange(-steps, steps + 1, dtype=np.int32)
    return torch.from_numpy(patterns.reshape(-1).view(np.float32))


def test_alpha_bytes_change_exactly_at_the_thresholds() -> None:
    thresholds = lowest_logits()[1:-1]
    logits = neighbours(thresholds[np.abs(thresholds) > 1e-3])
    n = len(logits)
    splats = replace(regenerate(1, n), opacity_logits=logits)
    found = quantise(splats)[16 + 9 * n : 16 + 10 * n].numpy()
    assert np.array_equal(found, np.searchsorted(thresholds, logits.numpy(), side="right"))


def test_colours_are_multiplied_and_added_in_one_rounding() -> None:
    boundaries = (np.arange(1, 256) - 128.0) / 38.25
    f_dc = neighbours(boundaries[np.abs(boundaries) > 1e-3], steps=300).repeat(3, 1).T.contiguous()
    n = len(f_dc)
    found = quantise(replace(regenerate(1, n), f_dc=f_dc))[16 + 10 * n : 16 + 13 * n].view(n, 3)[:, 0].numpy()
    # In float64 both steps are exact here.
    exact = (f_dc[:, 0].numpy().astype(np.float64) * 38.25 + 127.5).astype(np.float32)
    assert np.array_equal(found, np.floor(exact.astype(np.float64) + 0.5))
    in_two_steps = f_dc[:, 0].numpy() * np.float32(38.25) + np.float32(127.5)
    assert np.any(np.floor(in_two_steps.astype(np.float64) + 0.5) != found), "the values tell the two apart"


def test_the_norm_of_a_quaternion_is_summed_with_fused_steps() -> None:
    # Rare quaternions of which one byte differs when squares are rounded before they are added; the expected
    # bytes were computed with rational numbers.
    cases = {
        ("-0x1.6e0cbap-1", "0x1.1534d0p-2", "0x1.897a74p-1", "-0x1.3d7fc6p+0"): [107, 68, 223],
        ("0x1.06c1e2p+0", "-0x1.93a6d0p+0", "-0x1.535b34p+0", "-0x1.a34b80p-2"): [41, 55, 105],
        ("-0x1.c40914p-1", "-0x1.38abecp+0", "0x1.556fb2p+0", "0x1.0b5e82p+0"): [196, 52, 69],
        ("0x1.6c0e58p-2", "0x1.3bd3f6p+0", "-0x1.d93e40p-4", "-0x1.184fccp+0"): [221, 119, 45],
    }
    quaternions = torch.tensor([[float.fromhex(value) for value in case] for case in cases])
    n = len(cases)
    raw = quantise(replace(regenerate(1, n), quaternions=quaternions))
    assert raw[16 + 16 * n :].view(n, 3).tolist() == list(cases.values())


def test_halves_round_away_from_zero() -> None:
    steps = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, -0.49999997, 8388606.5, -8388607.5])
    means = (steps / 4096.0)[:, None].expand(-1, 3)
    splats = replace(regenerate(1, len(steps)), means=means)
    decoded = spz.from_bytes(spz.to_bytes(splats)).means[:, 0] * 4096.0
    assert decoded.tolist() == [1, 2, 3, -1, -2, -3, 0, 0, 8388607, -8388608]


def test_a_square_root_of_lower_precision_would_show() -> None:
    # All small triples of bytes: w = sqrt(1 - s), as numpy's correctly rounded float32 root gives it.
    xyz = torch.tensor(list(itertools.product(range(100, 156, 5), repeat=3)), dtype=torch.uint8)
    n = len(xyz)
    planes = torch.cat([torch.zeros(16 * n, dtype=torch.uint8), xyz.reshape(-1)])
    decoded = dequantise(planes, n, 0, 2, 12).quaternions.numpy()
    x, y, z = (decoded[:, index].astype(np.float64) for index in (1, 2, 3))
    squared = (x * x + (y * y).astype(np.float32)).astype(np.float32)
    squared = (z * z + squared).astype(np.float32)
    assert np.array_equal(decoded[:, 0], np.sqrt(np.float32(1.0) - squared))


@pytest.mark.parametrize("name", ["n1000", "sh1", "sh2", "sh3", "n30000"])
def test_round_trip_is_verified(name: str) -> None:
    splats = golden(name)
    data = spz.to_bytes(splats)
    decoded = spz.verify_round_trip(splats, data)
    assert ply.to_bytes(decoded) == ply.to_bytes(spz.from_bytes(data))


def test_error_bounds_are_those_of_the_format() -> None:
    n = 200_000
    splats = regenerate(5, n)
    decoded = spz.from_bytes(spz.to_bytes(splats))
    unit = torch.nn.functional.normalize(splats.quaternions, dim=1)
    unit = torch.where(unit[:, :1] < 0, -unit, unit)
    errors = [
        (decoded.means - splats.means, 2**-13),
        (decoded.opacity_logits.sigmoid() - splats.opacity_logits.sigmoid(), 1 / 510),
        (decoded.f_dc - splats.f_dc, 1 / 76.5),
        (decoded.log_scales - splats.log_scales, 1 / 32),
        ((decoded.quaternions - unit)[:, 1:], 1 / 255),
    ]
    for error, bound in errors:
        assert 0.98 * bound < float(error.abs().amax()) <= bound + 2e-6


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("means", lambda x: x + 2**-12, "changed the means"),
        ("quaternions", lambda x: x.roll(1, dims=1), "changed the quaternions"),
        ("log_scales", lambda x: x + 0.07, "changed the log_scales"),
        ("opacity_logits", lambda x: -x, "changed the opacities"),
        ("f_dc", lambda x: x.flip(1), "changed the f_dc"),
        ("f_rest", lambda x: x * 0.5, "changed the f_rest of degree 1"),
        ("f_rest", lambda x: torch.cat([x[..., :3], -x[..., 3:]], dim=2), "changed the f_rest above degree 1"),
        ("f_rest", lambda x: x[..., :3], "degree 2 instead of 50 of degree 1"),
    ],
)
def test_a_container_of_other_splats_fails_verification(name: str, change: Any, message: str) -> None:
    splats = golden("sh2")
    other = replace(splats, **{name: change(getattr(splats, name)).contiguous()})
    with pytest.raises(FormatError, match=message):
        spz.verify_round_trip(other, spz.to_bytes(splats))


@pytest.mark.parametrize("length", [1e-45, 1e-30, 1e-12, 1e12, 1e25, 3e38])
def test_a_rotation_of_any_length_is_written(length: float) -> None:
    splats = replace(golden("n7"), quaternions=torch.full((7, 4), length))
    decoded = spz.verify_round_trip(splats, spz.to_bytes(splats))
    torch.testing.assert_close(decoded.quaternions, torch.full((7, 4), 0.5), rtol=0, atol=1 / 127)
    unit = replace(splats, quaternions=torch.full((7, 4), 1.0))
    assert spz.to_bytes(splats) == spz.to_bytes(splats, lossy=True) == spz.to_bytes(unit)


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "1 of 7 quaternions are zero"), (math.inf, "quaternions hold an inf")]
)
def test_what_is_no_rotation_is_refused(value: float, reason: str) -> None:
    splats = golden("n7")
    splats = replace(splats, quaternions=splats.quaternions.index_fill(0, torch.tensor(3), value))
    with pytest.raises(FormatError, match=f"{reason}.*sn17-miner splats convert IN OUT --drop-invalid"):
        spz.to_bytes(splats)
    with pytest.raises(FormatError, match="changed the quaternions"):
        spz.verify_round_trip(splats, spz.to_bytes(splats, lossy=True))


@pytest.mark.parametrize("name", ["means", "quaternions", "log_scales", "opacity_logits", "f_dc", "f_rest"])
def test_a_nan_is_refused_by_name(name: str) -> None:
    splats = golden("sh1")
    poisoned = getattr(splats, name).clone()
    poisoned.view(-1)[17] = math.nan
    splats = replace(splats, **{name: poisoned})
    with pytest.raises(FormatError, match=f"{name} hold a NaN"):
        spz.to_bytes(splats)
    assert spz.from_bytes(spz.to_bytes(splats, lossy=True)).drop_non_finite()


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(-2048.0, True), (2047.9998, True), (2047.9999, False), (-2048.0002, False), (math.inf, False), (1e30, False)],
)
def test_positions_that_would_wrap_are_refused(value: float, accepted: bool) -> None:
    splats = golden("n7")
    splats = replace(splats, means=splats.means.index_fill(0, torch.tensor(3), value))
    if accepted:
        spz.verify_round_trip(splats, spz.to_bytes(splats))
    else:
        with pytest.raises(FormatError, match="SPZ wraps outside"):
            spz.to_bytes(splats)
        with pytest.raises(FormatError, match="changed the means"):
            spz.verify_round_trip(splats, spz.to_bytes(splats, lossy=True))


def test_infinite_opacities_and_scales_are_clamped_not_lost() -> None:
    splats = golden("n7")
    splats = replace(
        splats,
        opacity_logits=torch.tensor([math.inf, -math.inf, 90.0, -90.0, 0.0, 1.0, 2.0]),
        log_scales=splats.log_scales.index_fill(0, torch.tensor(2), -math.inf),
    )
    decoded = spz.verify_round_trip(splats, spz.to_bytes(splats))
    assert decoded.opacity_logits[:4].tolist() == [math.inf, -math.inf, math.inf, -math.inf]
    assert decoded.log_scales[2].tolist() == [-10.0] * 3


@pytest.mark.parametrize("count", [0, 10_000_001])
def test_counts_that_no_reader_takes_are_refused(count: int) -> None:
    fields = [torch.zeros(1).expand(count, *rest) for rest in [(3,), (4,), (3,), (), (3,)]]
    with pytest.raises(FormatError, match=f"{count} gaussians cannot be written"):
        spz.to_bytes(Splats(*fields), lossy=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_cuda_gives_the_same_bytes(name: str) -> None:
    splats = golden(name)
    assert spz.to_bytes(splats.to("cuda"), lossy=True) == spz.to_bytes(splats, lossy=True)
