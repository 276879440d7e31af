"""A seeded generator of toy objects with captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.train_tiny.data.categories import CATEGORIES, ObjectBuilder
from scripts.train_tiny.data.primitives import Primitive, fit

# Of the cube's side: small enough that a CPU makes an asset of the few voxels in seconds.
EXTENT = 0.6


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
