import dataclasses
import math

import pytest
import torch
from torch import Tensor

from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import rasterize, render
from pipeline.rendering.torch_rasterizer import composite_views
from pipeline.splats.splats import Splats
from tests.support.splat_clouds import random_cloud

SH_C0 = 0.28209479177387814
FIELDS = ("means", "quaternions", "log_scales", "opacity_logits", "f_dc")


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
