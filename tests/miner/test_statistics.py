from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.statistics import wilson_interval


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # From the closed form with z = 1.96; see Brown, Cai, DasGupta (2001) for the method.
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (212, 500, 0.3814, 0.4677),
        (0, 50, 0, 0.0713),
    ],
)
def test_known_intervals(successes: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def test_without_data_everything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total"), [(-1, 5), (6, 5), (0, -1)])
def test_what_is_no_proportion(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, total)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_share_lies_inside_and_ten_times_the_data_says_more(counts: tuple[int, int]) -> None:
    successes, total = counts
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    narrower = wilson_interval(10 * successes, 10 * total)
    assert narrower[1] - narrower[0] < high - low
