"""The rasterizer in Triton against the one in torch, on a GPU or in Triton's interpreter."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.rendering import torch_rasterizer, triton_rasterizer
from pipeline.rendering.cameras import Camera, orbit, validator_cameras
from pipeline.rendering.rasterizer import rasterize, render
from pipeline.rendering.triton_rasterizer import composite_views
from pipeline.splats.splats import Splats
from tests.support.paths import DATA
from tests.support.splat_clouds import random_cloud

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# A gaussian whose alpha is 1/255 up to rounding may be drawn by one and not by the other.
ONE_LEVEL = 1 / 255 + 1e-5


def odd_camera() -> Camera:
    """Not square, and the principal point off the middle."""
    return Camera(orbit([33], -25, radius=1.4)[0].world_to_camera, 30.0, (17.3, 9.1), 37, 22)


def assert_same(splats: Splats, cameras: Sequence[Camera], tolerance: float = ONE_LEVEL) -> None:
    expected = torch_rasterizer.composite_views(splats, cameras).clamp(0, 1)
    found = composite_views(splats, cameras)
    assert found.shape == expected.shape
    assert bool(found.isfinite().all())
    difference = float((found.clamp(0, 1) - expected).abs().max())
    assert difference <= tolerance, f"off by {255 * difference:.3f} of 255"


def test_equals_gsplat(device: torch.device) -> None:
    """The pictures that gsplat 1.5.3 itself computed (tests/data/rendering/README.md)."""
    with np.load(DATA / "rendering" / "gsplat_rendering.npz") as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    fields = ("means", "quaternions", "log_scales", "opacity_logits", "f_dc")
    splats = Splats(*(data[field] for field in fields)).to(device)
    for matrix, intrinsics, expected in zip(
        data["world_to_camera"], data["intrinsics"].tolist(), data["picture"], strict=True
    ):
        focal, cx, cy, width, height, near, far = intrinsics
        camera = Camera(matrix, focal, (cx, cy), int(width), int(height), near, far)
        difference = float((composite_views(splats, [camera])[0].cpu() - expected).abs().max())
        assert difference <= 2e-5, f"off by {difference:.2e}"


def flat(splats: Splats, log_scales: list[float]) -> Splats:
    return dataclasses.replace(splats, log_scales=torch.tensor([log_scales]).expand(len(splats), 3).to(splats.device))


@pytest.mark.parametrize(
    "splats",
    [
        random_cloud(40, 1),
        random_cloud(1, 2),
        random_cloud(0, 3),
        random_cloud(30, 4, scales=(0.5, 3.0), opacities=(0.9, 0.9999)),
        random_cloud(30, 5, opacities=(0.001, 0.02)),
        random_cloud(40, 6, extent=4.0),
        flat(random_cloud(30, 7), [1.0, -7.0, -7.0]),
        flat(random_cloud(30, 8), [-1.0, -1.0, -8.0]),
    ],
    ids=["cloud", "one", "none", "opaque", "transparent", "around the camera", "needles", "plates"],
)
def test_equals_the_rasterizer_in_torch(splats: Splats, device: torch.device) -> None:
    assert_same(splats.to(device), [odd_camera()], 2e-5)


def test_views_have_cameras_of_their_own(device: torch.device) -> None:
    near, far = orbit([0, 120], size=24)
    cameras = [dataclasses.replace(near, far=2.5), dataclasses.replace(far, focal=40.0, near=2.3)]
    assert_same(random_cloud(40, 9).to(device), cameras, 2e-5)


def test_groups_of_views_do_not_show(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    splats, cameras = random_cloud(30, 10).to(device), orbit([0, 50, 100, 150], size=20)
    whole = composite_views(splats, cameras)
    for gaussians, pairs in ((61, 1 << 24), (1, 1), (1000, 100)):
        monkeypatch.setattr(triton_rasterizer, "GAUSSIANS_AT_ONCE", gaussians)
        monkeypatch.setattr(triton_rasterizer, "PAIRS_AT_ONCE", pairs)
        assert torch.equal(composite_views(splats, cameras), whole)


def test_gaussians_of_one_depth_are_drawn_in_their_order(device: torch.device) -> None:
    splats = random_cloud(30, 11, scales=(0.1, 0.3))
    in_a_plane = dataclasses.replace(splats, means=splats.means * torch.tensor([1.0, 1.0, 0.0]))
    assert_same(in_a_plane.to(device), orbit([0], 0, size=24), 2e-5)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["means", "quaternions", "log_scales", "opacity_logits", "f_dc"])
def test_a_gaussian_that_is_not_finite_is_not_drawn(field: str, value: float, device: torch.device) -> None:
    broken = random_cloud(6, 12)
    getattr(broken, field)[1:] = value
    assert_same(broken.to(device), orbit([20], size=16), 2e-5)


def test_tensors_need_not_be_contiguous(device: torch.device) -> None:
    splats = random_cloud(20, 13).to(device)
    strided = Splats(*(torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in splats.tensors().values()))
    cameras = orbit([20], size=16)
    assert torch.equal(composite_views(strided, cameras), composite_views(splats, cameras))


def extreme_cloud(seed: int) -> Splats:
    """Return one gaussian or up to 100,000, huge or thin or transparent, some behind and around the camera."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*values: float) -> float:
        return values[int(torch.randint(len(values), (), generator=generator))]

    number = int(pick(1, 10, 1000, 20_000, 100_000))
    smallest, largest = sorted((pick(1e-5, 1e-3, 1e-2), pick(1e-3, 1e-2, 0.1, *([3.0] if number <= 1000 else []))))
    lowest, highest = pick((0.0, 0.01), (0.0, 1.0), (0.5, 0.999), (0.99, 1.0))
    cloud = random_cloud(
        number, seed, scales=(smallest, largest), opacities=(lowest, highest), extent=pick(0.1, 1.0, 6.0)
    )
    # Colours in 0..1: one level of alpha is no more than one of colour.
    return dataclasses.replace(cloud, f_dc=cloud.f_dc.clamp(-4, 4) * 0.44)


