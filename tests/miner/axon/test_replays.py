from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.axon.replays import KEPT_SECONDS, MAX_KEPT, ReplayWindow
from tests.support.factories import TwoClocks

WINDOW = 30


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks()


def nonce(clocks: TwoClocks, offset: float = 0.0) -> int:
    return int((clocks.unix + offset) * 1e9)


@pytest.mark.parametrize(
    ("offset", "problem"),
    [
        (0.001, None),
        (29.9, None),
        (-29.9, None),
        (30.1, "30.1 s ahead of our clock, at most 30 s"),
        (-40, "40.0 s behind"),
    ],
)
def test_a_nonce_is_acceptable_within_the_window(clocks: TwoClocks, offset: float, problem: str | None) -> None:
    found = ReplayWindow(WINDOW, clocks.clock).find_problem(nonce(clocks, offset))
    assert found is None if problem is None else problem in str(found)


JUMPS = st.sampled_from([0, 0, 0, 36_000, -36_000])


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(-30, 30), JUMPS), max_size=60))
def test_no_nonce_is_taken_twice_whatever_the_wall_clock_does(steps: list[tuple[float, float, int]]) -> None:
    clocks, taken = TwoClocks(), set[int]()
    window = ReplayWindow(WINDOW, clocks.clock)
    for wait, offset, jump in steps:
        clocks.pass_time(wait)
        clocks.unix += jump
        candidate = nonce(clocks, offset)
        if window.find_problem(candidate) is None:
            assert candidate not in taken
            taken.add(candidate)
            window.remember(candidate)
        assert all(window.find_problem(used) for used in taken)


def test_old_nonces_are_forgotten(clocks: TwoClocks) -> None:
    window = ReplayWindow(WINDOW, clocks.clock)
    window.remember(1)
    clocks.pass_time(KEPT_SECONDS + 1)
    window.remember(2)
    assert len(window) == 1
    for number in range(MAX_KEPT + 10):
        window.remember(number + 10)
    assert len(window) == MAX_KEPT


@pytest.mark.parametrize("offset", [-20.0, 0.0, 20.0])
def test_a_nonce_used_before_a_restart_is_still_used(clocks: TwoClocks, tmp_path: Path, offset: float) -> None:
    path = tmp_path / "state" / "nonces.json"
    used = nonce(clocks, offset)
    ReplayWindow(WINDOW, clocks.clock, path).remember(used)
    clocks.pass_time(2)
    # The steady clock begins anew.
    again = ReplayWindow(WINDOW, TwoClocks(3.0, clocks.unix).clock, path)
    assert again.find_problem(used) == "the nonce was used before"
    assert again.find_problem(used + 1) is None


def test_only_what_the_window_may_contain_is_written(clocks: TwoClocks, tmp_path: Path) -> None:
    path = tmp_path / "nonces.json"
    window = ReplayWindow(WINDOW, clocks.clock, path)
    for _ in range(100):
        window.remember(nonce(clocks))
        clocks.pass_time(10)
    assert len(ReplayWindow(WINDOW, clocks.clock, path)) == 7
    assert len(window) == 100


@pytest.mark.parametrize("content", ["", "{", "3", '["x"]', "[null]"])
def test_a_damaged_file_is_as_good_as_none(
    clocks: TwoClocks, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "nonces.json"
    path.write_text(content)
    assert len(ReplayWindow(WINDOW, clocks.clock, path)) == 0
    assert "start afresh" in caplog.text


def test_a_disk_that_takes_nothing_is_reported_once(
    clocks: TwoClocks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    window = ReplayWindow(WINDOW, clocks.clock)
    window._path = tmp_path / "file" / "nonces.json"
    window.remember(1)
    window.remember(2)
    assert caplog.text.count("cannot be written") == 1
    assert window.find_problem(nonce(clocks)) is None
