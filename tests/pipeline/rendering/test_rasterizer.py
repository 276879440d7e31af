import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.rendering.cameras import Camera, orbit
from pipeline.rendering.rasterizer import rasterize, render
from pipeline.rendering.torch_rasterizer import composite_views
from pipeline.splats.splats import Splats
from tests.support.paths import DATA
from tests.support.splat_clouds import random_cloud

Array = NDArray[np.float64]
SH_C0 = 0.28209479177387814
FIELDS = ("means", "quaternions", "log_scales", "opacity_logits", "f_dc")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures this small gain nothing from threads, and on a busy machine these wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ball(
    position: tuple[float, float, float],
    colour: tuple[float, float, float],
    *,
    scale: float = 0.05,
    opacity: float = 0.95,
) -> Splats:
    return Splats(
        means=torch.tensor([position], dtype=torch.float32),
        quaternions=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.full((1, 3), math.log(scale)),
        opacity_logits=torch.logit(torch.tensor([opacity])),
        f_dc=(torch.tensor([colour], dtype=torch.float32) - 0.5) / SH_C0,
    )


def together(*clouds: Splats) -> Splats:
    return Splats(*(torch.cat([getattr(splats, field) for splats in clouds]) for field in FIELDS))


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


def test_isotropic_gaussian_has_the_analytic_footprint() -> None:
    (camera,) = orbit([0], 0, size=65)
    opacity, scale = 0.8, 0.1
    picture = render(ball((0, 0, 0), (1, 0.5, 0), scale=scale, opacity=opacity), [camera])[0]
    variance = (camera.focal * scale / 2.5) ** 2 + 0.3
    distance = torch.arange(65) - 32
    squared = distance[:, None] ** 2 + distance[None, :] ** 2
    alpha = opacity * torch.exp(-squared / (2 * variance))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    expected = alpha[..., None] * torch.tensor([1, 0.5, 0]) + (1 - alpha[..., None])
    assert (alpha == 0).any()
    assert torch.allclose(picture, expected, atol=1e-5)


def test_covariance_turns_with_the_quaternion() -> None:
    (camera,) = orbit([0], 0, size=33)
    long_x = dataclasses.replace(ball((0, 0, 0), (0, 0, 0)), log_scales=torch.tensor([[0.3, 0.01, 0.01]]).log())
    turned = dataclasses.replace(
        long_x, quaternions=torch.tensor([[3 * math.cos(math.pi / 8), 0, 0, 3 * math.sin(math.pi / 8)]])
    )
    alpha = rasterize(turned, [camera]).alpha[0]
    # 45 degrees from +x towards +y is up and to the right: row falls as column grows.
    assert alpha[16 - 4, 16 + 4] > 0.3
    assert alpha[16 + 4, 16 - 4] > 0.3
    assert alpha[16 + 4, 16 + 4] == 0
    assert rasterize(long_x, [camera]).alpha[0, 16, 16 + 6] > 0.3


def brightest(picture: Tensor, channel: int) -> tuple[int, int]:
    """Row and column of the pixel that is most of one colour."""
    strength = picture[..., channel] - picture.sum(-1) / 3
    place = int(strength.argmax())
    return place // picture.shape[1], place % picture.shape[1]


def test_axes_on_the_screen() -> None:
    red_right = ball((0.5, 0, 0), (1, 0, 0))
    green_top = ball((0, 0.5, 0), (0, 1, 0))
    blue_front = ball((0, 0, 0.5), (0, 0, 1))
    splats = together(red_right, green_top, blue_front)
    front, right, back = render(splats, orbit([0, 90, 180], 0, size=64))
    for picture in (front, right, back):
        row, column = brightest(picture, 1)
        assert row < 24
        assert 30 <= column <= 33
    assert brightest(front, 0)[1] > 40
    assert brightest(back, 0)[1] < 24
    assert brightest(right, 2)[1] < 24
    assert 30 <= brightest(front, 2)[1] <= 33


def test_nearer_hides_farther_whatever_the_order() -> None:
    near = ball((0, 0, 0.5), (1, 0, 0), scale=0.2, opacity=0.99)
    far = ball((0, 0, -0.5), (0, 0, 1), scale=0.2, opacity=0.99)
    for splats in (together(near, far), together(far, near)):
        front, back = render(splats, orbit([0, 180], 0, size=33))
        assert front[16, 16, 0] > 0.95
        assert front[16, 16, 2] < 0.05
        assert back[16, 16, 2] > 0.95
        assert back[16, 16, 0] < 0.05


def test_low_pass_gives_a_point_its_energy() -> None:
    for shift in (0.0, 0.0017, 0.0031):
        point = ball((shift, -shift, 0), (0, 0, 0), scale=1e-7, opacity=0.9)
        alpha = rasterize(point, orbit([0], 0, size=64)).alpha
        # The integral of o * exp(-r^2 / 0.6) above the level 1/255.
        assert alpha.sum().item() == pytest.approx(2 * math.pi * 0.3 * (0.9 - 1 / 255), rel=0.03)


