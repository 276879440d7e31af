"""The golden views that the validator's own code scored."""

import json
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.support.formula_weights import SCORE_DATA

OBJECTS = ("robocop", "hamburger")


@cache
def golden_views(name: str) -> Tensor:
    """Return the 16 views [16, 518, 518, 3] uint8 of an object; not to be written to."""
    with Image.open(SCORE_DATA / "views" / f"{name}.png") as picture:
        return torch.from_numpy(np.array(picture)).reshape(16, 518, 518, 3)


@cache
def golden_scores(name: str) -> dict[str, Any]:
    """Return what scores.json has about an object."""
    scores: dict[str, Any] = json.loads((SCORE_DATA / "scores.json").read_text())[name]
    return scores
