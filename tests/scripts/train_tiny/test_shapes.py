"""The solids' distances against closed forms, and the objects that are composed of them."""

from __future__ import annotations

import pytest
import torch

from scripts.train_tiny.distances import MAX_PARTS, Objects, part_distances
from scripts.train_tiny.objects import CATEGORIES, EXTENT, PALETTE, make_thing
from scripts.train_tiny.shapes import BOX, CAPSULE, CONE, ELLIPSOID, TORUS, Part, bounds, fitted

CPU = torch.device("cpu")
RED = (1.0, 0.0, 0.0)


def distances(part: Part, *points: tuple[float, float, float]) -> list[float]:
    objects = Objects.of([[part]], CPU)
    found: list[float] = objects.distance(torch.tensor([points], dtype=torch.float32))[0].tolist()
    return found


@pytest.mark.parametrize(
    ("part", "point", "distance"),
    [
        (Part(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.4, 0, 0), 0.3),
        (Part(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.4, 0.6, 0), 0.5),
        (Part(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.06, 0, 0), -0.04),
        (Part(ELLIPSOID, (0.1, 0, 0), (0.2, 0.2, 0.2), RED), (0.6, 0, 0), 0.3),
        (Part(CONE, (0, 0, 0), (0.2, 0.3, 0.2), RED), (0.5, 0.1, 0), 0.3),
        (Part(CONE, (0, 0, 0), (0.2, 0.3, 0.2), RED), (0, 0.7, 0), 0.4),
        (Part(CONE, (0, 0, 0), (0.4, 0.4, 0.0), RED), (0.4, 0.4, 0), 0.4 * 2 / 5**0.5),
        (Part(TORUS, (0, 0, 0), (0.3, 0.1, 0), RED), (0, 0, 0), 0.2),
        (Part(TORUS, (0, 0, 0), (0.3, 0.1, 0), RED), (0, 0, 0.3), -0.1),
        (Part(CAPSULE, (0, 0, 0), (0.1, 0.2, 0), RED), (0, 0.5, 0), 0.2),
        (Part(CAPSULE, (0, 0, 0), (0.1, 0.2, 0), RED, (0, 0, 90)), (0.5, 0, 0), 0.2),
    ],
)
def test_distance(part: Part, point: tuple[float, float, float], distance: float) -> None:
    assert distances(part, point)[0] == pytest.approx(distance, abs=1e-4)


def test_all_formulas_at_once_give_what_each_part_alone_gives() -> None:
    """The way for GPUs against the way for processors."""
    objects = Objects.of([make_thing(seed).parts for seed in range(12)], CPU)
    points = torch.rand(12, 300, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    solids = (objects.kinds, objects.centres, objects.sizes, objects.rotations)
    together = part_distances(*(tensor.unsqueeze(2) for tensor in solids), points[:, None]).amin(dim=1)
    torch.testing.assert_close(together, objects.distance(points))


def test_surface() -> None:
    """Normal and colour are those of the nearest part."""
    parts = [Part(ELLIPSOID, (-0.2, 0, 0), (0.1, 0.1, 0.1), RED), Part(BOX, (0.2, 0, 0), (0.1, 0.1, 0.1), (0, 0, 1))]
    points = torch.tensor([[[-0.2, 0.15, 0.0], [0.35, 0.0, 0.0]]])
    distance, normal, colour = Objects.of([parts], CPU).surface(points)
    torch.testing.assert_close(distance, torch.tensor([[0.05, 0.05]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal, torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(colour, torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]))


def test_fitted() -> None:
    parts = fitted([Part(BOX, (3, 1, 0), (1, 2, 0.5), RED), Part(TORUS, (3, 4, 0), (0.5, 0.2, 0), RED)], 0.6)
    low, high = bounds(parts)
    assert max(b - a for a, b in zip(low, high, strict=True)) == pytest.approx(0.6)
    assert [a + b for a, b in zip(low, high, strict=True)] == pytest.approx([0, 0, 0], abs=1e-9)


def test_too_many_parts() -> None:
    with pytest.raises(ValueError, match=f"{MAX_PARTS + 1} parts, more than {MAX_PARTS}"):
        Objects.of([[Part(BOX, (0, 0, 0), (1, 1, 1), RED)] * (MAX_PARTS + 1)], CPU)


def test_things() -> None:
    """Every category comes; objects fit their cube, have few enough parts, and say their colours."""
    things = [make_thing(seed) for seed in range(600)]
    assert {thing.category for thing in things} == set(CATEGORIES)
    for thing in things:
        low, high = bounds(thing.parts)
        assert max(b - a for a, b in zip(low, high, strict=True)) == pytest.approx(EXTENT)
        assert len(thing.parts) <= MAX_PARTS
        assert any(colour in thing.caption.split() for colour in PALETTE)
    assert make_thing(5) == make_thing(5) != make_thing(6)
