"""What differs in other files than arrays is noticed: splats, pictures, the manifest, damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.golden_trellis import GOLDEN, keep_only, replace

COLUMNS = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
COLUMNS += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_spoiled_ply_column_is_noticed_without_a_digest(parity, copy: Path, column: str) -> None:
    keep_only(copy, "sample.ply", "slat_dec_gs_forward.npz")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["sample.ply"]["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    header, mark, body = (GOLDEN / "sample.ply").read_bytes().partition(b"end_header\n")
    table = np.frombuffer(body, "<f4").reshape(-1, 17).copy()
    values = table[:, COLUMNS.index(column)]
    values[1234] += (1e-3 if column.startswith("rot_") else 3e-5) * (np.abs(values).max() or 1.0)
    replace(copy, "sample.ply", header + mark + table.tobytes())
    code, _, summary = parity(copy)
    assert (code, summary["failed"]) == (1, [f"sample.ply: {column}"])


def test_a_quaternion_of_the_other_sign_is_noticed(parity, copy: Path) -> None:
    keep_only(copy, "sample.ply", "slat_dec_gs_forward.npz")
    header, mark, body = (GOLDEN / "sample.ply").read_bytes().partition(b"end_header\n")
    table = np.frombuffer(body, "<f4").reshape(-1, 17).copy()
    table[100, 13:] *= -1
    replace(copy, "sample.ply", header + mark + table.tobytes())
    assert {f"sample.ply: rot_{i}" for i in range(4)} & set(parity(copy)[2]["failed"])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-4],
        lambda data: data[: -17 * 4],
        lambda data: data.replace(b"f_dc_1", b"f_dc_9"),
        lambda data: data.replace(b"format binary_little_endian 1.0", b"format binary_little_endian 1.1"),
        lambda data: data.replace(b"element", b"comment made by us\nelement"),
    ],
)
def test_a_ply_file_of_another_form_is_noticed(parity, copy: Path, change: Callable[[bytes], bytes]) -> None:
    keep_only(copy, "sample.ply", "slat_dec_gs_forward.npz")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["sample.ply"]["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    replace(copy, "sample.ply", change((GOLDEN / "sample.ply").read_bytes()))
    assert parity(copy)[0] == 1


@pytest.mark.parametrize("spoiled", ["image0_in.png", "image0_out.png", "image1_out.png"])
def test_a_spoiled_pixel_is_noticed(parity, copy: Path, spoiled: str) -> None:
    stem = spoiled[:6]
    keep_only(copy, f"{stem}_in.png", f"{stem}_out.png")
    image = Image.open(GOLDEN / spoiled)
    spot = (image.width // 2, image.height // 2)
    red, *rest = image.getpixel(spot)
    image.putpixel(spot, ((red + 1) % 256 if "out" in spoiled else (red + 128) % 256, *rest))
    (copy / spoiled).unlink()
    image.save(copy / spoiled)
    code, _, summary = parity(copy)
    assert code == 1
    assert f"{stem}_in.png: picture" in summary["failed"]


@pytest.mark.parametrize(
    ("files", "change", "failed"),
    [
        (["ss_sampler.npz"], lambda m: m["ss_sampler_params"].update(cfg_strength=9.01), "ss_sampler.npz: samples"),
        (
            ["ss_sampler.npz"],
            lambda m: m["ss_sampler_params"].update(cfg_interval=[0.5, 0.95]),
            "ss_sampler.npz: samples",
        ),
        (["slat_sampler.npz"], lambda m: m["slat_sampler_params"].update(rescale_t=2.5), "slat_sampler.npz: samples"),
        (["ss_sampler.npz"], lambda m: m["ss_sampler_calls_t1000_isuncond"].pop(), "ss_sampler.npz: calls"),
        (
            ["ss_sampler_other.npz"],
            lambda m: m["ss_sampler_cfg_params"].update(steps=5),
            "ss_sampler_other.npz: samples_cfg",
        ),
        (
            [],
            lambda m: m["cfg_schedule_rescale3_G_is_guided"].update({"12_0.5_1.0": "GGGGGGGGG..."}),
            "manifest: cfg_schedule_rescale3_G_is_guided 12_0.5_1.0",
        ),
        (
            ["sample.ply", "slat_dec_gs_forward.npz"],
            lambda m: m["files"]["sample.ply"].update(sha256="0" * 64),
            "sample.ply: sha256",
        ),
        (
            ["image1_in.png", "image1_out.png"],
            lambda m: m["files"]["image1_out.png"].update(sha256_pixels="0" * 64),
            "image1_out.png: sha256_pixels",
        ),
        (
            ["ss_flow_txt_forward.npz"],
            lambda m: m["models"]["ss_flow_txt"]["args"].update(num_heads=4),
            "ss_flow_txt_forward.npz",
        ),
        (
            ["slat_dec_gs_forward.npz"],
            lambda m: m["models"]["slat_dec_gs"]["args"].update(window_size=16),
            "slat_dec_gs_forward.npz: net_out",
        ),
    ],
)
def test_a_spoiled_manifest_is_noticed(
    parity, copy: Path, files: list[str], change: Callable[[dict[str, Any]], object], failed: str
) -> None:
    keep_only(copy, *files)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    replace(copy, "manifest.json", json.dumps(manifest).encode())
    code, _, summary = parity(copy)
    assert code == 1
    assert any(name.startswith(failed) for name in summary["failed"])


@pytest.mark.parametrize("file", ["ss_sampler.npz", "ss_dec.safetensors", "image0_out.png", "sample.ply"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_file_fails_and_the_others_are_compared(parity, copy: Path, file: str, damage: str) -> None:
    keep_only(
        copy,
        "ss_sampler.npz",
        "ss_dec_forward.npz",
        "image0_in.png",
        "sample.ply",
        "slat_dec_gs_forward.npz",
        "units.npz",
    )
    data = (GOLDEN / file).read_bytes()
    (copy / file).unlink()
    if damage != "missing":
        (copy / file).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    code, lines, summary = parity(copy)
    assert code == 1
    assert summary["failed"]
    assert "units.npz: conv_out" in "\n".join(lines)
    assert not any(name.startswith(("units", "slat_dec_gs")) for name in summary["failed"])
