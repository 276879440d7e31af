import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.axon import replays
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


JUMPS = st.sampled_from([0, 0, 0, 60, -60, 36_000, -36_000])


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-30, 30), JUMPS, st.booleans()), max_size=60))
def test_no_nonce_is_taken_twice_whatever_the_wall_clock_does(steps: list[tuple[float, float, int, bool]]) -> None:
    """Nor after a restart."""
    clocks, taken = TwoClocks(), set[int]()
    with TemporaryDirectory() as folder:
        no_nonce_is_taken_twice(clocks, taken, Path(folder) / "nonces.json", steps)


def no_nonce_is_taken_twice(
    clocks: TwoClocks, taken: set[int], path: Path, steps: list[tuple[float, float, int, bool]]
) -> None:
    window = ReplayWindow(WINDOW, clocks.clock, path)
    for wait, offset, jump, has_restarted in steps:
        clocks.pass_time(wait)
        clocks.unix += jump
        if has_restarted:
            window = ReplayWindow(WINDOW, clocks.clock, path)
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


def test_a_replay_is_refused_after_a_restart_with_a_clock_that_was_set_back(clocks: TwoClocks, tmp_path: Path) -> None:
    path = tmp_path / "nonces.json"
    window = ReplayWindow(WINDOW, clocks.clock, path)
    captured = nonce(clocks)
    window.remember(captured)
    clocks.pass_time(3600)
    window.remember(nonce(clocks))
    again = ReplayWindow(WINDOW, TwoClocks(3.0, clocks.unix - 3600).clock, path)
    assert again.find_problem(captured) == "the nonce was used before"


def test_the_latest_nonces_are_written(clocks: TwoClocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MAX_SAVED", 10)
    path = tmp_path / "nonces.json"
    window = ReplayWindow(WINDOW, clocks.clock, path)
    for number in range(100):
        window.remember(number)
    assert json.loads(path.read_text()) == list(range(90, 100))
    assert len(window) == 100


@pytest.mark.parametrize("content", ["", "{", "3", '["x"]', "[null]", "[1e999]", "[" * 100_000])
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
