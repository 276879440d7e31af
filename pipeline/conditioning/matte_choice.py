"""The choice among mattes of one picture: which are no cut-out at all, and which of the others is most likely right.

The weights are fitted on composites whose masks are known, see scripts/validation/mattings.py.
"""

import math
from collections.abc import Sequence
from typing import Literal

from pipeline.conditioning.matte_measures import MatteMeasures

Flaw = Literal["", "empty", "full"]
"""What keeps a matte from being a cut-out: nothing of the picture is left, or all of it is."""

# A matte along nearly the whole edge of the picture has taken the ground, or the picture itself, for the object.
FULL_BORDER = 0.9
FULL_AREA = 0.95
# Mattes of a smaller mean alpha are specks: a square of 46 pixels in a picture of 1024 x 1024.
EMPTY_AREA = 0.002

# Of the features below, in their order.
WEIGHTS = (1.075, -0.786, -0.388, 0.057, -0.334, 0.084, -0.903, 0.008)

# A model that stands later in the phase is taken if its matte is expected to be better by more than this.
PREFERENCE = 0.04


def find_flaw(measures: MatteMeasures) -> Flaw:
    """Return why a matte is no cut-out, or "" if it may be one."""
    if measures.area < EMPTY_AREA or measures.pieces == 0:
        return "empty"
    return "full" if measures.border >= FULL_BORDER or measures.area >= FULL_AREA else ""


def expect_iou(measures: MatteMeasures, weights: Sequence[float] = WEIGHTS) -> float:
    """Return the IoU with the true mask to be expected of a matte, 0 to 1, by a linear rule."""
    expected = sum(weight * feature for weight, feature in zip(weights, features(measures), strict=True))
    return min(max(expected, 0.0), 1.0)


def features(measures: MatteMeasures) -> tuple[float, ...]:
    """Return what the expected IoU is linear in, 1 first."""
    return (
        1.0,
        measures.area,
        measures.border,
        math.log(max(measures.pieces, 1)),
        1 - measures.largest,
        measures.holes,
        measures.softness,
        math.log(max(measures.roughness, 1.0)),
    )


def choose_matte(candidates: Sequence[MatteMeasures], weights: Sequence[float] = WEIGHTS) -> int | None:
    """Return the index of the matte to take; None if all are flawed.

    It is the one of the highest expected IoU, the first of equals; the first that has no flaw is preferred by
    PREFERENCE, since the models of a phase are in the operator's order.
    """
    usable = [index for index, measures in enumerate(candidates) if not find_flaw(measures)]

    def worth(index: int) -> float:
        return expect_iou(candidates[index], weights) + (PREFERENCE if index == usable[0] else 0.0)

    return max(usable, key=worth, default=None)
