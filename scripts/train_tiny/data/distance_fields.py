"""Signed distance fields of objects composed of primitives, for many objects and points at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.train_tiny.data.primitives import Primitive, rotation_matrix

_EPSILON = 1e-9
# Distance between the points whose differences approximate the gradient, and with it the normal.
_STEP = 1e-3
# Corners of a tetrahedron: the differences along these four directions add up to the gradient.
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
# On a CPU, so many points at a time, whose intermediate tensors fit into its cache: 512 x 512 take half the time.
_CACHED_POINTS = 1 << 14
# Make the compiler emit a single kernel, without intermediate tensors of a number for each primitive and point.
_SINGLE_KERNEL: dict[str, str | int | bool | Callable[..., Any]] = {
    "realize_reads_threshold": 10_000,
    "realize_opcount_threshold": 10_000,
}


@dataclass(frozen=True, eq=False)
class PrimitiveBatch:
    """Up to M primitives of one kind for each of B objects.

    Centres, sizes and colours are [B, M, 3] float32, rotations from the primitive's frame to the object's [B, M, 3, 3].
    """

    centres: Tensor
    sizes: Tensor
    colours: Tensor
    rotations: Tensor

    @staticmethod
    def pack(objects: Sequence[Sequence[Primitive]], device: torch.device) -> "PrimitiveBatch":
        """Pack lists of primitives of one kind, padded with primitives that are far from everywhere."""
        # Never a single one, for which the compiler would make another kernel.
        width = max(2, *(len(primitives) for primitives in objects))
        padded = [[*primitives, *[_FAR_AWAY] * (width - len(primitives))] for primitives in objects]

        def table(values: list[list[object]]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return PrimitiveBatch(
            centres=table([[p.centre for p in primitives] for primitives in padded]),
            sizes=table([[p.size for p in primitives] for primitives in padded]),
            colours=table([[p.colour for p in primitives] for primitives in padded]),
            rotations=table([[rotation_matrix(p.rotation) for p in primitives] for primitives in padded]),
        )


@dataclass(frozen=True, eq=False)
class ObjectBatch:
    """The primitives of `count` objects by kind, for the kinds that occur.

    Objects of one category pack into small tables.
    """

    count: int
    primitives: dict[int, PrimitiveBatch]

    @staticmethod
    def pack(objects: Sequence[Sequence[Primitive]], device: torch.device) -> "ObjectBatch":
        """Pack the primitives of each object."""
        kinds = sorted({p.kind for primitives in objects for p in primitives})
        by_kind = {
            kind: PrimitiveBatch.pack([[p for p in primitives if p.kind == kind] for primitives in objects], device)
            for kind in kinds
        }
        return ObjectBatch(len(objects), by_kind)

    @property
    def device(self) -> torch.device:
        """The device that all tensors are on."""
        return next(iter(self.primitives.values())).centres.device

    def distance(self, points: Tensor) -> Tensor:
        """Return the signed distances [B, N] of points [B, N, 3]: negative inside, a lower bound where not exact."""
        parts = [points] if points.is_cuda else points.split(_CACHED_POINTS, dim=1)
        return torch.cat([self._distance_of_some(part) for part in parts], dim=1)

    def _distance_of_some(self, points: Tensor) -> Tensor:
        nearest = [
            (_compiled_nearest(kind) if points.is_cuda else _nearest(kind))(p.centres, p.sizes, p.rotations, points)
            for kind, p in self.primitives.items()
        ]
        return torch.stack(nearest).amin(dim=0)

    def surface(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distance [B, N], outward normal [B, N, 3] and colour [B, N, 3] of the primitive nearest to points."""
        nearest, colour = torch.full_like(points[..., 0], torch.inf), torch.zeros_like(points)
        for kind, p in self.primitives.items():
            distance, index = _distances(kind, p.centres, p.sizes, p.rotations, points).min(dim=1)
            colours = p.colours.gather(1, index[..., None].expand(-1, -1, 3))
            colour = torch.where((distance < nearest)[..., None], colours, colour)
            nearest = torch.minimum(nearest, distance)
        corners = points.new_tensor(_TETRAHEDRON)
        slopes = [self.distance(points + _STEP * corner)[..., None] * corner for corner in corners]
        return nearest, F.normalize(torch.stack(slopes).sum(dim=0), dim=-1), colour


def _distances(kind: int, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Return the signed distances [B, M, N] of points [B, N, 3] to the primitives."""
    local = _to_local(centres.unsqueeze(2), rotations.unsqueeze(2), points.unsqueeze(1))
    return _FORMULAS[kind](*local, *sizes.unsqueeze(2).unbind(-1))


def _nearest(kind: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def nearest(centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        return _distances(kind, centres, sizes, rotations, points).amin(dim=1)

    return nearest


@cache
def _compiled_nearest(kind: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return `_nearest` as one kernel instead of dozens; it is compiled when first called."""
    # The compiler counts all kinds as one function, and gives up on a function with more variants than this.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(_nearest(kind), dynamic=True, options=_SINGLE_KERNEL)


def _to_local(centres: Tensor, rotations: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return points [..., 3] in the primitive's frame, axis by axis."""
    # Written out, since a matrix product would be a kernel of its own.
    dx, dy, dz = (points[..., i] - centres[..., i] for i in range(3))
    x, y, z = (rotations[..., 0, j] * dx + rotations[..., 1, j] * dy + rotations[..., 2, j] * dz for j in range(3))
    return x, y, z


def _length(*components: Tensor) -> Tensor:
    total = sum((c.square() for c in components), torch.zeros_like(components[0]))
    return (total + _EPSILON).sqrt()


def _box(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    qx, qy, qz = x.abs() - a, y.abs() - b, z.abs() - c
    outside = _length(qx.clamp(min=0), qy.clamp(min=0), qz.clamp(min=0))
    return outside + torch.maximum(qx, torch.maximum(qy, qz)).clamp(max=0)


def _ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    k = _length(x / a, y / b, z / c)
    return k * (k - 1) / _length(x / a.square(), y / b.square(), z / c.square())


def _cone(x: Tensor, y: Tensor, z: Tensor, low: Tensor, height: Tensor, high: Tensor) -> Tensor:
    # Inigo Quilez's capped cone, in the half plane of radius and height.
    radius = _length(x, z)
    cap_x = radius - torch.minimum(radius, torch.where(y < 0, low, high))
    cap_y = y.abs() - height
    slope_x, slope_y = high - low, 2 * height
    along = ((high - radius) * slope_x + (height - y) * slope_y) / (slope_x.square() + slope_y.square())
    along = along.clamp(0, 1)
    side_x, side_y = radius - high + slope_x * along, y - height + slope_y * along
    inside = torch.where((side_x < 0) & (cap_y < 0), -1.0, 1.0)
    nearest = torch.minimum(cap_x.square() + cap_y.square(), side_x.square() + side_y.square())
    return inside * (nearest + _EPSILON).sqrt()


def _torus(x: Tensor, y: Tensor, z: Tensor, major: Tensor, minor: Tensor, _unused: Tensor) -> Tensor:
    return _length(_length(x, z) - major, y) - minor


def _capsule(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, half: Tensor, _unused: Tensor) -> Tensor:
    return _length(x, y - torch.maximum(torch.minimum(y, half), -half), z) - radius


# Indexed by kind.
_FORMULAS = (_box, _ellipsoid, _cone, _torus, _capsule)
_FAR_AWAY = Primitive(0, (100.0, 0.0, 0.0), (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))
