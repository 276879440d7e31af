"""Preprocessing of views, against what the validator's own code made of them."""

import numpy as np
import pytest
import torch

from pipeline.scoring.clip_pixels import clip_pixels
from tests.support.formula_weights import SCORE_DATA
from tests.support.score_views import golden_views

# One step of float16 at 1..2.
HALF_STEP = 2e-3


@pytest.mark.parametrize(
    ("key", "size", "dtype", "tolerance"),
    [
        ("text_f32", 224, torch.float32, 1e-5),
        ("text_half", 224, torch.float16, HALF_STEP),
        ("image_f32", 336, torch.float32, 1e-5),
        ("image_half", 336, torch.float16, HALF_STEP),
    ],
)
def test_the_golden_view(key: str, size: int, dtype: torch.dtype, tolerance: float) -> None:
    golden = np.load(SCORE_DATA / "features.npz")[f"robocop.pre_{key}"]
    pixels = clip_pixels(golden_views("robocop")[1:2], size, dtype)
    assert (pixels.shape, pixels.dtype) == ((1, 3, size, size), dtype)
    assert np.abs(pixels[0, :, ::8, ::8].float().numpy() - golden).max() < tolerance


def test_white_is_negative_since_mean_and_deviation_are_tripled() -> None:
    white = clip_pixels(torch.full((1, 8, 4, 3), 255, dtype=torch.uint8), 16, torch.float32)
    assert white[0, :, 0, 0].tolist() == pytest.approx([-0.5514, -0.4764, -0.2715], abs=1e-4)
