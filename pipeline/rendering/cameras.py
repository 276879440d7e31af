"""Pinhole cameras on an orbit, and the sixteen that a validator renders with."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

VALIDATOR_ELEVATION = -15.0
VALIDATOR_RADIUS = 2.5
VALIDATOR_FOV = 49.1
VALIDATOR_SIZE = 518
VALIDATOR_VIEWS = 16


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with OpenCV axes: x to the right, y down, z forward.

    world_to_camera: [4, 4] float32, x_camera = R x_world + t; world units.
    focal:           focal length in pixels, the same along x and y.
    principal_point: (x, y) in pixels; pixel (column, row) covers [column, column + 1] x [row, row + 1].
    width, height:   picture size in pixels.
    near, far:       gaussians whose centre has a depth outside [near, far] are not drawn; world units.

    Raises ValueError on a wrong shape or a value out of range.
    """

    world_to_camera: Tensor
    focal: float
    principal_point: tuple[float, float]
    width: int
    height: int
    near: float = 0.01
    far: float = 100.0

    def __post_init__(self) -> None:
        """Check shapes and ranges."""
        if tuple(self.world_to_camera.shape) != (4, 4):
            raise ValueError(f"world_to_camera has shape {tuple(self.world_to_camera.shape)}, expected (4, 4)")
        if not self.focal > 0:
            raise ValueError(f"focal is {self.focal}, expected a positive number of pixels")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"picture is {self.width} x {self.height}, expected at least one pixel")
        if not 0 < self.near < self.far:
            raise ValueError(f"near is {self.near} and far {self.far}, expected 0 < near < far")


def orbit(
    azimuths_degrees: Iterable[float],
    elevation_degrees: float = VALIDATOR_ELEVATION,
    radius: float = VALIDATOR_RADIUS,
    fov_degrees: float = VALIDATOR_FOV,
    size: int = VALIDATOR_SIZE,
) -> tuple[Camera, ...]:
    """Return cameras on a circle around the origin that look at it with +y up, one per azimuth, for square pictures.

    The convention is the validation service's: a camera is at (r cos(el) sin(az), -r sin(el), r cos(el) cos(az)), so
    azimuth 0 looks along -z with +x to the right, and a negative elevation looks down from above. `fov_degrees` is the
    vertical field of view, `size` the side in pixels; the principal point is the centre of the picture.

    Raises ValueError unless -90 < elevation < 90, 0 < fov < 180 and the radius is positive.
    """
    if not -90 < elevation_degrees < 90:
        raise ValueError(f"elevation is {elevation_degrees} degrees, expected more than -90 and less than 90")
    if not 0 < fov_degrees < 180:
        raise ValueError(f"field of view is {fov_degrees} degrees, expected more than 0 and less than 180")
    if not radius > 0:
        raise ValueError(f"radius is {radius}, expected a positive distance")
    focal = size / (2 * math.tan(math.radians(fov_degrees) / 2))
    elevation = math.radians(elevation_degrees)
    return tuple(
        Camera(_look_at_origin(math.radians(azimuth), elevation, radius), focal, (size / 2, size / 2), size, size)
        for azimuth in azimuths_degrees
    )


def validator_cameras(size: int = VALIDATOR_SIZE) -> tuple[Camera, ...]:
    """Return the 16 cameras of a validator, at azimuths linspace(0, 360, 16); the first and the last coincide."""
    azimuths = torch.linspace(0, 360, VALIDATOR_VIEWS, dtype=torch.float64).tolist()
    return orbit(azimuths, size=size)


def _look_at_origin(azimuth: float, elevation: float, radius: float) -> Tensor:
    """Return the world-to-camera matrix of an orbiting camera, [4, 4] float32; angles are in radians."""
    backward = torch.tensor(
        [math.cos(elevation) * math.sin(azimuth), -math.sin(elevation), math.cos(elevation) * math.cos(azimuth)],
        dtype=torch.float64,
    )
    right = torch.tensor([math.cos(azimuth), 0.0, -math.sin(azimuth)], dtype=torch.float64)
    down = torch.linalg.cross(right, backward)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.stack([right, down, -backward])
    # The rotation takes the position to (0, 0, -r): the origin lies straight ahead at depth r.
    matrix[2, 3] = radius
    return matrix.to(torch.float32)
