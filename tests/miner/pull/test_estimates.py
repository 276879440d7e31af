import pytest

from miner.pull.estimates import INITIAL_OVERHEAD, OverheadEstimator, generation_deadline


def test_before_anything_was_measured_the_overhead_is_a_guess() -> None:
    assert OverheadEstimator().upper_bound == INITIAL_OVERHEAD
    assert generation_deadline(100.0, 30.0, OverheadEstimator()) == 100 + 30 - INITIAL_OVERHEAD


def test_the_first_measurement_replaces_the_guess_and_allows_for_thrice_as_long() -> None:
    assert OverheadEstimator().with_sample(2.0).upper_bound == pytest.approx(6.0)


def test_steady_measurements_leave_little_more_than_themselves() -> None:
    overhead = OverheadEstimator()
    for _ in range(40):
        overhead = overhead.with_sample(3.0)
    assert overhead.upper_bound == pytest.approx(3.0, abs=0.01)


def test_the_overhead_covers_nearly_all_of_what_varies() -> None:
    """As RFC 6298 has it for round trips: the mean and four times its deviation."""
    seconds = [2.0, 3.0, 2.5, 6.0] * 25
    overhead, late = OverheadEstimator(), 0
    for number, measured in enumerate(seconds):
        late += number > 3 and measured > overhead.upper_bound
        overhead = overhead.with_sample(measured)
    assert late <= 2
    assert overhead.upper_bound < 15


def test_a_validator_that_became_slow_is_noticed() -> None:
    overhead = OverheadEstimator()
    for _ in range(20):
        overhead = overhead.with_sample(1.0)
    for _ in range(3):
        overhead = overhead.with_sample(20.0)
    assert overhead.upper_bound > 20
