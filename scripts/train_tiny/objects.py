"""A seeded generator of coloured toys, furniture and vehicles, with captions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripts.train_tiny.shapes import BOX, CAPSULE, CONE, ELLIPSOID, TORUS, Part, Vector, fitted

# Of the cube's side: small enough that few voxels make an asset on a CPU in seconds.
EXTENT = 0.6
PALETTE: dict[str, Vector] = {
    "red": (0.80, 0.12, 0.10),
    "orange": (0.92, 0.48, 0.08),
    "yellow": (0.93, 0.80, 0.15),
    "green": (0.15, 0.55, 0.20),
    "turquoise": (0.12, 0.65, 0.62),
    "blue": (0.12, 0.28, 0.75),
    "purple": (0.48, 0.18, 0.62),
    "pink": (0.90, 0.45, 0.60),
    "brown": (0.45, 0.28, 0.14),
    "white": (0.90, 0.90, 0.88),
    "grey": (0.48, 0.48, 0.50),
    "black": (0.12, 0.12, 0.13),
}


@dataclass(frozen=True)
class Thing:
    """An object, its category and a sentence about it."""

    category: str
    caption: str
    parts: tuple[Part, ...]


class _Maker:
    """Random numbers and colours for one object, and its parts so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names = rng.sample(sorted(PALETTE), 3)
        self.colours = [PALETTE[name] for name in self.names]
        self.parts: list[Part] = []

    def between(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def add(self, kind: int, centre: Vector, size: Vector, colour: int = 0, tilt: Vector = (0, 0, 0)) -> None:
        self.parts.append(Part(kind, centre, size, self.colours[colour], tilt))

    def rod(self, centre: Vector, radius: float, half: float, colour: int = 0, tilt: Vector = (0, 0, 0)) -> None:
        self.add(CONE, centre, (radius, half, radius), colour, tilt)


def _chair(m: _Maker) -> str:
    w, d, h, t = m.between(0.30, 0.45), m.between(0.30, 0.45), m.between(0.30, 0.55), m.between(0.03, 0.06)
    leg, back = m.between(0.025, 0.05), m.between(0.30, 0.55)
    m.add(BOX, (0, 0, 0), (w, t, d))
    round_legs = m.maybe()
    for x in (-1, 1):
        for z in (-1, 1):
            place = (x * (w - leg), -t - h / 2, z * (d - leg))
            if round_legs:
                m.rod(place, leg, h / 2, 1)
            else:
                m.add(BOX, place, (leg, h / 2, leg), 1)
    m.add(BOX, (0, t + back / 2, -d + t), (w, back / 2, t))
    if m.maybe(0.4):
        for x in (-1, 1):
            m.add(BOX, (x * (w - t), t + 0.15, 0), (t, 0.03, d * 0.8), 1)
    return f"a {m.names[0]} chair with {m.names[1]} legs"


def _stool(m: _Maker) -> str:
    r, h, leg = m.between(0.28, 0.4), m.between(0.4, 0.8), m.between(0.03, 0.05)
    m.rod((0, 0, 0), r, m.between(0.04, 0.09))
    for x, z in ((-1, -1), (1, -1), (0, 1.2)) if m.maybe() else ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        m.rod((x * r * 0.6, -h / 2, z * r * 0.6), leg, h / 2, 1)
    if m.maybe():
        m.add(TORUS, (0, -h * 0.6, 0), (r * 0.75, 0.03, 0.03), 1)
    return f"a {m.names[0]} stool with {m.names[1]} legs"


def _table(m: _Maker) -> str:
    w, d, h, t = m.between(0.45, 0.8), m.between(0.35, 0.6), m.between(0.35, 0.6), m.between(0.03, 0.06)
    if m.maybe(0.35):
        m.rod((0, 0, 0), w, t)
        m.rod((0, -h / 2, 0), m.between(0.05, 0.12), h / 2, 1)
        m.rod((0, -h, 0), w * 0.5, 0.03, 1)
        return f"a round {m.names[0]} table with a {m.names[1]} foot"
    m.add(BOX, (0, 0, 0), (w, t, d))
    leg = m.between(0.03, 0.06)
    for x in (-1, 1):
        for z in (-1, 1):
            m.add(BOX, (x * (w - leg), -t - h / 2, z * (d - leg)), (leg, h / 2, leg), 1)
    return f"a {m.names[0]} table with {m.names[1]} legs"


def _sofa(m: _Maker) -> str:
    w, d, h = m.between(0.6, 0.9), m.between(0.3, 0.4), m.between(0.14, 0.2)
    m.add(BOX, (0, 0, 0), (w, h, d))
    m.add(BOX, (0, h + 0.15, -d + 0.08), (w, m.between(0.18, 0.3), 0.09))
    for x in (-1, 1):
        m.add(BOX, (x * (w + 0.07), 0.08, 0), (0.08, h + 0.1, d), 1)
    cushions = m.rng.randint(1, 3)
    for i in range(cushions):
        m.add(BOX, ((2 * i + 1 - cushions) * w / cushions, h + 0.05, 0.07), (w / cushions - 0.02, 0.06, d * 0.75), 2)
    return f"a {m.names[0]} sofa with {m.names[2]} cushions"


def _lamp(m: _Maker) -> str:
    h, r = m.between(0.5, 0.9), m.between(0.2, 0.35)
    m.rod((0, -h, 0), r * m.between(0.7, 1.0), 0.04, 1)
    m.rod((0, -h / 2, 0), m.between(0.02, 0.045), h / 2, 1)
    m.add(CONE, (0, 0.1, 0), (r * m.between(1.0, 1.3), m.between(0.15, 0.28), r * m.between(0.35, 0.9)))
    return f"a lamp with a {m.names[0]} shade on a {m.names[1]} stand"


def _mug(m: _Maker) -> str:
    r, h = m.between(0.28, 0.4), m.between(0.3, 0.48)
    m.add(CONE, (0, 0, 0), (r * m.between(0.8, 1.0), h, r))
    m.add(TORUS, (r * 1.05, 0, 0), (h * m.between(0.5, 0.62), m.between(0.05, 0.07), 0.05), 0, (90, 0, 0))
    m.rod((0, h, 0), r * 0.85, 0.02, 1)
    if m.maybe():
        m.rod((0, m.between(-0.1, 0.1), 0), r * 1.01, m.between(0.04, 0.1), 2)
    return f"a {m.names[0]} mug of {m.names[1]} tea"


def _wheels(m: _Maker, axles: tuple[float, ...], track: float, radius: float, y: float) -> None:
    for x in axles:
        for z in (-1, 1):
            m.rod((x, y, z * track), radius, 0.07, 2, (90, 0, 0))


def _car(m: _Maker) -> str:
    w, h, d = m.between(0.6, 0.85), m.between(0.12, 0.18), m.between(0.28, 0.36)
    m.add(BOX, (0, 0, 0), (w, h, d))
    m.add(BOX, (m.between(-0.15, 0.05), h + 0.13, 0), (w * m.between(0.4, 0.6), m.between(0.12, 0.18), d * 0.9), 1)
    _wheels(m, (-w * 0.6, w * 0.6), d, m.between(0.13, 0.19), -h)
    return f"a {m.names[0]} car with a {m.names[1]} roof and {m.names[2]} wheels"


def _truck(m: _Maker) -> str:
    w, d = m.between(0.7, 0.95), m.between(0.28, 0.36)
    m.add(BOX, (0, 0, 0), (w, 0.06, d), 2)
    m.add(BOX, (w * 0.72, 0.25, 0), (w * 0.27, m.between(0.2, 0.28), d))
    load = m.between(0.2, 0.42)
    if m.maybe(0.6):
        m.add(BOX, (-w * 0.28, load + 0.06, 0), (w * 0.66, load, d), 1)
    else:
        m.rod((-w * 0.28, d + 0.02, 0), d * 0.95, w * 0.66, 1, (0, 0, 90))
    _wheels(m, (-w * 0.7, -w * 0.3, w * 0.7), d, m.between(0.12, 0.16), -0.08)
    return f"a truck with a {m.names[0]} cabin and a {m.names[1]} load"


def _train(m: _Maker) -> str:
    w, r = m.between(0.6, 0.8), m.between(0.2, 0.27)
    m.rod((0.1, 0.05, 0), r, w * 0.75, 0, (0, 0, 90))
    m.add(BOX, (-w * 0.75, 0.17, 0), (w * 0.28, 0.34, r * 1.15), 1)
    m.add(BOX, (-w * 0.75, 0.55, 0), (w * 0.36, 0.04, r * 1.4), 2)
    m.add(CONE, (w * 0.6, 0.4, 0), (0.06, m.between(0.12, 0.2), m.between(0.08, 0.14)), 2)
    m.add(BOX, (0, -0.2, 0), (w, 0.05, r), 2)
    _wheels(m, (-w * 0.7, 0, w * 0.7), r, m.between(0.12, 0.16), -0.28)
    return f"a {m.names[0]} steam train with a {m.names[1]} cabin"


def _rocket(m: _Maker) -> str:
    r, h = m.between(0.16, 0.26), m.between(0.45, 0.7)
    m.rod((0, 0, 0), r, h)
    m.add(CONE, (0, h + 0.18, 0), (r, 0.18, 0.01), 1)
    fins = m.rng.choice((3, 4))
    for i in range(fins):
        m.add(BOX, (0, -h + 0.05, 0), (r * 2.1, 0.16, 0.03), 1, (0, 180 * i / fins + 20, 0))
    m.add(ELLIPSOID, (0, h * 0.4, r * 0.85), (0.1, 0.1, 0.08), 2)
    m.add(CONE, (0, -h - 0.08, 0), (r * 0.8, 0.08, r * 0.5), 2)
    return f"a {m.names[0]} rocket with {m.names[1]} fins"


def _snowman(m: _Maker) -> str:
    y, r = 0.0, m.between(0.34, 0.42)
    for _ in range(m.rng.choice((2, 3))):
        m.add(ELLIPSOID, (0, y, 0), (r, r, r))
        top, y, r = y + r, y + r * 1.45, r * m.between(0.68, 0.78)
    m.rod((0, top + 0.02, 0), 0.26, 0.025, 1)
    m.rod((0, top + 0.14, 0), 0.17, 0.12, 1)
    m.add(CONE, (0, top - 0.2, 0.3), (0.05, 0.14, 0.005), 2, (90, 0, 0))
    return f"a {m.names[0]} snowman with a {m.names[1]} hat"


def _robot(m: _Maker) -> str:
    w, h = m.between(0.25, 0.35), m.between(0.28, 0.38)
    m.add(BOX, (0, 0, 0), (w, h, 0.2))
    m.add(BOX, (0, h + 0.2, 0), (m.between(0.17, 0.24), 0.16, 0.17), 1)
    for x in (-1, 1):
        m.add(CAPSULE, (x * (w + 0.1), 0.03, 0), (0.08, h * 0.7, 0), 1, (0, 0, x * m.between(5, 40)))
        m.add(BOX, (x * w * 0.5, -h - 0.22, 0), (0.1, 0.22, 0.12), 1)
        m.add(ELLIPSOID, (x * 0.09, h + 0.23, 0.17), (0.05, 0.05, 0.04), 2)
    m.rod((0, h + 0.42, 0), 0.025, 0.1, 2)
    return f"a {m.names[0]} robot with a {m.names[1]} head"


def _mushroom(m: _Maker) -> str:
    r, h = m.between(0.36, 0.5), m.between(0.25, 0.45)
    m.add(CONE, (0, -h, 0), (m.between(0.14, 0.24), h, m.between(0.1, 0.16)), 1)
    m.add(ELLIPSOID, (0, 0, 0), (r, m.between(0.18, 0.3), r))
    for _ in range(m.rng.randint(0, 4)):
        x, z = m.between(-0.2, 0.2), m.between(0.0, 0.25)
        m.add(ELLIPSOID, (x, 0.17, z), (0.08, 0.08, 0.08), 2)
    return f"a {m.names[0]} mushroom on a {m.names[1]} stem"


def _tree(m: _Maker) -> str:
    trunk = m.between(0.2, 0.4)
    m.rod((0, -trunk, 0), m.between(0.06, 0.12), trunk, 1)
    if m.maybe():
        r, y = m.between(0.35, 0.48), 0.12
        for _ in range(m.rng.randint(2, 3)):
            m.add(CONE, (0, y, 0), (r, 0.24, 0.02))
            y, r = y + 0.27, r * 0.78
        return f"a {m.names[0]} fir tree with a {m.names[1]} trunk"
    for _ in range(m.rng.randint(2, 4)):
        r = m.between(0.24, 0.36)
        m.add(ELLIPSOID, (m.between(-0.2, 0.2), m.between(0.15, 0.4), m.between(-0.2, 0.2)), (r, r, r))
    return f"a {m.names[0]} leafy tree with a {m.names[1]} trunk"


def _house(m: _Maker) -> str:
    w, h, d = m.between(0.35, 0.5), m.between(0.22, 0.4), m.between(0.3, 0.45)
    m.add(BOX, (0, 0, 0), (w, h, d))
    side = w * 0.78
    m.add(BOX, (0, h, 0), (side, side, d * 1.08), 1, (0, 0, 45))
    m.add(BOX, (0, -h + 0.16, d), (0.09, 0.16, 0.03), 2)
    if m.maybe():
        m.add(BOX, (w * 0.55, h + w * 0.75, 0), (0.07, 0.2, 0.07), 2)
    return f"a {m.names[0]} house with a {m.names[1]} roof"


def _plane(m: _Maker) -> str:
    length, r = m.between(0.6, 0.8), m.between(0.11, 0.16)
    m.add(CAPSULE, (0, 0, 0), (r, length - r, 0), 0, (0, 0, 90))
    m.add(BOX, (m.between(0.0, 0.2), 0, 0), (m.between(0.12, 0.2), 0.025, m.between(0.6, 0.85)), 1)
    m.add(BOX, (-length * 0.85, 0.02, 0), (0.09, 0.02, 0.28), 1)
    m.add(BOX, (-length * 0.85, 0.2, 0), (0.1, 0.18, 0.02), 1)
    m.add(ELLIPSOID, (length * 0.5, r * 0.8, 0), (0.16, 0.09, 0.09), 2)
    return f"a {m.names[0]} plane with {m.names[1]} wings"


def _boat(m: _Maker) -> str:
    length = m.between(0.6, 0.85)
    m.add(ELLIPSOID, (0, 0, 0), (length, 0.2, m.between(0.22, 0.32)))
    m.add(BOX, (0, 0.14, 0), (length * 0.8, 0.08, 0.2), 2)
    if m.maybe():
        m.rod((0, 0.6, 0), 0.03, 0.45, 2)
        m.add(BOX, (length * 0.3, 0.62, 0), (length * 0.28, m.between(0.25, 0.36), 0.02), 1)
        return f"a {m.names[0]} sailing boat with a {m.names[1]} sail"
    m.add(BOX, (-0.1, 0.34, 0), (length * 0.35, 0.14, 0.16), 1)
    m.rod((0.1, 0.58, 0), 0.07, 0.14, 0)
    return f"a {m.names[0]} steam boat with a {m.names[1]} cabin"


def _tower(m: _Maker) -> str:
    y, r = 0.0, m.between(0.38, 0.5)
    m.rod((0, -0.05, 0), r * 1.1, 0.05, 1)
    for index in range(m.rng.randint(3, 6)):
        tube = r * 0.28
        m.add(TORUS, (0, y + tube, 0), (r - tube, tube, 0), index % 2 * 2)
        y, r = y + 2 * tube, r * m.between(0.78, 0.9)
    m.add(ELLIPSOID, (0, y + 0.1, 0), (0.13, 0.13, 0.13), 1)
    return f"a tower of {m.names[0]} and {m.names[2]} rings"


def _barbell(m: _Maker) -> str:
    half, r = m.between(0.4, 0.7), m.between(0.05, 0.08)
    m.rod((0, 0, 0), r, half, 1, (0, 0, 90))
    ball = m.between(0.22, 0.34)
    for x in (-1, 1):
        if ball < 0.28:
            m.add(ELLIPSOID, (x * half, 0, 0), (ball, ball, ball))
        else:
            m.rod((x * half, 0, 0), ball, m.between(0.08, 0.16), 0, (0, 0, 90))
    return f"a {m.names[0]} barbell with a {m.names[1]} bar"


def _ice_cream(m: _Maker) -> str:
    h, r = m.between(0.4, 0.6), m.between(0.22, 0.3)
    m.add(CONE, (0, -h, 0), (0.02, h, r), 1)
    y = r * 0.3
    for index in range(m.rng.randint(1, 3)):
        m.add(ELLIPSOID, (0, y, 0), (r * 1.1, r * 1.05, r * 1.1), 2 * (index % 2))
        y += r * 1.25
    return f"a {m.names[0]} ice cream in a {m.names[1]} cone"


def _duck(m: _Maker) -> str:
    body = m.between(0.4, 0.52)
    m.add(ELLIPSOID, (0, 0, 0), (body, 0.3, m.between(0.28, 0.36)))
    head = m.between(0.2, 0.26)
    m.add(ELLIPSOID, (body * 0.62, 0.4, 0), (head, head, head))
    m.add(CONE, (body * 0.62 + head * 1.15, 0.38, 0), (0.1, 0.12, 0.03), 1, (0, 0, -90))
    m.add(CONE, (-body * 0.95, 0.17, 0), (0.14, 0.14, 0.02), 0, (0, 0, 50))
    for z in (-1, 1):
        m.add(ELLIPSOID, (-0.05, 0.05, z * 0.3), (body * 0.5, 0.16, 0.08), 2)
    return f"a {m.names[0]} duck with a {m.names[1]} beak"


CATEGORIES: dict[str, Callable[[_Maker], str]] = {
    make.__name__.removeprefix("_").replace("_", " "): make
    for make in (
        _chair, _stool, _table, _sofa, _lamp, _mug, _car, _truck, _train, _rocket, _snowman, _robot, _mushroom, _tree,
        _house, _plane, _boat, _tower, _barbell, _ice_cream, _duck,
    )
}  # fmt: skip


def make_thing(seed: int) -> Thing:
    """The object of a seed; every seed has its own, the same on every machine."""
    rng = random.Random(f"thing {seed}")  # noqa: S311 - not for secrets
    category = rng.choice(sorted(CATEGORIES))
    maker = _Maker(rng)
    caption = CATEGORIES[category](maker)
    return Thing(category, caption, tuple(fitted(maker.parts, EXTENT)))
