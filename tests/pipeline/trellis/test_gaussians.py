import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import ply
from pipeline.splats.splats import Splats
from pipeline.trellis.gaussians import (
    GaussianConfig,
    RawGaussians,
    hammersley,
    offset_perturbation,
    radical_inverse,
    to_gaussians,
    to_splats,
)
from pipeline.trellis.voxels import VoxelGrid
from tests.support.paths import DATA

GOLDEN = DATA / "trellis"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
JSON_CONFIG = MANIFEST["models"]["slat_dec_gs"]["args"]["representation_config"]
CONFIG = GaussianConfig.from_json(JSON_CONFIG)


def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def gaussians_of(raw: Tensor, coords: Tensor, config: GaussianConfig = CONFIG) -> RawGaussians:
    return to_gaussians(raw, VoxelGrid(coords), 64, offset_perturbation(config), config)


@pytest.fixture(scope="module")
def upstream() -> tuple[dict[str, Tensor], RawGaussians]:
    """Golden arrays, and our gaussians of the golden network output."""
    g = golden("slat_dec_gs_forward")
    return g, gaussians_of(g["net_out"], g["coords"])


def one_gaussian(rotation: list[float], opacity: float = 0.0) -> Splats:
    return to_splats(
        RawGaussians(
            xyz=torch.tensor([[0.75, 0.625, 0.25]]),
            features_dc=torch.tensor([[1.0, 2.0, 3.0]]),
            scaling=torch.zeros(1, 3),
            rotation=torch.tensor([rotation]),
            opacity=torch.tensor([opacity]),
            config=CONFIG,
        )
    )


def rotation_matrix(q: Tensor) -> Tensor:
    """[4] w first -> [3, 3]."""
    w, x, y, z = (q.double() / q.double().norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("xyz_raw", lambda g: g.xyz),
        ("features_dc_raw", lambda g: g.features_dc[:, None]),
        ("scaling_raw", lambda g: g.scaling),
        ("rotation_raw", lambda g: g.rotation),
        ("opacity_raw", lambda g: g.opacity[:, None]),
        ("get_xyz", lambda g: g.positions),
        ("get_scaling", lambda g: g.scales),
        ("get_rotation", lambda g: g.quaternions),
        ("get_opacity", lambda g: g.opacities[:, None]),
    ],
)
def test_attributes_are_upstream_s(upstream, name: str, ours) -> None:
    g, gaussians = upstream
    value = ours(gaussians)[: len(g[name])]
    assert value.shape == g[name].shape
    assert value.dtype == torch.float32
    assert float((value - g[name]).abs().max() / g[name].abs().max()) < 1e-6


def test_the_ply_file_is_upstream_s(upstream) -> None:
    data = (GOLDEN / "sample.ply").read_bytes()
    ours = ply.to_bytes(to_splats(upstream[1]))
    header, _, body = data.partition(b"end_header\n")
    our_header, _, our_body = ours.partition(b"end_header\n")
    assert our_header == header
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property")]
    expected, table = (np.frombuffer(b, "<f4").reshape(-1, len(names)) for b in (body, our_body))
    for column, name in enumerate(names):
        # Upstream's rotations lose digits in float32 matrices.
        bound = 2e-4 if name.startswith("rot_") else 1e-6
        largest = np.abs(expected[:, column]).max() or 1.0
        assert np.abs(table[:, column] - expected[:, column]).max() / largest < bound, name


@pytest.mark.parametrize(
    ("index", "base", "value"),
    [(0, 2, 0.0), (1, 2, 0.5), (2, 2, 0.25), (3, 2, 0.75), (6, 2, 0.375), (1, 3, 1 / 3), (5, 3, 2 / 3 + 1 / 9)],
)
def test_radical_inverse(index: int, base: int, value: float) -> None:
    assert radical_inverse(index, base) == pytest.approx(value, abs=1e-15)


def test_offsets_are_upstream_s_and_spread_over_the_voxel() -> None:
    offsets = offset_perturbation(CONFIG)
    assert torch.allclose(offsets, golden("slat_dec_gs_forward")["offset_perturbation"], atol=1e-6)
    assert torch.allclose(hammersley(32), golden("units")["hammersley32"], atol=1e-15)
    assert torch.allclose(offsets[0], torch.full((3,), math.atanh(-2 / 3)), atol=1e-6)
    assert torch.equal(offset_perturbation(replace(CONFIG, perturb_offset=False)), torch.zeros(32, 3))


