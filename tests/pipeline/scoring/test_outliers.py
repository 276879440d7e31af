"""The validator's filter and mean, against what its own code made of the same values."""

import json
import math
from typing import Any

import numpy as np
import pytest

from pipeline.scoring.outliers import filter_outliers, geometric_mean
from tests.support.formula_weights import SCORE_DATA

GOLDEN = json.loads((SCORE_DATA / "filter_outliers.json").read_text())


def array(numbers: list[float | str], dtype: str) -> np.ndarray:
    return np.array([float(number) for number in numbers]).astype(dtype)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["label"])
def test_values_of_16_views(case: dict[str, Any]) -> None:
    kept = filter_outliers(array(case["values"], case["dtype"]).reshape(case["shape"]))
    assert kept.dtype == case["kept_dtype"]
    assert kept.shape == tuple(case["kept_shape"])
    assert np.array_equal(kept, array(case["kept"], case["kept_dtype"]), equal_nan=True)
    tolerance = 1e-6 if case["dtype"] == "float32" else 1e-14
    expected = case["means"]["geometric_mean"]
    assert geometric_mean(kept) == pytest.approx(float(expected), rel=tolerance, abs=0, nan_ok=True)


@pytest.mark.parametrize("case", GOLDEN["other_lengths"], ids=lambda case: str(case["n"]))
def test_other_numbers_of_values(case: dict[str, Any]) -> None:
    values = array(case["values"], "float64")
    if "raises" in case:
        with pytest.raises(ValueError, match=f"among at least 6 values, not among {case['n']}"):
            filter_outliers(values)
    else:
        assert np.array_equal(filter_outliers(values), array(case["kept"], "float64"))


def test_the_mean_of_special_values() -> None:
    assert geometric_mean(np.array([0.5, 0.0])) == 0
    assert math.isnan(geometric_mean(np.array([0.5, -0.5])))
    assert math.isnan(geometric_mean(filter_outliers(np.full(16, -1.0))))
