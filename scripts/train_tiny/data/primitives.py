"""Solid primitives that objects are composed of, and a builder that adds them one by one.

The frame is the one in which validators look at splats: x to the right, y up, z towards the viewer. Objects fit the
cube [-0.5, 0.5]^3.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

Vector = tuple[float, float, float]

BOX, ELLIPSOID, CONE, TORUS, CAPSULE = range(5)
PALETTE: dict[str, Vector] = {
    "red": (0.80, 0.12, 0.10), "orange": (0.92, 0.48, 0.08), "yellow": (0.93, 0.80, 0.15),
    "green": (0.15, 0.55, 0.20), "turquoise": (0.12, 0.65, 0.62), "blue": (0.12, 0.28, 0.75),
    "purple": (0.48, 0.18, 0.62), "pink": (0.90, 0.45, 0.60), "brown": (0.45, 0.28, 0.14),
    "white": (0.90, 0.90, 0.88), "grey": (0.48, 0.48, 0.50), "black": (0.12, 0.12, 0.13),
}  # fmt: skip


@dataclass(frozen=True)
class Primitive:
    """A solid of one colour, symmetric about its own y axis where it is round.

    size: half extents of a box; radii of an ellipsoid; lower radius, half height and upper radius of a cone (a cylinder
    if the radii are equal); major and minor radius of a torus (the third is unused); radius and half length of a
    capsule's segment (the third is unused).
    colour: red, green and blue, 0..1. rotation: degrees about x, then about y, then about z.
    """

    kind: int
    centre: Vector
    size: Vector
    colour: Vector
    rotation: Vector = (0.0, 0.0, 0.0)


def rotation_matrix(rotation: Vector) -> list[list[float]]:
    """Return the matrix of a rotation in degrees, from the primitive's frame to the object's."""
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(a), math.cos(a)) for a in map(math.radians, rotation))
    return [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]


def _half_extents(primitive: Primitive) -> Vector:
    """Return half the sides of a box around the primitive, along its own axes."""
    a, b, c = primitive.size
    of_round_ones = {CONE: (max(a, c), b, max(a, c)), TORUS: (a + b, b, a + b), CAPSULE: (a, a + b, a)}
    return of_round_ones.get(primitive.kind, primitive.size)


def bounding_box(primitives: Sequence[Primitive]) -> tuple[Vector, Vector]:
    """Return the lower and the upper corner of an axis-aligned box that holds the primitives."""
    low, high = [math.inf] * 3, [-math.inf] * 3
    for primitive in primitives:
        matrix, half = rotation_matrix(primitive.rotation), _half_extents(primitive)
        for axis in range(3):
            reach = sum(abs(matrix[axis][k]) * half[k] for k in range(3))
            low[axis] = min(low[axis], primitive.centre[axis] - reach)
            high[axis] = max(high[axis], primitive.centre[axis] + reach)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _scale(vector: Vector, factor: float, origin: Vector = (0, 0, 0)) -> Vector:
    x, y, z = (factor * (component - zero) for component, zero in zip(vector, origin, strict=True))
    return (x, y, z)


def fit(primitives: Sequence[Primitive], extent: float) -> list[Primitive]:
    """Move and scale the primitives so that their bounding box is centred and its longest side is `extent`."""
    low, high = bounding_box(primitives)
    factor = extent / max(top - bottom for bottom, top in zip(low, high, strict=True))
    x, y, z = ((bottom + top) / 2 for bottom, top in zip(low, high, strict=True))
    return [replace(p, centre=_scale(p.centre, factor, (x, y, z)), size=_scale(p.size, factor)) for p in primitives]


class ObjectBuilder:
    """The random numbers of one object, the names of its three colours, and the primitives added so far."""

    def __init__(self, rng: random.Random) -> None:
        """Draw three different colours."""
        self.rng, self.between = rng, rng.uniform
        self.names = rng.sample(sorted(PALETTE), 3)
        self.primitives: list[Primitive] = []

    def maybe(self, chance: float = 0.5) -> bool:
        """Draw True with the given probability."""
        return self.rng.random() < chance

    def add(self, kind: int, centre: Vector, size: Vector, colour: int = 0, rotation: Vector = (0, 0, 0)) -> None:
        """Add a primitive; `colour` is an index into the object's three colours."""
        self.primitives.append(Primitive(kind, centre, size, PALETTE[self.names[colour]], rotation))

    def add_rod(
        self, centre: Vector, radius: float, half_length: float, colour: int = 0, rotation: Vector = (0, 0, 0)
    ) -> None:
        """Add a cylinder."""
        self.add(CONE, centre, (radius, half_length, radius), colour, rotation)
