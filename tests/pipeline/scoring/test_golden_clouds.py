"""Which splats are valid and how they are normalised, against what the validator's own code made of the same clouds."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.errors import NonFiniteOutput
from pipeline.scoring.views import normalise_as_validator
from pipeline.splats.splats import Splats
from pipeline.splats.validation import invalid_reason
from tests.support.formula_clouds import Cloud, formula_clouds
from tests.support.formula_weights import SCORE_DATA

GOLDEN = json.loads((SCORE_DATA / "transform.json").read_text())
# The validator turns these into points that are NaN or infinite, of which it then sees nothing; here they are refused,
# so that nobody pays for rendering them.
REFUSED = {"a NaN point": "nan", "an infinite point": "inf", "all points the same": "0.0"}
POINTS = {"far from the origin: +1000": 1e-4}


def numbers(values: list[Any]) -> np.ndarray:
    return np.array([[float(v) for v in row] if isinstance(row, list) else float(row) for row in values])


def check(seen: Splats, rows: list[int], expected: dict[str, Any], points: float = 2e-6) -> None:
    """Compare rows of normalised splats with what the validator had, as activated values."""
    assert np.abs(seen.means[rows].numpy() - numbers(expected["points"])).max() <= points
    for values, name in ((seen.log_scales.exp(), "scales"), (seen.opacity_logits.sigmoid(), "opacities")):
        # NaN is where the validator has it.
        np.testing.assert_allclose(values[rows].numpy(), numbers(expected[name]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("label", sorted(GOLDEN["edge"]))
def test_which_are_valid(label: str) -> None:
    assert (invalid_reason(formula_clouds()[label].to_splats()) is None) == GOLDEN["edge"][label]["valid"]


@pytest.mark.parametrize("label", sorted(GOLDEN["edge"].keys() - REFUSED.keys()))
def test_how_they_are_normalised(label: str) -> None:
    expected = GOLDEN["edge"][label]["transform"]
    seen = normalise_as_validator(formula_clouds()[label].to_splats())
    check(seen, expected["rows"], expected, POINTS.get(label, 2e-6))


@pytest.mark.parametrize("label", sorted(REFUSED))
def test_what_the_validator_would_turn_into_nan_is_refused(label: str) -> None:
    with pytest.raises(NonFiniteOutput, match=f"an extent of {REFUSED[label]} cannot be normalised"):
        normalise_as_validator(formula_clouds()[label].to_splats())


def fillers(points: np.ndarray, extent: list[float], mean: float) -> Iterator[np.ndarray]:
    """Yield points that give some of a cloud's points the box and the mean of the whole cloud."""
    low = points.min(axis=0)
    corners = np.stack([low, low + np.array(extent)])
    yield corners
    number = 1000
    total = mean * 3 * (len(points) + len(corners) + number) - points.sum() - corners.sum()
    offset = total / (3 * number)
    assert (low <= offset).all()
    assert (offset <= corners[1]).all()
    yield np.full((number, 3), offset)


@pytest.mark.parametrize("name", sorted(GOLDEN["real"]))
def test_rows_of_real_splats(name: str) -> None:
    golden = GOLDEN["real"][name]
    before, after = ({key: numbers(part["rows"]) for key, part in golden[time].items()} for time in ("before", "after"))
    facts, rows = golden["facts"], list(range(len(before["points"])))
    others = np.concatenate(list(fillers(before["points"], facts["extent"], facts["mean_all_coordinates_float64"])))
    cloud = Cloud(
        np.concatenate([before["points"], others]),
        np.concatenate([before["scales"], np.ones_like(others)]),
        np.concatenate([before["opacities"], np.full(len(others), 0.5)]),
        np.concatenate([before["rotations"], np.ones((len(others), 4))]),
    )
    splats = cloud.to_splats()
    seen = normalise_as_validator(splats)
    assert math.isclose(facts["scaling"], 1.5 / max(facts["extent"]))
    check(seen, rows, {key: values.tolist() for key, values in after.items()})
    assert seen.quaternions is splats.quaternions
    assert seen.f_dc is splats.f_dc
