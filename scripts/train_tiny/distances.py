"""Signed distances to objects composed of solids, many objects and points at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.train_tiny.shapes import Part, rotation

_EPSILON = 1e-9
# Points this far from each other tell how the distance changes, and with it the normal.
_STEP = 1e-3
# Corners of a tetrahedron: the differences along these four directions add up to the gradient.
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
# So that the compiler makes one kernel of it all, and no tensors between that hold a number for each part and point.
_ONE_KERNEL: dict[str, str | int | bool | Callable[..., Any]] = {
    "realize_reads_threshold": 10_000,
    "realize_opcount_threshold": 10_000,
}


@dataclass(frozen=True, eq=False)
class Solids:
    """Up to M parts of one kind for each of B objects: centres, sizes and colours [B, M, 3], rotations [B, M, 3, 3]
    from the part's frame to the object's; float32."""

    centres: Tensor
    sizes: Tensor
    colours: Tensor
    rotations: Tensor

    @staticmethod
    def of(objects: Sequence[Sequence[Part]], device: torch.device) -> Solids:
        """From lists of parts, filled up with parts that are far from everywhere."""
        # Never one alone, which the compiler would make another kernel for.
        width = max(2, *(len(parts) for parts in objects))
        padded = [[*parts, *[_NOWHERE] * (width - len(parts))] for parts in objects]

        def table(values: list[list[object]]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return Solids(
            centres=table([[part.centre for part in parts] for parts in padded]),
            sizes=table([[part.size for part in parts] for parts in padded]),
            colours=table([[part.colour for part in parts] for parts in padded]),
            rotations=table([[rotation(part.tilt) for part in parts] for parts in padded]),
        )


@dataclass(frozen=True, eq=False)
class Objects:
    """`count` objects: their parts by kind, for the kinds there are. Objects of one category make small tables."""

    count: int
    solids: dict[int, Solids]

    @staticmethod
    def of(objects: Sequence[Sequence[Part]], device: torch.device) -> Objects:
        """From lists of parts."""
        kinds = sorted({part.kind for parts in objects for part in parts})
        return Objects(
            len(objects),
            {kind: Solids.of([[p for p in parts if p.kind == kind] for parts in objects], device) for kind in kinds},
        )

    @property
    def device(self) -> torch.device:
        """Of all tensors."""
        return next(iter(self.solids.values())).centres.device

    def distance(self, points: Tensor) -> Tensor:
        """points [B, N, 3] -> signed distance to the object [B, N]: negative inside, a bound where not exact."""
        nearest = [
            (_compiled(kind) if points.is_cuda else _nearest(kind))(s.centres, s.sizes, s.rotations, points)
            for kind, s in self.solids.items()
        ]
        return torch.stack(nearest).amin(dim=0)

    def surface(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points [B, N, 3] -> distance [B, N], outward normal [B, N, 3] and colour [B, N, 3] of the nearest part."""
        best, colour = torch.full_like(points[..., 0], torch.inf), torch.zeros_like(points)
        for kind, solids in self.solids.items():
            found = _part_distances(kind, solids.centres, solids.sizes, solids.rotations, points).min(dim=1)
            theirs = solids.colours.gather(1, found.indices[..., None].expand(-1, -1, 3))
            colour = torch.where((found.values < best)[..., None], theirs, colour)
            best = torch.minimum(best, found.values)
        corners = points.new_tensor(_TETRAHEDRON)
        slopes = [self.distance(points + _STEP * corner)[..., None] * corner for corner in corners]
        return best, F.normalize(torch.stack(slopes).sum(dim=0), dim=-1), colour


def _part_distances(kind: int, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Signed distances [B, M, N] of points [B, N, 3] to the parts."""
    local = _local(centres.unsqueeze(2), rotations.unsqueeze(2), points.unsqueeze(1))
    return _FORMULAS[kind](*local, *sizes.unsqueeze(2).unbind(-1))


def _nearest(kind: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def nearest(centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
        return _part_distances(kind, centres, sizes, rotations, points).amin(dim=1)

    return nearest


@cache
def _compiled(kind: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """In one kernel instead of dozens; compiled when first called."""
    # All kinds are one function to the compiler, which gives up on one with more variants than this.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(_nearest(kind), dynamic=True, options=_ONE_KERNEL)


def _local(centres: Tensor, rotations: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [..., 3] in the part's own frame, axis by axis."""
    # Written out, since a product of matrices would be a kernel of its own.
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


def _torus(x: Tensor, y: Tensor, z: Tensor, ring: Tensor, tube: Tensor, _unused: Tensor) -> Tensor:
    return _length(_length(x, z) - ring, y) - tube


def _capsule(x: Tensor, y: Tensor, z: Tensor, radius: Tensor, half: Tensor, _unused: Tensor) -> Tensor:
    return _length(x, y - torch.maximum(torch.minimum(y, half), -half), z) - radius


# In the order of the kinds' numbers.
_FORMULAS = (_box, _ellipsoid, _cone, _torus, _capsule)
_NOWHERE = Part(0, (100.0, 0.0, 0.0), (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))
