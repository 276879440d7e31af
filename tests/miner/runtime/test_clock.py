from miner.runtime.clock import backoff


def test_backoff_doubles_up_to_the_last_delay() -> None:
    assert [backoff(failures, 1.0, 300.0) for failures in (1, 2, 3, 9, 10, 11)] == [1, 2, 4, 256, 300, 300]


def test_backoff_survives_any_number_of_failures() -> None:
    assert backoff(10_000_000, 15.0, 600.0) == 600.0


def test_the_last_delay_bounds_the_first() -> None:
    assert backoff(1, 15.0, 0.5) == 0.5
