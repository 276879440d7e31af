"""Clouds by formula at the edges of the validator's checks, as it sees them: activated, float32."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.splats.splats import Splats
from tests.support.formula_weights import formula_array

IDENTITY = (1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Cloud:
    """points [N, 3], scales [N, 3], opacities [N] in 0..1, rotations [N, 4] with w first."""

    points: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    rotations: np.ndarray

    def to_splats(self) -> Splats:
        """Return splats whose activated values are these, within the rounding of logarithms and logits."""
        with np.errstate(divide="ignore", invalid="ignore"):
            log_scales = np.log(self.scales.astype(np.float64))
            logits = np.log(self.opacities.astype(np.float64)) - np.log1p(-self.opacities.astype(np.float64))
        means, quaternions, log_scales, logits = (
            torch.from_numpy(values.astype(np.float32)) for values in (self.points, self.rotations, log_scales, logits)
        )
        return Splats(means, quaternions, log_scales, logits, torch.zeros_like(means))


def formula_clouds() -> dict[str, Cloud]:
    """Return the clouds by their labels in transform.json."""
    return dict(_clouds())


def _cloud(label: str, number: int = 7000) -> Cloud:
    """Return gaussians to which no check objects, unless there are fewer than 7000."""
    rotations = 0.3 * formula_array(f"{label}.rotations.x", (number, 4)) + np.array([1, 0.2, 0, 0], np.float32)
    rotations /= np.sqrt((rotations.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    scales = np.abs(formula_array(f"{label}.scales.x", (number, 3)))
    opacities = np.abs(formula_array(f"{label}.opacities.x", (number, 1))[:, 0])
    return Cloud(
        formula_array(f"{label}.points.x", (number, 3)),
        (scales * 0.05 + 0.002).astype(np.float32),
        (opacities * 0.45 + 0.05).astype(np.float32),
        rotations.astype(np.float32),
    )


def _clouds() -> Iterator[tuple[str, Cloud]]:
    for number in (6999, 7000, 2):
        label = f"{number} gaussians"
        yield label, _cloud(label, number)
    yield from _changed_points()
    yield from _changed_opacities()
    yield from _changed_rotations()
    for label, scale in (("all scales 0.001: the check that never fires", 1e-3), ("all scales 0", 0)):
        cloud = _cloud(label)
        cloud.scales[:] = scale
        yield label, cloud


def _changed_points() -> Iterator[tuple[str, Cloud]]:
    for label, index, point in (
        ("point 0 is (1,1,1)", 0, (1, 1, 1)),
        ("point 2 is (1,1,1)", 2, (1, 1, 1)),
        ("point 3 is (1,1,1)", 3, (1, 1, 1)),
        ("point 1 is (1,1,1) within 9e-6", 1, (1 + 9e-6, 1 - 9e-6, 1)),
        ("point 1 is (1,1,1) within 2e-5", 1, (1 + 2e-5, 1, 1)),
    ):
        cloud = _cloud(label)
        cloud.points[index] = point
        yield label, cloud
    for label, value in (("a NaN point", np.nan), ("an infinite point", np.inf)):
        cloud = _cloud(label)
        cloud.points[100, 1] = value
        yield label, cloud
    same = _cloud("all points the same")
    same.points[:] = (0.25, -0.5, 0.125)
    yield "all points the same", same
    flat = _cloud("flat: all z equal")
    flat.points[:, 2] = 0.5
    yield "flat: all z equal", flat
    far = _cloud("far from the origin: +1000")
    far.points[:] += 1000
    yield "far from the origin: +1000", far
    for label, factor in (("tiny: 1e-4 of the size", 1e-4), ("huge: 1e4 of the size", 1e4)):
        cloud = _cloud(label)
        cloud.points[:] *= np.float32(factor)
        yield label, cloud


def _changed_opacities() -> Iterator[tuple[str, Cloud]]:
    below = float(np.nextafter(np.float32(1e-3), np.float32(0)))
    for label, changed, opacity in (
        ("5600 of 7000 transparent: 80 %", slice(5600), 0.0),
        ("5601 of 7000 transparent", slice(5601), 0.0),
        ("all opacities 0.001 as float32", slice(None), 1e-3),
        ("all opacities just below 0.001", slice(None), below),
        ("a NaN opacity", slice(100, 101), np.nan),
        ("all opacities NaN", slice(None), np.nan),
    ):
        cloud = _cloud(label)
        cloud.opacities[changed] = opacity
        yield label, cloud


def _changed_rotations() -> Iterator[tuple[str, Cloud]]:
    for label, rotation in (
        ("all rotations identity", IDENTITY),
        ("all rotations identity but one", IDENTITY),
        ("all rotations minus identity", (-1, 0, 0, 0)),
        ("all rotations identity within 9e-9", (1 - 9e-6, 9e-9, 0, 0)),
        ("all rotations identity within 2e-8", (1, 2e-8, 0, 0)),
    ):
        cloud = _cloud(label)
        cloud.rotations[:] = rotation
        if label.endswith("but one"):
            cloud.rotations[6999] = (0.8, 0.6, 0, 0)
        yield label, cloud