def test_a_raw_output_of_zero_gives_what_the_biases_say() -> None:
    gaussians = gaussians_of(torch.zeros(1, 448), torch.tensor([[0, 10, 20, 63]]))
    assert torch.allclose(gaussians.opacities, torch.full((32,), 0.1), atol=1e-7)
    assert torch.allclose(gaussians.scales, torch.full((32, 3), math.hypot(0.004, 9e-4)), rtol=1e-5)
    assert torch.equal(gaussians.quaternions, torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(32, 4))
    # Where the perturbation alone puts them: the points of the sequence, half a voxel around the centre.
    centre = (torch.tensor([10.5, 20.5, 63.5])) / 64 - 0.5
    expected = centre + (hammersley(32).float() - 0.5) / 64
    assert torch.allclose(gaussians.positions, expected, atol=1e-6)


def test_offsets_never_exceed_three_quarters_of_a_voxel() -> None:
    raw = torch.zeros(2, 448)
    raw[0, :96], raw[1, :96] = 1e4, -1e4
    gaussians = gaussians_of(raw, torch.tensor([[0, 0, 0, 0], [0, 63, 63, 63]]))
    positions = gaussians.positions.unflatten(0, (2, 32))
    assert torch.allclose(positions[0], torch.full((32, 3), (0.5 + 0.75) / 64 - 0.5))
    assert torch.allclose(positions[1], torch.full((32, 3), (63.5 - 0.75) / 64 - 0.5))


def test_scales_never_fall_below_the_kernel_size() -> None:
    raw = torch.full((1, 448), -1e4)
    scales = gaussians_of(raw, torch.zeros(1, 4)).scales
    assert torch.allclose(scales, torch.full((32, 3), 9e-4))


def test_rows_are_voxel_major_and_channels_grouped_by_attribute() -> None:
    config = replace(CONFIG, num_gaussians=2, perturb_offset=False)
    raw = torch.arange(2 * 28, dtype=torch.float32).reshape(2, 28)
    gaussians = gaussians_of(raw, torch.zeros(2, 4, dtype=torch.int64), config)
    assert gaussians.features_dc.tolist() == [[6, 7, 8], [9, 10, 11], [34, 35, 36], [37, 38, 39]]
    assert gaussians.scaling.tolist() == [[12, 13, 14], [15, 16, 17], [40, 41, 42], [43, 44, 45]]
    expected = torch.tensor([[18.0, 19, 20, 21], [22, 23, 24, 25], [46, 47, 48, 49], [50, 51, 52, 53]])
    assert torch.allclose(gaussians.rotation, 0.1 * expected)
    assert gaussians.opacity.tolist() == [26, 27, 54, 55]


@pytest.mark.parametrize(
    "rotation",
    [
        [0.0, 0.0, 0.0, 0.0],
        [0.3, -0.5, 0.2, 0.9],
        [-2.5, 0.1, 0.4, -0.3],
        [-1.0, 0.0, 0.0, 1.0],
        [-1.0, -3.0, 0.1, 0.2],
    ],
)
def test_the_export_turns_position_and_rotation_alike(rotation: list[float]) -> None:
    splats = one_gaussian(rotation)
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    raw = torch.tensor(rotation) + torch.tensor([1.0, 0.0, 0.0, 0.0])
    q = splats.quaternions[0]
    assert torch.allclose(rotation_matrix(q), turn @ rotation_matrix(raw), atol=1e-6)
    assert float(q.norm()) == pytest.approx(1, abs=1e-6)
    assert float(q[q.abs().argmax()]) > 0
    assert splats.means.tolist() == [[0.25, 0.25, 0.125]]
    assert splats.f_dc.tolist() == [[1.0, 2.0, 3.0]]


def test_opacity_is_a_logit_and_infinite_where_it_rounds_to_one() -> None:
    assert one_gaussian([0.0] * 4, 3.0).opacity_logits.item() == pytest.approx(3 + math.log(0.1 / 0.9), abs=1e-5)
    assert one_gaussian([0.0] * 4, 40.0).opacity_logits.item() == math.inf


@pytest.mark.parametrize("missing", [key for key in JSON_CONFIG if key != "2d_filter_kernel_size"])
def test_a_missing_key_is_named(missing: str) -> None:
    config = {key: value for key, value in JSON_CONFIG.items() if key != missing}
    with pytest.raises(ValueError, match=f"representation_config lacks '{missing}'"):
        GaussianConfig.from_json(config)


def test_a_missing_learning_rate_is_named() -> None:
    with pytest.raises(ValueError, match="representation_config lacks '_rotation'"):
        GaussianConfig.from_json(
            {**JSON_CONFIG, "lr": {k: v for k, v in JSON_CONFIG["lr"].items() if k != "_rotation"}}
        )


def test_another_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="scaling_activation 'exp' is not supported"):
        GaussianConfig.from_json({**JSON_CONFIG, "scaling_activation": "exp"})
