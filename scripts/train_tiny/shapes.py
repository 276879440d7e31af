"""Solids with signed distances, and objects composed of them, many at a time.

The frame is that of exported splats: x to the right, y up, z towards the viewer; objects fit the cube [-0.5, 0.5]^3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Vector = tuple[float, float, float]

BOX, ELLIPSOID, CONE, TORUS, CAPSULE = range(5)
# Parts of an object beyond which none is made.
MAX_PARTS = 14
# What a missing part's distance is: far from everywhere.
_NOWHERE = 10.0
_EPSILON = 1e-9


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


@dataclass(frozen=True, eq=False)
class Objects:
    """B objects of up to MAX_PARTS parts: kinds [B, P] int64 (-1 for none), centres, sizes and colours [B, P, 3],
    rotations [B, P, 3, 3] from the part's frame to the object's; float32, all on one device."""

    kinds: Tensor
    centres: Tensor
    sizes: Tensor
    colours: Tensor
    rotations: Tensor

    @staticmethod
    def of(objects: Sequence[Sequence[Part]], device: torch.device) -> Objects:
        """From lists of parts. Raises ValueError if an object has more than MAX_PARTS."""
        if longest := max((len(parts) for parts in objects if len(parts) > MAX_PARTS), default=0):
            raise ValueError(f"an object has {longest} parts, more than {MAX_PARTS}")
        nothing = Part(-1, (0, 0, 0), (1, 1, 1), (0, 0, 0))
        padded = [[*parts, *[nothing] * (MAX_PARTS - len(parts))] for parts in objects]

        def table(values: list[list[object]]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return Objects(
            kinds=torch.tensor([[part.kind for part in parts] for parts in padded], device=device),
            centres=table([[part.centre for part in parts] for parts in padded]),
            sizes=table([[part.size for part in parts] for parts in padded]),
            colours=table([[part.colour for part in parts] for parts in padded]),
            rotations=table([[rotation(part.tilt) for part in parts] for parts in padded]),
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, rows: slice | Tensor) -> Objects:
        return Objects(*(tensor[rows] for tensor in vars(self).values()))

    def distances(self, points: Tensor) -> Tensor:
        """points [B, N, 3] -> signed distance to each part [B, P, N]: negative inside, a bound where not exact."""
        return _distances(self.kinds, self.centres, self.sizes, self.rotations, points)

    def distance(self, points: Tensor) -> Tensor:
        """points [B, N, 3] -> signed distance to the object [B, N]."""
        nearest = _compiled_nearest() if points.is_cuda else _nearest
        found: Tensor = nearest(self.kinds, self.centres, self.sizes, self.rotations, points)
        return found

    def surface(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points [B, N, 3] -> distance [B, N], outward normal [B, N, 3] and colour [B, N, 3] of the nearest part."""
        with torch.enable_grad():
            variable = points.detach().requires_grad_()
            nearest = self.distances(variable).min(dim=1)
            (gradient,) = torch.autograd.grad(nearest.values.sum(), variable)
        colours = self.colours.gather(1, nearest.indices[:, :, None].expand(-1, -1, 3))
        return nearest.values.detach(), F.normalize(gradient, dim=-1), colours


def _distances(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    # Written out, so that a compiler makes one kernel of it all: a product of matrices would be one of its own.
    away = points[:, None] - centres[:, :, None]
    turned = rotations[:, :, None]
    local = torch.stack([(turned[..., j] * away).sum(dim=-1) for j in range(3)], dim=-1)
    size = sizes[:, :, None]
    found = torch.full(local.shape[:3], _NOWHERE, device=points.device)
    for kind, distance in enumerate((_box, _ellipsoid, _cone, _torus, _capsule)):
        found = torch.where((kinds == kind)[:, :, None], distance(local, size), found)
    return found


def _nearest(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    return _distances(kinds, centres, sizes, rotations, points).amin(dim=1)


@cache
def _compiled_nearest() -> Callable[..., Tensor]:
    """In one kernel instead of a hundred; compiled when first called."""
    return torch.compile(_nearest, dynamic=False)


def _length(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + _EPSILON).sqrt()


def _box(p: Tensor, size: Tensor) -> Tensor:
    q = p.abs() - size
    return _length(q.clamp(min=0)) + q.amax(-1).clamp(max=0)


def _ellipsoid(p: Tensor, size: Tensor) -> Tensor:
    # Other kinds of parts come here, too, and have sizes of nothing.
    size = size.clamp(min=1e-3)
    k = _length(p / size)
    return k * (k - 1) / _length(p / size.square())


def _cone(p: Tensor, size: Tensor) -> Tensor:
    # Inigo Quilez's capped cone, in the half plane of radius and height.
    low, height, high = size.unbind(-1)
    radius, y = _length(p[..., [0, 2]]), p[..., 1]
    cap = torch.stack([radius - torch.minimum(radius, torch.where(y < 0, low, high)), y.abs() - height], dim=-1)
    slope = torch.stack([high - low, 2 * height], dim=-1)
    from_top = torch.stack([high - radius, height - y], dim=-1)
    along = ((from_top * slope).sum(-1) / slope.square().sum(-1)).clamp(0, 1)
    side = torch.stack([radius - high, y - height], dim=-1) + slope * along[..., None]
    inside = torch.where((side[..., 0] < 0) & (cap[..., 1] < 0), -1.0, 1.0)
    return inside * (torch.minimum(cap.square().sum(-1), side.square().sum(-1)) + _EPSILON).sqrt()


def _torus(p: Tensor, size: Tensor) -> Tensor:
    ring = _length(p[..., [0, 2]]) - size[..., 0]
    return _length(torch.stack([ring, p[..., 1]], dim=-1)) - size[..., 1]


def _capsule(p: Tensor, size: Tensor) -> Tensor:
    y = p[..., 1] - torch.maximum(torch.minimum(p[..., 1], size[..., 1]), -size[..., 1])
    return _length(torch.stack([p[..., 0], y, p[..., 2]], dim=-1)) - size[..., 0]