@cuda
@pytest.mark.parametrize("seed", range(50))
def test_fifty_clouds(seed: int, device: torch.device) -> None:
    size = (64, 200, 518)[seed % 3]
    assert_same(extreme_cloud(seed).to(device), orbit([seed, seed + 100], size=size))


@cuda
def test_bits_repeat_and_views_are_independent(device: torch.device) -> None:
    splats, cameras = random_cloud(50_000, 15, scales=(0.002, 0.02)).to(device), validator_cameras()
    pictures = composite_views(splats, cameras)
    assert torch.equal(pictures, composite_views(splats, cameras))
    for camera, picture in zip(cameras, pictures, strict=True):
        assert torch.equal(picture, composite_views(splats, [camera])[0])


@cuda
def test_the_host_waits_once_for_all_views(device: torch.device) -> None:
    splats, cameras = random_cloud(1000, 17).to(device), orbit(range(0, 360, 24), size=64)
    render(splats, cameras)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            render(splats, cameras)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sum("called a synchronizing CUDA operation" in str(warning.message) for warning in noted) == 1


@cuda
def test_it_is_chosen_where_no_gradients_are_needed(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def spy(splats: Splats, cameras: Sequence[Camera]) -> torch.Tensor:
        drawn.append(len(cameras))
        return composite_views(splats, cameras)

    monkeypatch.setattr(triton_rasterizer, "composite_views", spy)
    splats, cameras = random_cloud(100, 16).to(device), orbit([0, 90], size=32)
    picture = render(splats, cameras)
    assert drawn == [2]
    leaf = splats.means.clone().requires_grad_()
    differentiable = dataclasses.replace(splats, means=leaf)
    assert torch.allclose(render(differentiable, cameras), picture, atol=2e-5)
    assert drawn == [2]
    rasterize(differentiable, cameras).rgb.sum().backward()
    assert leaf.grad is not None
    with torch.no_grad():
        assert torch.equal(render(differentiable, cameras), picture)
    assert drawn == [2, 2]
