import math

import pytest
import torch
from torch import Tensor

from pipeline.rendering.cameras import Camera, orbit, validator_cameras


def position(camera: Camera) -> Tensor:
    matrix = camera.world_to_camera.double()
    return -matrix[:3, :3].T @ matrix[:3, 3]


def project(camera: Camera, point: tuple[float, float, float]) -> tuple[float, float, float]:
    """Column and row in pixels, and depth."""
    matrix = camera.world_to_camera.double()
    x, y, z = (matrix[:3, :3] @ torch.tensor(point, dtype=torch.float64) + matrix[:3, 3]).tolist()
    return (
        camera.focal * x / z + camera.principal_point[0],
        camera.focal * y / z + camera.principal_point[1],
        z,
    )


@pytest.mark.parametrize("azimuth", [0.0, 24.0, 90.0, 200.0, 359.0])
@pytest.mark.parametrize("elevation", [-60.0, -15.0, 0.0, 30.0])
def test_stands_where_the_validation_service_puts_it(azimuth: float, elevation: float) -> None:
    (camera,) = orbit([azimuth], elevation, radius=3.0)
    az, el = math.radians(azimuth), math.radians(elevation)
    expected = [3 * math.cos(el) * math.sin(az), -3 * math.sin(el), 3 * math.cos(el) * math.cos(az)]
    assert torch.allclose(position(camera), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("azimuth", [0.0, 77.0, 270.0])
def test_rotation_is_proper_and_the_origin_is_in_the_middle(azimuth: float) -> None:
    (camera,) = orbit([azimuth], size=100)
    rotation = camera.world_to_camera[:3, :3].double()
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-6)
    assert camera.world_to_camera[3].tolist() == [0, 0, 0, 1]
    assert camera.world_to_camera.dtype == torch.float32
    assert project(camera, (0, 0, 0)) == pytest.approx((50, 50, 2.5), abs=1e-4)


def test_a_negative_elevation_looks_down_from_above() -> None:
    (camera,) = orbit([0], -15)
    assert position(camera)[1].item() == pytest.approx(2.5 * math.sin(math.radians(15)), abs=1e-6)


def test_up_is_up_and_right_depends_on_the_azimuth() -> None:
    front, right, back, left = orbit([0, 90, 180, 270], 0, size=100)
    for camera in (front, right, back, left):
        column, row, _ = project(camera, (0, 0.5, 0))
        assert row < 40
        assert column == pytest.approx(50, abs=1e-4)
    assert project(front, (0.5, 0, 0))[0] > 60
    assert project(back, (0.5, 0, 0))[0] < 40
    assert project(right, (0, 0, 0.5))[0] < 40
    assert project(left, (0, 0, 0.5))[0] > 60
    assert project(front, (0, 0, 0.5))[2] == pytest.approx(2.0)
    assert project(right, (0.5, 0, 0))[2] == pytest.approx(2.0)


def test_field_of_view_is_vertical_and_ends_at_the_border() -> None:
    (camera,) = orbit([0], 0, radius=2.0, fov_degrees=60, size=64)
    top = 2.0 * math.tan(math.radians(30))
    assert project(camera, (0, top, 0))[1] == pytest.approx(0, abs=1e-4)
    assert project(camera, (0, -top, 0))[1] == pytest.approx(64, abs=1e-4)


def test_validator_cameras() -> None:
    views = validator_cameras()
    assert len(views) == 16
    for number, view in enumerate(views):
        azimuth = math.radians(24 * number)
        assert (view.width, view.height, view.principal_point) == (518, 518, (259, 259))
        assert (view.near, view.far) == (0.01, 100)
        assert view.focal == pytest.approx(567.0118, abs=1e-3)
        where = position(view)
        assert where.norm().item() == pytest.approx(2.5, abs=1e-6)
        assert where[0].item() == pytest.approx(2.5 * math.cos(math.radians(15)) * math.sin(azimuth), abs=1e-5)
        assert where[1].item() == pytest.approx(0.647048, abs=1e-5)
    assert torch.allclose(views[0].world_to_camera, views[-1].world_to_camera, atol=1e-6)
    assert validator_cameras(size=64)[0].width == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elevation_degrees": 90}, "elevation"),
        ({"elevation_degrees": -90}, "elevation"),
        ({"fov_degrees": 0}, "field of view"),
        ({"fov_degrees": 180}, "field of view"),
        ({"radius": 0}, "radius"),
        ({"size": 0}, "pixel"),
    ],
)
def test_refuses_an_orbit_without_a_picture(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orbit([0], **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"world_to_camera": torch.eye(3)}, "world_to_camera"),
        ({"focal": 0.0}, "focal"),
        ({"height": 0}, "pixel"),
        ({"near": 0.0}, "near"),
        ({"near": 2.0, "far": 1.0}, "near"),
    ],
)
def test_refuses_an_impossible_camera(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "world_to_camera": torch.eye(4),
        "focal": 10.0,
        "principal_point": (8.0, 8.0),
        "width": 16,
        "height": 16,
    }
    with pytest.raises(ValueError, match=message):
        Camera(**{**values, **change})  # type: ignore[arg-type]
