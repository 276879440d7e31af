"""Solids that objects are composed of.

The frame is that in which validators look at splats: x to the right, y up, z towards the viewer. Objects fit the cube
[-0.5, 0.5]^3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

Vector = tuple[float, float, float]

BOX, ELLIPSOID, CONE, TORUS, CAPSULE = range(5)


@dataclass(frozen=True)
class Part:
    """One solid of one colour; its own axis is y.

    size: half extents of a box; radii of an ellipsoid; lower radius, half height and upper radius of a cone (a cylinder
    if the radii are equal); distance of the tube and its radius for a torus (the third is unused); radius and half
    length of a capsule's segment (the third is unused).
    colour: 0..1, red, green, blue. tilt: degrees about x, then about y, then about z.
    """

    kind: int
    centre: Vector
    size: Vector
    colour: Vector
    tilt: Vector = (0.0, 0.0, 0.0)


def rotation(tilt: Vector) -> list[list[float]]:
    """Rotation matrix of a part's tilt, from its own frame to the object's."""
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(a), math.cos(a)) for a in map(math.radians, tilt))
    return [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]


def half_extents(part: Part) -> Vector:
    """Half the sides of a box, along the part's own axes, that holds it."""
    a, b, c = part.size
    if part.kind == CONE:
        return (max(a, c), b, max(a, c))
    if part.kind == TORUS:
        return (a + b, b, a + b)
    if part.kind == CAPSULE:
        return (a, a + b, a)
    return part.size


def bounds(parts: Sequence[Part]) -> tuple[Vector, Vector]:
    """Lower and upper corner of a box that holds the parts."""
    low, high = [math.inf] * 3, [-math.inf] * 3
    for part in parts:
        matrix, own = rotation(part.tilt), half_extents(part)
        for axis in range(3):
            reach = sum(abs(matrix[axis][k]) * own[k] for k in range(3))
            low[axis] = min(low[axis], part.centre[axis] - reach)
            high[axis] = max(high[axis], part.centre[axis] + reach)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _scaled(vector: Vector, factor: float) -> Vector:
    x, y, z = vector
    return (factor * x, factor * y, factor * z)


def fitted(parts: Sequence[Part], extent: float) -> list[Part]:
    """The parts moved and scaled so that their box is centred and its longest side is `extent`."""
    low, high = bounds(parts)
    factor = extent / max(top - bottom for bottom, top in zip(low, high, strict=True))
    x, y, z = ((bottom + top) / 2 for bottom, top in zip(low, high, strict=True))
    return [
        replace(
            part,
            centre=_scaled((part.centre[0] - x, part.centre[1] - y, part.centre[2] - z), factor),
            size=_scaled(part.size, factor),
        )
        for part in parts
    ]