def test_alpha_of_one_gaussian_stays_below_one() -> None:
    solid = dataclasses.replace(ball((0, 0, 0), (0, 0, 0), scale=1.0), opacity_logits=torch.tensor([50.0]))
    assert rasterize(solid, orbit([0], size=9)).alpha[0, 4, 4].item() == pytest.approx(0.999)


def test_nothing_to_see_is_background() -> None:
    (camera,) = orbit([0], 0, size=20)
    background = (0.25, 0.5, 0.75)
    unseen = [
        random_cloud(0, 0),
        ball((0, 0, 2.6), (0, 0, 0)),  # behind the camera
        ball((0, 0, 2.495), (0, 0, 0), scale=1.0),  # nearer than `near`
        ball((0, 0, -98), (0, 0, 0), scale=10.0),  # farther than `far`
        ball((3, 0, 0), (0, 0, 0)),  # beside the picture
        ball((0, 0, 0), (0, 0, 0), opacity=1 / 256),
    ]
    for splats in unseen:
        rendering = rasterize(splats, [camera], background=background)
        assert rendering.rgb.shape == (1, 20, 20, 3)
        assert (rendering.rgb == torch.tensor(background)).all()
        assert (rendering.alpha == 0).all()


def test_a_gaussian_that_is_not_finite_is_not_drawn() -> None:
    good = random_cloud(20, 7)
    cameras = orbit([0], size=32)
    expected = render(good, cameras)
    for field, value in (
        ("means", math.nan),
        ("means", math.inf),
        ("quaternions", math.nan),
        ("log_scales", math.inf),
        ("opacity_logits", math.nan),
        ("f_dc", math.nan),
    ):
        broken = random_cloud(3, 8)
        getattr(broken, field)[1:] = value
        # The first of the three is whole: dropping it as well would be an error too.
        whole = Splats(*(getattr(broken, name)[:1] for name in FIELDS))
        found = render(together(broken, good), cameras)
        assert torch.allclose(found, render(together(whole, good), cameras), atol=1e-6)
        assert not torch.allclose(found, expected, atol=1e-3)


def test_colour_is_clipped_below_and_only_the_picture_above() -> None:
    camera = orbit([0], size=17)
    bright = ball((0, 0, 0), (2.0, -1.0, 0.5), scale=0.5, opacity=0.99)
    middle = rasterize(bright, camera, background=(0, 0, 0)).rgb[0, 8, 8]
    assert middle.tolist() == pytest.approx([1.98, 0.0, 0.495], abs=1e-3)
    picture = render(bright, camera, background=(0, 0, 0))
    assert picture[0, 8, 8].tolist() == pytest.approx([1.0, 0.0, 0.495], abs=1e-3)
    assert picture.dtype == torch.float32


@pytest.mark.parametrize(
    ("tile_size", "block_size"), [(4, 1), (4, 1 << 22), (8, 5000), (16, 20000), (32, 1), (None, 1)]
)
def test_tiles_and_blocks_do_not_show(tile_size: int | None, block_size: int) -> None:
    splats = random_cloud(600, 9, scales=(0.01, 0.1))
    cameras = [*orbit([0, 50], size=45)]
    expected = composite_views(splats, cameras)
    found = composite_views(splats, cameras, tile_size=tile_size, block_size=block_size)
    assert torch.allclose(found, expected, atol=2e-5)


def test_views_are_independent_and_bits_repeat() -> None:
    splats = random_cloud(200, 10)
    cameras = orbit([0, 77, 180], size=32)
    pictures = render(splats, cameras)
    assert torch.equal(pictures, render(splats, cameras))
    for camera, picture in zip(cameras, pictures, strict=True):
        assert torch.equal(picture, render(splats, [camera])[0])


def test_autocast_does_not_coarsen_the_picture() -> None:
    splats = random_cloud(100, 14)
    cameras = orbit([0], size=32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        picture = render(splats, cameras)
    assert torch.equal(picture, render(splats, cameras))


def test_higher_spherical_harmonics_are_ignored() -> None:
    splats = random_cloud(20, 11)
    rich = dataclasses.replace(splats, f_rest=torch.ones(20, 3, 3))
    assert torch.equal(render(splats, orbit([0], size=16)), render(rich, orbit([0], size=16)))


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


def test_descending_the_gradient_moves_a_gaussian_onto_its_target() -> None:
    cameras = orbit([0, 90], size=32)
    target = render(ball((0.1, -0.1, 0.05), (0.9, 0.1, 0.1), scale=0.15), cameras)
    means = torch.zeros(1, 3, requires_grad=True)
    start = ball((0, 0, 0), (0.9, 0.1, 0.1), scale=0.15)
    optimizer = torch.optim.Adam([means], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (render(dataclasses.replace(start, means=means), cameras) - target).square().mean().backward()
        optimizer.step()
    assert torch.allclose(means.detach(), torch.tensor([[0.1, -0.1, 0.05]]), atol=0.01)


def test_refuses_no_cameras_and_mixed_sizes() -> None:
    with pytest.raises(ValueError, match="no cameras"):
        render(random_cloud(5, 0), [])
    with pytest.raises(ValueError, match="size"):
        render(random_cloud(5, 0), [*orbit([0], size=8), *orbit([0], size=9)])
