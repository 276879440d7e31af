"""The final score, against what the validator's own code made of the same parts."""

import json

import pytest

from pipeline.scoring.formula import final_score
from tests.support.formula_weights import SCORE_DATA

GOLDEN = json.loads((SCORE_DATA / "final_score.json").read_text())


def test_the_golden_rows() -> None:
    assert len(GOLDEN["rows"]) > 50
    for row in GOLDEN["rows"]:
        iqa, alignment, ssim, lpips, expected = (
            float(row[part]) for part in ("iqa", "alignment", "ssim", "lpips", "score")
        )
        score = final_score(iqa, alignment, ssim, lpips)
        assert score == pytest.approx(expected, abs=1e-7, rel=0, nan_ok=True), row
        assert (score == 0) == (expected == 0), row
