"""A seeded generator of toy objects with captions: furniture, vehicles and toys in random proportions and colours."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from scripts.train_tiny.data.primitives import BOX, CAPSULE, CONE, ELLIPSOID, TORUS, ObjectBuilder, Primitive, fit

# Of the cube's side: small enough that a CPU makes an asset of the few voxels in seconds.
EXTENT = 0.6


def _chair(b: ObjectBuilder) -> str:
    w, d, h, t = b.between(0.30, 0.45), b.between(0.30, 0.45), b.between(0.30, 0.55), b.between(0.03, 0.06)
    leg, back = b.between(0.025, 0.05), b.between(0.30, 0.55)
    b.add(BOX, (0, 0, 0), (w, t, d))
    leg_kind = CONE if b.maybe() else BOX
    for x, z in product((-1, 1), repeat=2):
        b.add(leg_kind, (x * (w - leg), -t - h / 2, z * (d - leg)), (leg, h / 2, leg), 1)
    b.add(BOX, (0, t + back / 2, -d + t), (w, back / 2, t))
    if b.maybe(0.4):
        for x in (-1, 1):
            b.add(BOX, (x * (w - t), t + 0.15, 0), (t, 0.03, d * 0.8), 1)
    return f"a {b.names[0]} chair with {b.names[1]} legs"


def _stool(b: ObjectBuilder) -> str:
    r, h, leg = b.between(0.28, 0.4), b.between(0.4, 0.8), b.between(0.03, 0.05)
    b.add_rod((0, 0, 0), r, b.between(0.04, 0.09))
    for x, z in ((-1, -1), (1, -1), (0, 1.2)) if b.maybe() else ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        b.add_rod((x * r * 0.6, -h / 2, z * r * 0.6), leg, h / 2, 1)
    if b.maybe():
        b.add(TORUS, (0, -h * 0.6, 0), (r * 0.75, 0.03, 0.03), 1)
    return f"a {b.names[0]} stool with {b.names[1]} legs"


def _table(b: ObjectBuilder) -> str:
    w, d, h, t = b.between(0.45, 0.8), b.between(0.35, 0.6), b.between(0.35, 0.6), b.between(0.03, 0.06)
    if b.maybe(0.35):
        b.add_rod((0, 0, 0), w, t)
        b.add_rod((0, -h / 2, 0), b.between(0.05, 0.12), h / 2, 1)
        b.add_rod((0, -h, 0), w * 0.5, 0.03, 1)
        return f"a round {b.names[0]} table with a {b.names[1]} foot"
    b.add(BOX, (0, 0, 0), (w, t, d))
    leg = b.between(0.03, 0.06)
    for x, z in product((-1, 1), repeat=2):
        b.add(BOX, (x * (w - leg), -t - h / 2, z * (d - leg)), (leg, h / 2, leg), 1)
    return f"a {b.names[0]} table with {b.names[1]} legs"


def _sofa(b: ObjectBuilder) -> str:
    w, d, h = b.between(0.6, 0.9), b.between(0.3, 0.4), b.between(0.14, 0.2)
    b.add(BOX, (0, 0, 0), (w, h, d))
    b.add(BOX, (0, h + 0.15, -d + 0.08), (w, b.between(0.18, 0.3), 0.09))
    for x in (-1, 1):
        b.add(BOX, (x * (w + 0.07), 0.08, 0), (0.08, h + 0.1, d), 1)
    cushions = b.rng.randint(1, 3)
    for i in range(cushions):
        b.add(BOX, ((2 * i + 1 - cushions) * w / cushions, h + 0.05, 0.07), (w / cushions - 0.02, 0.06, d * 0.75), 2)
    return f"a {b.names[0]} sofa with {b.names[2]} cushions"


def _lamp(b: ObjectBuilder) -> str:
    h, r = b.between(0.5, 0.9), b.between(0.2, 0.35)
    b.add_rod((0, -h, 0), r * b.between(0.7, 1.0), 0.04, 1)
    b.add_rod((0, -h / 2, 0), b.between(0.02, 0.045), h / 2, 1)
    b.add(CONE, (0, 0.1, 0), (r * b.between(1.0, 1.3), b.between(0.15, 0.28), r * b.between(0.35, 0.9)))
    return f"a lamp with a {b.names[0]} shade on a {b.names[1]} stand"


def _mug(b: ObjectBuilder) -> str:
    r, h = b.between(0.28, 0.4), b.between(0.3, 0.48)
    b.add(CONE, (0, 0, 0), (r * b.between(0.8, 1.0), h, r))
    b.add(TORUS, (r * 1.05, 0, 0), (h * b.between(0.5, 0.62), b.between(0.05, 0.07), 0.05), 0, (90, 0, 0))
    b.add_rod((0, h, 0), r * 0.85, 0.02, 1)
    if b.maybe():
        b.add_rod((0, b.between(-0.1, 0.1), 0), r * 1.01, b.between(0.04, 0.1), 2)
    return f"a {b.names[0]} mug of {b.names[1]} tea"


def _add_wheels(b: ObjectBuilder, axles: tuple[float, ...], track: float, radius: float, y: float) -> None:
    for x, z in product(axles, (-1, 1)):
        b.add_rod((x, y, z * track), radius, 0.07, 2, (90, 0, 0))


def _car(b: ObjectBuilder) -> str:
    w, h, d = b.between(0.6, 0.85), b.between(0.12, 0.18), b.between(0.28, 0.36)
    b.add(BOX, (0, 0, 0), (w, h, d))
    b.add(BOX, (b.between(-0.15, 0.05), h + 0.13, 0), (w * b.between(0.4, 0.6), b.between(0.12, 0.18), d * 0.9), 1)
    _add_wheels(b, (-w * 0.6, w * 0.6), d, b.between(0.13, 0.19), -h)
    return f"a {b.names[0]} car with a {b.names[1]} roof and {b.names[2]} wheels"


def _truck(b: ObjectBuilder) -> str:
    w, d = b.between(0.7, 0.95), b.between(0.28, 0.36)
    b.add(BOX, (0, 0, 0), (w, 0.06, d), 2)
    b.add(BOX, (w * 0.72, 0.25, 0), (w * 0.27, b.between(0.2, 0.28), d))
    load = b.between(0.2, 0.42)
    if b.maybe(0.6):
        b.add(BOX, (-w * 0.28, load + 0.06, 0), (w * 0.66, load, d), 1)
    else:
        b.add_rod((-w * 0.28, d + 0.02, 0), d * 0.95, w * 0.66, 1, (0, 0, 90))
    _add_wheels(b, (-w * 0.7, -w * 0.3, w * 0.7), d, b.between(0.12, 0.16), -0.08)
    return f"a truck with a {b.names[0]} cabin and a {b.names[1]} load"


def _train(b: ObjectBuilder) -> str:
    w, r = b.between(0.6, 0.8), b.between(0.2, 0.27)
    b.add_rod((0.1, 0.05, 0), r, w * 0.75, 0, (0, 0, 90))
    b.add(BOX, (-w * 0.75, 0.17, 0), (w * 0.28, 0.34, r * 1.15), 1)
    b.add(BOX, (-w * 0.75, 0.55, 0), (w * 0.36, 0.04, r * 1.4), 2)
    b.add(CONE, (w * 0.6, 0.4, 0), (0.06, b.between(0.12, 0.2), b.between(0.08, 0.14)), 2)
    b.add(BOX, (0, -0.2, 0), (w, 0.05, r), 2)
    _add_wheels(b, (-w * 0.7, 0, w * 0.7), r, b.between(0.12, 0.16), -0.28)
    return f"a {b.names[0]} steam train with a {b.names[1]} cabin"


def _rocket(b: ObjectBuilder) -> str:
    r, h = b.between(0.16, 0.26), b.between(0.45, 0.7)
    b.add_rod((0, 0, 0), r, h)
    b.add(CONE, (0, h + 0.18, 0), (r, 0.18, 0.01), 1)
    fins = b.rng.choice((3, 4))
    for i in range(fins):
        b.add(BOX, (0, -h + 0.05, 0), (r * 2.1, 0.16, 0.03), 1, (0, 180 * i / fins + 20, 0))
    b.add(ELLIPSOID, (0, h * 0.4, r * 0.85), (0.1, 0.1, 0.08), 2)
    b.add(CONE, (0, -h - 0.08, 0), (r * 0.8, 0.08, r * 0.5), 2)
    return f"a {b.names[0]} rocket with {b.names[1]} fins"


def _snowman(b: ObjectBuilder) -> str:
    y, r = 0.0, b.between(0.34, 0.42)
    for _ in range(b.rng.choice((2, 3))):
        b.add(ELLIPSOID, (0, y, 0), (r, r, r))
        top, y, r = y + r, y + r * 1.45, r * b.between(0.68, 0.78)
    b.add_rod((0, top + 0.02, 0), 0.26, 0.025, 1)
    b.add_rod((0, top + 0.14, 0), 0.17, 0.12, 1)
    b.add(CONE, (0, top - 0.2, 0.3), (0.05, 0.14, 0.005), 2, (90, 0, 0))
    return f"a {b.names[0]} snowman with a {b.names[1]} hat"


def _robot(b: ObjectBuilder) -> str:
    w, h = b.between(0.25, 0.35), b.between(0.28, 0.38)
    b.add(BOX, (0, 0, 0), (w, h, 0.2))
    b.add(BOX, (0, h + 0.2, 0), (b.between(0.17, 0.24), 0.16, 0.17), 1)
    for x in (-1, 1):
        b.add(CAPSULE, (x * (w + 0.1), 0.03, 0), (0.08, h * 0.7, 0), 1, (0, 0, x * b.between(5, 40)))
        b.add(BOX, (x * w * 0.5, -h - 0.22, 0), (0.1, 0.22, 0.12), 1)
        b.add(ELLIPSOID, (x * 0.09, h + 0.23, 0.17), (0.05, 0.05, 0.04), 2)
    b.add_rod((0, h + 0.42, 0), 0.025, 0.1, 2)
    return f"a {b.names[0]} robot with a {b.names[1]} head"


def _mushroom(b: ObjectBuilder) -> str:
    r, h = b.between(0.36, 0.5), b.between(0.25, 0.45)
    b.add(CONE, (0, -h, 0), (b.between(0.14, 0.24), h, b.between(0.1, 0.16)), 1)
    b.add(ELLIPSOID, (0, 0, 0), (r, b.between(0.18, 0.3), r))
    for _ in range(b.rng.randint(0, 4)):
        x, z = b.between(-0.2, 0.2), b.between(0.0, 0.25)
        b.add(ELLIPSOID, (x, 0.17, z), (0.08, 0.08, 0.08), 2)
    return f"a {b.names[0]} mushroom on a {b.names[1]} stem"


def _tree(b: ObjectBuilder) -> str:
    trunk = b.between(0.2, 0.4)
    b.add_rod((0, -trunk, 0), b.between(0.06, 0.12), trunk, 1)
    if b.maybe():
        r, y = b.between(0.35, 0.48), 0.12
        for _ in range(b.rng.randint(2, 3)):
            b.add(CONE, (0, y, 0), (r, 0.24, 0.02))
            y, r = y + 0.27, r * 0.78
        return f"a {b.names[0]} fir tree with a {b.names[1]} trunk"
    for _ in range(b.rng.randint(2, 4)):
        r = b.between(0.24, 0.36)
        b.add(ELLIPSOID, (b.between(-0.2, 0.2), b.between(0.15, 0.4), b.between(-0.2, 0.2)), (r, r, r))
    return f"a {b.names[0]} leafy tree with a {b.names[1]} trunk"


def _house(b: ObjectBuilder) -> str:
    w, h, d = b.between(0.35, 0.5), b.between(0.22, 0.4), b.between(0.3, 0.45)
    b.add(BOX, (0, 0, 0), (w, h, d))
    side = w * 0.78
    b.add(BOX, (0, h, 0), (side, side, d * 1.08), 1, (0, 0, 45))
    b.add(BOX, (0, -h + 0.16, d), (0.09, 0.16, 0.03), 2)
    if b.maybe():
        b.add(BOX, (w * 0.55, h + w * 0.75, 0), (0.07, 0.2, 0.07), 2)
    return f"a {b.names[0]} house with a {b.names[1]} roof"


def _plane(b: ObjectBuilder) -> str:
    length, r = b.between(0.6, 0.8), b.between(0.11, 0.16)
    b.add(CAPSULE, (0, 0, 0), (r, length - r, 0), 0, (0, 0, 90))
    b.add(BOX, (b.between(0.0, 0.2), 0, 0), (b.between(0.12, 0.2), 0.025, b.between(0.6, 0.85)), 1)
    b.add(BOX, (-length * 0.85, 0.02, 0), (0.09, 0.02, 0.28), 1)
    b.add(BOX, (-length * 0.85, 0.2, 0), (0.1, 0.18, 0.02), 1)
    b.add(ELLIPSOID, (length * 0.5, r * 0.8, 0), (0.16, 0.09, 0.09), 2)
    return f"a {b.names[0]} plane with {b.names[1]} wings"


def _boat(b: ObjectBuilder) -> str:
    length = b.between(0.6, 0.85)
    b.add(ELLIPSOID, (0, 0, 0), (length, 0.2, b.between(0.22, 0.32)))
    b.add(BOX, (0, 0.14, 0), (length * 0.8, 0.08, 0.2), 2)
    if b.maybe():
        b.add_rod((0, 0.6, 0), 0.03, 0.45, 2)
        b.add(BOX, (length * 0.3, 0.62, 0), (length * 0.28, b.between(0.25, 0.36), 0.02), 1)
        return f"a {b.names[0]} sailing boat with a {b.names[1]} sail"
    b.add(BOX, (-0.1, 0.34, 0), (length * 0.35, 0.14, 0.16), 1)
    b.add_rod((0.1, 0.58, 0), 0.07, 0.14, 0)
    return f"a {b.names[0]} steam boat with a {b.names[1]} cabin"


def _tower(b: ObjectBuilder) -> str:
    y, r = 0.0, b.between(0.38, 0.5)
    b.add_rod((0, -0.05, 0), r * 1.1, 0.05, 1)
    for index in range(b.rng.randint(3, 6)):
        tube = r * 0.28
        b.add(TORUS, (0, y + tube, 0), (r - tube, tube, 0), index % 2 * 2)
        y, r = y + 2 * tube, r * b.between(0.78, 0.9)
    b.add(ELLIPSOID, (0, y + 0.1, 0), (0.13, 0.13, 0.13), 1)
    return f"a tower of {b.names[0]} and {b.names[2]} rings"


def _barbell(b: ObjectBuilder) -> str:
    half, r = b.between(0.4, 0.7), b.between(0.05, 0.08)
    b.add_rod((0, 0, 0), r, half, 1, (0, 0, 90))
    ball = b.between(0.22, 0.34)
    for x in (-1, 1):
        if ball < 0.28:
            b.add(ELLIPSOID, (x * half, 0, 0), (ball, ball, ball))
        else:
            b.add_rod((x * half, 0, 0), ball, b.between(0.08, 0.16), 0, (0, 0, 90))
    return f"a {b.names[0]} barbell with a {b.names[1]} bar"


def _ice_cream(b: ObjectBuilder) -> str:
    h, r = b.between(0.4, 0.6), b.between(0.22, 0.3)
    b.add(CONE, (0, -h, 0), (0.02, h, r), 1)
    y = r * 0.3
    for index in range(b.rng.randint(1, 3)):
        b.add(ELLIPSOID, (0, y, 0), (r * 1.1, r * 1.05, r * 1.1), 2 * (index % 2))
        y += r * 1.25
    return f"a {b.names[0]} ice cream in a {b.names[1]} cone"


def _duck(b: ObjectBuilder) -> str:
    body = b.between(0.4, 0.52)
    b.add(ELLIPSOID, (0, 0, 0), (body, 0.3, b.between(0.28, 0.36)))
    head = b.between(0.2, 0.26)
    b.add(ELLIPSOID, (body * 0.62, 0.4, 0), (head, head, head))
    b.add(CONE, (body * 0.62 + head * 1.15, 0.38, 0), (0.1, 0.12, 0.03), 1, (0, 0, -90))
    b.add(CONE, (-body * 0.95, 0.17, 0), (0.14, 0.14, 0.02), 0, (0, 0, 50))
    for z in (-1, 1):
        b.add(ELLIPSOID, (-0.05, 0.05, z * 0.3), (body * 0.5, 0.16, 0.08), 2)
    return f"a {b.names[0]} duck with a {b.names[1]} beak"


# Each adds an object of its category to a builder and returns its caption.
CATEGORIES: dict[str, Callable[[ObjectBuilder], str]] = {
    build.__name__.removeprefix("_").replace("_", " "): build
    for build in (
        _chair, _stool, _table, _sofa, _lamp, _mug, _car, _truck, _train, _rocket, _snowman, _robot, _mushroom, _tree,
        _house, _plane, _boat, _tower, _barbell, _ice_cream, _duck,
    )
}  # fmt: skip


@dataclass(frozen=True)
class ToyObject:
    """An object, its category and a caption."""

    category: str
    caption: str
    primitives: tuple[Primitive, ...]


def make_object(seed: int) -> ToyObject:
    """Return the object of a seed; every seed has its own, the same on every machine."""
    rng = random.Random(f"thing {seed}")  # noqa: S311 - not for secrets
    category = rng.choice(sorted(CATEGORIES))
    builder = ObjectBuilder(rng)
    caption = CATEGORIES[category](builder)
    return ToyObject(category, caption, tuple(fit(builder.primitives, EXTENT)))
