"""The rasteriser against a loop over pixels and against gsplat."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.rendering.cameras import Camera, orbit
from pipeline.rendering.rasterizer import rasterize
from pipeline.rendering.torch_rasterizer import composite_views
from pipeline.splats.splats import Splats
from tests.support.paths import DATA
from tests.support.splat_clouds import random_cloud

SH_C0 = 0.28209479177387814
FIELDS = ("means", "quaternions", "log_scales", "opacity_logits", "f_dc")

Array = NDArray[np.float64]


def odd_camera() -> Camera:
    """Not square, the principal point off the middle, rolled and not looking at the origin."""
    (camera,) = orbit([33], -25, radius=1.4)
    roll = torch.eye(4)
    roll[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    roll[:3, 3] = torch.tensor([0.1, -0.05, 0.02])
    return Camera(roll @ camera.world_to_camera, 30.0, (17.3, 9.1), 37, 22)


def arrays(splats: Splats) -> dict[str, Array]:
    return {field: getattr(splats, field).detach().double().numpy() for field in FIELDS}


def reference(values: dict[str, Array], camera: Camera, background: Array) -> Array:
    """Every pixel and every gaussian in a plain loop, in double precision: rgb and alpha [H, W, 4]."""
    view = camera.world_to_camera.double().numpy()
    (cx, cy), focal = camera.principal_point, camera.focal
    drawn = []
    for mean, quaternion, log_scale, logit, f_dc in zip(*(values[field] for field in FIELDS), strict=True):
        x, y, z = view[:3, :3] @ mean + view[:3, 3]
        if not camera.near <= z <= camera.far:
            continue
        w, i, j, k = quaternion / np.linalg.norm(quaternion)
        cross = np.array([[0, -k, j], [k, 0, -i], [-j, i, 0]])
        rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
        covariance = rotation @ np.diag(np.exp(2 * log_scale)) @ rotation.T
        margin_x, margin_y = 0.15 * camera.width / focal, 0.15 * camera.height / focal
        tx = z * min(max(x / z, -cx / focal - margin_x), (camera.width - cx) / focal + margin_x)
        ty = z * min(max(y / z, -cy / focal - margin_y), (camera.height - cy) / focal + margin_y)
        jacobian = np.array([[focal / z, 0, -focal * tx / z**2], [0, focal / z, -focal * ty / z**2]])
        flat = jacobian @ view[:3, :3] @ covariance @ view[:3, :3].T @ jacobian.T + 0.3 * np.eye(2)
        centre = np.array([focal * x / z + cx, focal * y / z + cy])
        colour = np.maximum(0.5 + SH_C0 * f_dc, 0)
        drawn.append((z, centre, np.linalg.inv(flat), 1 / (1 + np.exp(-logit)), colour))
    drawn.sort(key=lambda gaussian: gaussian[0])
    picture = np.zeros((camera.height, camera.width, 4))
    for row in range(camera.height):
        for column in range(camera.width):
            through, colour = 1.0, np.zeros(3)
            for _, (u, v), conic, opacity, rgb in drawn:
                dx, dy = column + 0.5 - u, row + 0.5 - v
                power = (conic[0, 0] * dx * dx + conic[1, 1] * dy * dy) / 2 + conic[0, 1] * dx * dy
                alpha = min(0.999, opacity * math.exp(-power))
                if alpha < 1 / 255:
                    continue
                if through * (1 - alpha) <= 1e-4:
                    break
                colour = colour + through * alpha * rgb
                through *= 1 - alpha
            picture[row, column, :3] = colour + through * background
            picture[row, column, 3] = 1 - through
    return picture


def assert_like_reference(splats: Splats, camera: Camera, tolerance: float = 2e-5) -> None:
    background = (0.9, 0.5, 0.1)
    rendering = rasterize(splats, [camera], background=background)
    expected = reference(arrays(splats), camera, np.array(background))
    found = torch.cat([rendering.rgb[0], rendering.alpha[0, ..., None]], dim=-1).double().numpy()
    assert np.abs(expected[..., 3]).max() > 0.1
    assert np.abs(found - expected).max() < tolerance


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop_over_pixels(seed: int) -> None:
    assert_like_reference(random_cloud(40, seed), odd_camera())


def test_equals_gsplat_with_its_gradients() -> None:
    """The picture and derivatives that gsplat 1.5.3 itself computed (tests/data/rendering/README.md)."""
    with np.load(DATA / "rendering" / "gsplat_rendering.npz") as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    leaves = {field: data[field].requires_grad_() for field in FIELDS}
    pictures = []
    for matrix, (focal, cx, cy, width, height, near, far) in zip(
        data["world_to_camera"], data["intrinsics"].tolist(), strict=True
    ):
        camera = Camera(matrix, focal, (cx, cy), int(width), int(height), near, far)
        rendering = rasterize(Splats(**leaves), [camera], background=(0, 0, 0))
        pictures.append(torch.cat([rendering.rgb[0], rendering.alpha[0, ..., None]], dim=-1))
    picture = torch.stack(pictures)
    assert data["picture"][..., 3].amax((1, 2)).min() > 0.9
    assert (picture - data["picture"]).abs().max() < 2e-5
    (picture * data["weights"]).sum().backward()
    for field, leaf in leaves.items():
        assert leaf.grad is not None
        expected = data[f"gradient_{field}"]
        assert (leaf.grad - expected).norm() < 1e-3 * expected.norm(), field


def test_equals_the_loop_with_small_gaussians() -> None:
    (camera,) = orbit([120], size=32)
    assert_like_reference(random_cloud(50, 3, scales=(0.002, 0.02)), camera)


def test_equals_the_loop_with_needles_and_plates() -> None:
    needles = random_cloud(30, 4)
    shape = torch.tensor([[3.0, -7.0, -7.0], [-1.0, -1.0, -8.0]]).repeat(15, 1)
    assert_like_reference(dataclasses.replace(needles, log_scales=shape), odd_camera())


def test_equals_the_loop_where_pixels_become_opaque() -> None:
    splats = random_cloud(50, 5, scales=(0.1, 0.5), opacities=(0.9, 0.9999))
    camera = odd_camera()
    assert_like_reference(splats, camera)
    # Without a stop at 1e-4, fifty such layers would leave nothing of the background.
    left = 1 - rasterize(splats, [camera]).alpha
    assert left.min() > 9e-5


def test_equals_the_loop_close_to_the_camera_and_beside_the_picture() -> None:
    camera = dataclasses.replace(odd_camera(), near=0.9, far=1.6)
    splats = random_cloud(50, 6, scales=(0.05, 0.3))
    assert_like_reference(dataclasses.replace(splats, means=splats.means * 2.5), camera)


def test_gradients_are_those_of_the_loop() -> None:
    camera = Camera(orbit([20], radius=1.5)[0].world_to_camera, 14.0, (6.2, 5.1), 12, 10)
    splats = random_cloud(6, 12, scales=(0.05, 0.3), opacities=(0.3, 0.9))
    background = (0.2, 0.4, 0.6)
    weights = torch.randn(10, 12, 4, generator=torch.Generator().manual_seed(13))
    leaves = {field: getattr(splats, field).clone().requires_grad_() for field in FIELDS}
    (premultiplied,) = composite_views(Splats(**leaves), [camera], block_size=128)
    rgb, alpha = premultiplied.split([3, 1], dim=-1)
    picture = torch.cat([rgb + (1 - alpha) * torch.tensor(background), alpha], dim=-1)
    (picture * weights).sum().backward()

    def loss(values: dict[str, Array]) -> float:
        return float((reference(values, camera, np.array(background)) * weights.double().numpy()).sum())

    values = arrays(splats)
    step = 1e-5
    for field in FIELDS:
        gradient = leaves[field].grad
        assert gradient is not None
        expected = np.zeros_like(values[field])
        for place in np.ndindex(expected.shape):
            kept = values[field][place]
            values[field][place] = kept + step
            above = loss(values)
            values[field][place] = kept - step
            expected[place] = (above - loss(values)) / (2 * step)
            values[field][place] = kept
        assert np.abs(expected).max() > 1e-2
        assert np.abs(gradient.numpy() - expected).max() < 1e-3 * np.abs(expected).max()
