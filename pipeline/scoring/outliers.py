"""What the validator makes of the scores of single views: some are dropped, and a mean is taken of the rest.

Its filter is the KNN detector of pytod 0.0.3 with the defaults.
"""

import numpy as np

# An outlier is far from its 5th nearest other value; about 10 % of the values are taken for outliers.
_NEIGHBOURS = 5
_INLIERS = 0.9
# The validator overwrites outliers with this value, and then drops whatever equals it.
_MARK = -1


def filter_outliers(values: np.ndarray) -> np.ndarray:
    """Return the values without outliers, flattened to [K] in the dtype of the data, in which all is computed.

    values: floating-point numbers of any shape. Those of 16 values that are kept are usually 14; ties can make it more.
    With a NaN among them, none is an outlier. Raises ValueError if there are fewer than 6, which the validator cannot
    filter, either.
    """
    if values.size <= _NEIGHBOURS:
        raise ValueError(f"outliers can be found among at least {_NEIGHBOURS + 1} values, not among {values.size}")
    # Quirk of the validator: sorted along the last axis, so that a column [N, 1] keeps its order.
    ordered = np.sort(values, axis=-1).reshape(-1)
    with np.errstate(invalid="ignore"):
        distances = np.abs(ordered[:, None] - ordered[None, :])
        # The smallest distance is that of the value to itself.
        scores = np.sort(distances, axis=1)[:, _NEIGHBOURS]
        threshold = np.quantile(scores, _INLIERS)
    # Not `scores <= threshold`: with a NaN, nothing is an outlier.
    kept: np.ndarray = ordered[~(scores > threshold) & (ordered != _MARK)]
    return kept


def geometric_mean(values: np.ndarray) -> float:
    """Return exp(mean(log(values))): 0 if one value is 0, NaN if one is negative or there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.log(values).sum() / values.size))
