"""Signed distances to objects composed of solids, many objects and points at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.train_tiny.shapes import Part, rotation

# Parts of an object beyond which none is made.
MAX_PARTS = 14
# What a missing part's distance is: far from everywhere.
_NOWHERE = 10.0
_EPSILON = 1e-9
# So that the compiler makes one kernel of it all, and no tensors between that hold a number for each part and point.
_ONE_KERNEL = {"realize_reads_threshold": 10_000, "realize_opcount_threshold": 10_000}


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

    def distance(self, points: Tensor) -> Tensor:
        """points [B, N, 3] -> signed distance to the object [B, N]: negative inside, a bound where not exact."""
        if points.is_cuda:
            nearest: Tensor = _compiled(_nearest_distance)(*self._solids, points)
            return nearest
        return self._each(points).values

    def surface(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points [B, N, 3] -> distance [B, N], outward normal [B, N, 3] and colour [B, N, 3] of the nearest part."""
        part = _compiled(_nearest_part)(*self._solids, points) if points.is_cuda else self._each(points).indices
        item = torch.arange(len(self), device=points.device)[:, None]
        with torch.enable_grad():
            variable = points.detach().requires_grad_()
            distance = part_distances(*(tensor[item, part] for tensor in self._solids), variable)
            (gradient,) = torch.autograd.grad(distance.sum(), variable)
        return distance.detach(), F.normalize(gradient, dim=-1), self.colours[item, part]

    @property
    def _solids(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.kinds, self.centres, self.sizes, self.rotations

    def _each(self, points: Tensor) -> torch.return_types.min:
        """Distance [B, N] and index of the nearest part, part by part: a processor has no work to waste on others."""
        rows = []
        for item, kinds in enumerate(self.kinds.tolist()):
            found = points.new_full((len(kinds), points.shape[1]), _NOWHERE)
            for part, kind in enumerate(kinds):
                if kind >= 0:
                    solid = (self.centres[item, part], self.sizes[item, part], self.rotations[item, part])
                    found[part] = _SOLIDS[kind](*_local(solid[0], solid[2], points[item]), *solid[1])
            rows.append(found)
        return torch.stack(rows).min(dim=1)


def part_distances(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Signed distances [...] of points [..., 3] to one part each: kinds [...], centres and sizes [..., 3], rotations
    [..., 3, 3], all broadcast together."""
    local = _local(centres, rotations, points)
    # Parts of other kinds, and missing ones, go through every formula; what comes out of it is not looked at.
    size = sizes.clamp(min=1e-3).unbind(-1)
    found = torch.full_like(local[0], _NOWHERE)
    for kind, distance in enumerate(_SOLIDS):
        found = torch.where(kinds == kind, distance(*local, *size), found)
    return found


def _nearest_distance(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    return _all_parts(kinds, centres, sizes, rotations, points).amin(dim=1)


def _nearest_part(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    return _all_parts(kinds, centres, sizes, rotations, points).argmin(dim=1)


def _all_parts(kinds: Tensor, centres: Tensor, sizes: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """[B, P, N]."""
    solids = (tensor.unsqueeze(2) for tensor in (kinds, centres, sizes, rotations))
    return part_distances(*solids, points[:, None])


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """In one kernel instead of a hundred; compiled when first called."""
    return torch.compile(function, dynamic=True, options=_ONE_KERNEL)


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
_SOLIDS = (_box, _ellipsoid, _cone, _torus, _capsule)
