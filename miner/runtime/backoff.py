"""The exponential back-off between attempts at something that fails."""

from __future__ import annotations


def backoff(failures: int, first: float, last: float) -> float:
    """Return the delay after the n-th failure in a row, n >= 1: `first`, doubled with each further one up to `last`."""
    # The exponent is bounded because a float overflows after some thousand failures.
    return min(first * 2.0 ** min(failures - 1, 64), last)
