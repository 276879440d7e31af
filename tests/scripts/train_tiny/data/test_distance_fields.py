"""The solids' distances against closed forms, and the objects that are composed of them."""

import pytest
import torch

from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import CATEGORIES, EXTENT, make_object
from scripts.train_tiny.data.primitives import (
    BOX,
    CAPSULE,
    CONE,
    ELLIPSOID,
    PALETTE,
    TORUS,
    Primitive,
    bounding_box,
    fit,
)

CPU = torch.device("cpu")
RED = (1.0, 0.0, 0.0)


def distances(part: Primitive, *points: tuple[float, float, float]) -> list[float]:
    objects = ObjectBatch.pack([[part]], CPU)
    found: list[float] = objects.distance(torch.tensor([points], dtype=torch.float32))[0].tolist()
    return found


@pytest.mark.parametrize(
    ("part", "point", "distance"),
    [
        (Primitive(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.4, 0, 0), 0.3),
        (Primitive(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.4, 0.6, 0), 0.5),
        (Primitive(BOX, (0, 0, 0), (0.1, 0.2, 0.3), RED), (0.06, 0, 0), -0.04),
        (Primitive(ELLIPSOID, (0.1, 0, 0), (0.2, 0.2, 0.2), RED), (0.6, 0, 0), 0.3),
        (Primitive(CONE, (0, 0, 0), (0.2, 0.3, 0.2), RED), (0.5, 0.1, 0), 0.3),
        (Primitive(CONE, (0, 0, 0), (0.2, 0.3, 0.2), RED), (0, 0.7, 0), 0.4),
        (Primitive(CONE, (0, 0, 0), (0.4, 0.4, 0.0), RED), (0.4, 0.4, 0), 0.4 * 2 / 5**0.5),
        (Primitive(TORUS, (0, 0, 0), (0.3, 0.1, 0), RED), (0, 0, 0), 0.2),
        (Primitive(TORUS, (0, 0, 0), (0.3, 0.1, 0), RED), (0, 0, 0.3), -0.1),
        (Primitive(CAPSULE, (0, 0, 0), (0.1, 0.2, 0), RED), (0, 0.5, 0), 0.2),
        (Primitive(CAPSULE, (0, 0, 0), (0.1, 0.2, 0), RED, (0, 0, 90)), (0.5, 0, 0), 0.2),
    ],
)
def test_distance(part: Primitive, point: tuple[float, float, float], distance: float) -> None:
    assert distances(part, point)[0] == pytest.approx(distance, abs=1e-4)


def test_many_objects_at_once() -> None:
    """Each as if it were alone."""
    parts = [make_object(seed).primitives for seed in range(12)]
    points = torch.rand(12, 300, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    alone = [ObjectBatch.pack([own], CPU).distance(place[None])[0] for own, place in zip(parts, points, strict=True)]
    torch.testing.assert_close(ObjectBatch.pack(parts, CPU).distance(points), torch.stack(alone))


def test_surface() -> None:
    """Normal and colour are those of the nearest part."""
    parts = [
        Primitive(ELLIPSOID, (-0.2, 0, 0), (0.1, 0.1, 0.1), RED),
        Primitive(BOX, (0.2, 0, 0), (0.1, 0.1, 0.1), (0, 0, 1)),
    ]
    points = torch.tensor([[[-0.2, 0.15, 0.0], [0.35, 0.0, 0.0]]])
    distance, normal, colour = ObjectBatch.pack([parts], CPU).surface(points)
    torch.testing.assert_close(distance, torch.tensor([[0.05, 0.05]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal, torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(colour, torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]))


def test_fitted() -> None:
    parts = fit([Primitive(BOX, (3, 1, 0), (1, 2, 0.5), RED), Primitive(TORUS, (3, 4, 0), (0.5, 0.2, 0), RED)], 0.6)
    low, high = bounding_box(parts)
    assert max(b - a for a, b in zip(low, high, strict=True)) == pytest.approx(0.6)
    assert [a + b for a, b in zip(low, high, strict=True)] == pytest.approx([0, 0, 0], abs=1e-9)


def test_things() -> None:
    """Every category comes; objects fit their cube and say their colours."""
    objects = [make_object(seed) for seed in range(600)]
    assert {toy.category for toy in objects} == set(CATEGORIES)
    for toy in objects:
        low, high = bounding_box(toy.primitives)
        assert max(b - a for a, b in zip(low, high, strict=True)) == pytest.approx(EXTENT)
        assert any(colour in toy.caption.split() for colour in PALETTE)
    assert make_object(5) == make_object(5) != make_object(6)


def test_the_distance_of_a_point_does_not_depend_on_the_points_beside_it() -> None:
    objects = ObjectBatch.pack([make_object(seed).primitives for seed in (0, 1)], CPU)
    points = torch.rand(2, 40_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = [objects.distance(part) for part in points.split(1000, dim=1)]
    assert torch.equal(objects.distance(points), torch.cat(expected, dim=1))
