"""Which way up a result is where it goes: hat on top and nose in front for validators, upstream's axes for people."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import Container, Splats, UpAxis, normalise, orbit, ply, render, spz
from pipeline.backends.upstream import gaussian_to_splats
from pipeline.trellis.gaussians import GaussianConfig, RawGaussians, offset_perturbation, to_gaussians, to_splats
from pipeline.trellis.voxels import VoxelGrid
from tests.support.cli import run

GREY, RED, GREEN = (0.0, 0.0, 0.0), (1.7, -1.7, -1.7), (-1.7, 1.7, -1.7)
CONFIG = GaussianConfig(
    num_gaussians=4,
    voxel_size=1.5,
    perturb_offset=True,
    kernel_size_3d=0.0009,
    scaling_bias=0.006,
    opacity_bias=0.9,
    lr=dict.fromkeys(("_xyz", "_features_dc", "_scaling", "_rotation", "_opacity"), 1.0),
)


def box(x: tuple[int, int], y: tuple[int, int], z: tuple[int, int]) -> torch.Tensor:
    """The voxels [N, 3] with x, y and z in ranges, in TRELLIS's space: z up, the front at -y."""
    axes = [torch.arange(*bounds) for bounds in (x, y, z)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)


def figure() -> RawGaussians:
    """A grey body with a red hat on top and a green nose in front."""
    parts = (
        (box((24, 40), (24, 40), (20, 40)), GREY),
        (box((28, 36), (28, 36), (40, 50)), RED),
        (box((30, 34), (16, 24), (28, 34)), GREEN),
    )
    voxels = torch.cat([voxels for voxels, _ in parts])
    colours = torch.cat([torch.tensor([colour]).expand(len(voxels), 3) for voxels, colour in parts])
    raw = torch.zeros(len(voxels), 14 * CONFIG.num_gaussians)
    raw[:, 12:24] = colours.repeat(1, CONFIG.num_gaussians)
    coordinates = torch.cat([torch.zeros(len(voxels), 1, dtype=torch.long), voxels], dim=1)
    return to_gaussians(raw, VoxelGrid(coordinates), 64, offset_perturbation(CONFIG), CONFIG)


def native() -> Splats:
    return to_splats(figure())


def upstream() -> Splats:
    raw = figure()
    return gaussian_to_splats(
        SimpleNamespace(
            get_xyz=raw.positions,
            get_rotation=raw.quaternions,
            get_scaling=raw.scales,
            get_opacity=raw.opacities[:, None],
            _features_dc=raw.features_dc[:, None],
        )
    )


def coloured(picture: torch.Tensor, channel: int) -> torch.Tensor:
    """Rows and columns [N, 2] of the pixels in which one channel is far brighter than the others."""
    others = [picture[..., other] for other in range(3) if other != channel]
    return (picture[..., channel] > torch.maximum(*others) + 0.4).nonzero().float()


def assert_upright_from_the_front(splats: Splats) -> None:
    front, back = render(normalise(splats, 1.5), orbit((0, 180), size=96))
    hat, nose = coloured(front, 0), coloured(front, 1)
    covered = (front.min(dim=-1).values < 0.95).nonzero().float()
    assert len(hat) > 50
    assert len(nose) > 50
    assert hat[:, 0].mean() < covered[:, 0].mean() - 10, "the hat is not on top"
    assert abs(float(nose[:, 1].mean()) - 47.5) < 1
    assert len(coloured(back, 1)) == 0, "the nose is not in front"


@pytest.mark.parametrize("backend", [native, upstream])
@pytest.mark.parametrize("extent", [None, 1.5])
def test_what_validators_get_stands_upright_with_its_front_to_the_camera(
    backend: Callable[[], Splats], extent: float | None
) -> None:
    packed = Container(extent=extent).pack(backend())
    assert_upright_from_the_front(spz.from_bytes(packed.data))
    assert_upright_from_the_front(packed.splats)


def test_files_for_people_have_the_upper_side_at_minus_y_and_the_front_at_minus_z() -> None:
    packed = Container("ply", "-y").pack(native())
    means, colours = ply.from_bytes(packed.data).means, ply.from_bytes(packed.data).f_dc
    assert torch.equal(means, native().means)
    hat, nose = colours[:, 0] > 1, colours[:, 1] > 1
    assert means[hat, 1].max() < means[~hat, 1].min()
    assert means[nose, 2].max() < means[~nose, 2].min()
    # What the miner itself draws and scores is upright in any case.
    assert_upright_from_the_front(packed.splats)


@pytest.mark.parametrize("up", ["y", "-y"])
def test_the_demo_s_duck_looks_to_the_right_from_azimuth_0(tmp_path: Path, up: UpAxis) -> None:
    duck, picture = tmp_path / "duck.ply", tmp_path / "duck.png"
    assert run("generate", "a yellow duck", "--phase", "demo", "--seed", "1", "--up", up, "-o", duck).exit_code == 0
    assert run("splats", "render", duck, "--up", up, "--views", "1", "--size", "96", "-o", picture).exit_code == 0
    with Image.open(picture) as drawn:
        rows, columns = np.nonzero(np.asarray(drawn.convert("RGB")).min(axis=2) < 230)
    assert columns[rows < rows.min() + 5].mean() > columns.mean() + 5, "the head is not at the upper right"
