import logging
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.config.settings import HousekeepingSettings, OperatorFiles, RetentionSettings
from miner.ledger.events import PhaseAssignment, TasksDeleted, TaskStarted
from miner.ledger.reader import LedgerReader
from miner.ledger.writer import LedgerWriter
from miner.monitor.retention import (
    DAY,
    LOGS,
    RESULTS,
    Retention,
    StoredItem,
    delete_expired,
    find_ledger_cutoff,
    measure_ledger,
    select_expired,
)
from tests.support.factories import TwoClocks

NOW = 1_700_000_000.0
WIDE = 10**15


def item(name: str, size: int, days: float) -> StoredItem:
    return StoredItem((name,), size, NOW - days * DAY)


@pytest.mark.parametrize(
    ("kept", "max_days", "max_bytes", "gone"),
    [
        ([], 7, 100, ""),
        ([("a", 40, 1), ("b", 60, 2)], 7, 100, ""),
        ([("a", 40, 1), ("b", 61, 2)], 7, 100, "b"),
        ([("a", 40, 8), ("b", 10, 1)], 7, 100, "a"),
        ([("a", 101, 0)], 7, 100, "a"),
        ([("new", 50, 0), ("mid", 50, 1), ("old", 50, 2), ("older", 1, 3)], 7, 100, "older old"),
        ([("new", 10, 0), ("huge", 500, 1), ("old", 10, 2)], 7, 100, "old huge"),
        ([("x", 0, 7), ("y", 0, 7.01)], 7, 100, "y"),
        ([("b", 60, 1), ("a", 60, 1)], 7, 100, "a"),
        ([("from the future", 10, -5)], 7, 100, ""),
    ],
)
def test_what_has_expired(kept: list[tuple[str, int, float]], max_days: float, max_bytes: int, gone: str) -> None:
    limits = RetentionSettings(max_days=max_days, max_bytes=max_bytes)
    found = select_expired([item(*one) for one in kept], NOW, limits)
    assert " ".join(name for one in found for name in one.names) == gone


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(-2, 20)), max_size=30),
    st.floats(0.1, 15),
    st.integers(1, 500),
)
def test_what_is_kept_fits_and_no_more_is_deleted_than_must(
    facts: list[tuple[int, float]], max_days: float, max_bytes: int
) -> None:
    items = [item(str(index), size, days) for index, (size, days) in enumerate(facts)]
    gone = select_expired(items, NOW, RetentionSettings(max_days=max_days, max_bytes=max_bytes))
    kept = [one for one in items if one not in gone]
    oldest = NOW - max_days * DAY
    assert sum(one.size for one in kept) <= max_bytes
    assert all(one.modified >= oldest for one in kept)
    # Nothing older stays than what goes.
    assert max((one.modified for one in gone), default=-1.0) <= min((one.modified for one in kept), default=NOW * 2)
    if gone and gone[-1].modified >= oldest:
        assert sum(one.size for one in kept) + gone[-1].size > max_bytes


def write(folder: Path, name: str, size: int = 10, days: float = 0.0) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_results_files_go_together_by_the_last_written(tmp_path: Path) -> None:
    aged = [("1.spz", 9), ("1.json", 9), ("1.prompt", 9), ("1.candidates.zip", 9), ("2.ply", 9), ("2.json", 1)]
    for name, days in aged:
        write(tmp_path, name, days=days)
    gone = delete_expired(tmp_path, RESULTS, RetentionSettings(max_days=5, max_bytes=WIDE), NOW)
    assert [(one.names, one.size) for one in gone] == [(("1.candidates.zip", "1.json", "1.prompt", "1.spz"), 40)]
    assert names(tmp_path) == {"2.ply", "2.json"}


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "12.txt", "a1.spz", "1.spz.bak", ".1.spz", "1.spz.0123abcd.part", ".1.part"],
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, days=1000)
    assert delete_expired(tmp_path, RESULTS, RetentionSettings(max_days=1, max_bytes=1), NOW) == []
    assert names(tmp_path) == {name}


def test_partial_files_of_a_crash_go_with_their_result(tmp_path: Path) -> None:
    earlier_releases = ("1.part", "1.prompt.part")
    for name in ("1.spz", ".1.json.0123abcd.part", ".1.prompt.webp.89abcdef.part", *earlier_releases):
        write(tmp_path, name, days=9)
    (gone,) = delete_expired(tmp_path, RESULTS, RetentionSettings(max_days=5, max_bytes=WIDE), NOW)
    assert len(gone.names) == 5
    assert names(tmp_path) == set()


def test_links_and_folders_stay_and_what_they_lead_to(tmp_path: Path) -> None:
    folder, outside = tmp_path / "results", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    victim = write(outside, "1.spz", days=1000)
    (folder / "1.spz").symlink_to(victim)
    (folder / "2.spz").symlink_to(outside)
    (folder / "3.spz").mkdir()
    write(folder / "3.spz", "1.spz", days=1000)
    (folder / "4.spz").symlink_to("nowhere")
    assert delete_expired(folder, RESULTS, RetentionSettings(max_days=1, max_bytes=1), NOW) == []
    assert victim.exists()
    assert (folder / "3.spz" / "1.spz").exists()


def test_a_missing_folder_is_an_empty_one_and_a_file_none(tmp_path: Path) -> None:
    limits = RetentionSettings(max_days=1, max_bytes=1)
    assert delete_expired(tmp_path / "none", RESULTS, limits, NOW) == []
    with pytest.raises(NotADirectoryError):
        delete_expired(write(tmp_path, "file"), RESULTS, limits, NOW)


def test_the_present_log_stays(tmp_path: Path) -> None:
    for name in ("miner.log", "miner.log.1", "miner.log.12", "other.log.1"):
        write(tmp_path, name, days=1000)
    delete_expired(tmp_path, LOGS, RetentionSettings(max_days=1, max_bytes=1), NOW)
    assert names(tmp_path) == {"miner.log", "other.log.1"}


def fill(path: Path, moments: list[float]) -> LedgerWriter:
    ledger = LedgerWriter(path)
    assignment = PhaseAssignment("p" * 400, "h", None)
    for at in moments:
        ledger.record(TaskStarted(int(at * 1e9), at, "pull", "5F", 1, "task", "image", assignment, "v"))
    assert ledger.flush(60)
    return ledger


def test_the_ledger_forgets_what_is_too_old(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    limits = RetentionSettings(max_days=10, max_bytes=WIDE)
    assert find_ledger_cutoff(path, limits, NOW) is None
    ledger = fill(path, [NOW - days * DAY for days in (30, 11, 9, 1)])
    before = find_ledger_cutoff(path, limits, NOW)
    assert before == NOW - 10 * DAY
    ledger.record(TasksDeleted(before))
    assert ledger.flush(60)
    assert find_ledger_cutoff(path, limits, NOW) is None
    with LedgerReader(path) as reader:
        assert [row.assigned_at for row in reader.tasks()] == [NOW - 9 * DAY, NOW - DAY]
    assert ledger.close(60)


def test_a_ledger_that_is_too_large_loses_its_oldest_tasks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = fill(path, [NOW - DAY + index for index in range(400)])
    assert ledger.close(60)
    size = measure_ledger(path)
    before = find_ledger_cutoff(path, RetentionSettings(max_days=1000, max_bytes=size // 2), NOW)
    assert before is not None
    # 0.9 of half of them are to stay.
    assert before - (NOW - DAY) == pytest.approx(220, abs=4)
    assert find_ledger_cutoff(path, RetentionSettings(max_days=1000, max_bytes=size), NOW) is None


def test_a_round_tidies_all_and_tells_of_what_fails_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = 10 * 365
    for folder, name in (("results", "1.spz"), ("pictures", "1.webp"), ("logs", "miner.log.1")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, name, days=old)
    path = tmp_path / "ledger.sqlite"
    fill(path, [NOW - old * DAY, time.time() - 1.5 * DAY, time.time()]).close(60)
    told: list[TasksDeleted] = []
    retention = Retention(HousekeepingSettings(), tmp_path, path, told.append)
    with caplog.at_level(logging.INFO, "miner"):
        retention.run_once()
        assert not [file for folder in ("results", "pictures", "logs") for file in (tmp_path / folder).iterdir()]
        assert len(told) == 1
        assert "Deleted the 1 oldest" in caplog.text
        path.unlink()
        path.write_bytes(b"no database" * 100)
        (tmp_path / "logs").rmdir()
        write(tmp_path, "logs")
        caplog.clear()
        retention.run_once()
        retention.run_once()
    assert caplog.text.count("cannot be deleted") == 2


class OldFiles:
    """A state folder with a file of each kind and two tasks, all a day old, and clocks that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.clocks = TwoClocks(unix=NOW)
        self.files = [folder / "results" / "1.spz", folder / "pictures" / "1.webp", folder / "logs" / "miner.log.1"]
        for file in self.files:
            file.parent.mkdir()
            write(file.parent, file.name, days=0.9)
        ledger = folder / "ledger.sqlite"
        fill(ledger, [NOW - 0.9 * DAY, NOW - 0.8 * DAY]).close(60)
        self.told: list[TasksDeleted] = []
        self.folder = folder
        self.restart()

    def restart(self) -> None:
        """Look after the files as the next process does, which knows nothing of what this one saw."""
        ledger = self.folder / "ledger.sqlite"
        self.retention = Retention(HousekeepingSettings(), self.folder, ledger, self.told.append, self.clocks.clock)

    def record(self, name: str) -> None:
        """Keep a result of this moment."""
        write(self.folder / "results", name)
        os.utime(self.folder / "results" / name, (self.clocks.unix, self.clocks.unix))

    def lives(self) -> bool:
        """Have a round of housekeeping; whether everything is still there."""
        self.retention.run_once()
        return all(file.exists() for file in self.files) and not self.told


def test_nothing_goes_by_its_age_while_the_clock_has_stepped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = OldFiles(tmp_path)
    assert old.lives()
    old.clocks.unix += 1000 * DAY
    for _ in range(3):
        assert old.lives()
        old.clocks.pass_time(300)
    old.clocks.unix -= 1000 * DAY
    assert old.lives()
    assert caplog.text.count("has stepped by") == 2
    # A clock that stays where it has stepped to is right.
    old.clocks.unix += 1000 * DAY
    assert old.lives()
    old.clocks.pass_time(DAY + 1)
    assert not old.lives()
    assert not any(file.exists() for file in old.files)
    assert len(old.told) == 1


def test_nothing_goes_by_its_age_if_the_clock_is_ahead_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = OldFiles(tmp_path)
    old.clocks.unix += 20 * DAY
    for _ in range(3):
        assert old.lives()
        old.clocks.pass_time(300)
    assert caplog.text.count("days ahead of the newest record") == 1


@pytest.mark.parametrize("was_seen", [True, False])
def test_a_restart_does_not_end_the_doubt_although_something_was_recorded_since(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, was_seen: bool
) -> None:
    """The record that was made by the wrong clock speaks for it."""
    old = OldFiles(tmp_path)
    if was_seen:
        assert old.lives()
    old.clocks.unix += 40 * DAY
    assert old.lives()
    old.record("2.spz")
    old.clocks.pass_time(300)
    for _ in range(2):
        old.restart()
        assert old.lives()
        old.clocks.pass_time(3600)
    assert caplog.text.count("days ahead of the last record before today's") == 2
    # After a day with that clock, it is right.
    old.clocks.pass_time(DAY)
    old.record("3.spz")
    old.restart()
    assert not old.lives()


def test_sizes_are_kept_to_whatever_the_clock_shows(tmp_path: Path) -> None:
    old = OldFiles(tmp_path)
    tight = RetentionSettings(max_days=1000, max_bytes=1)
    old.retention = Retention(
        HousekeepingSettings(results=tight, pictures=tight, logs=tight),
        tmp_path,
        tmp_path / "ledger.sqlite",
        old.told.append,
        old.clocks.clock,
    )
    old.clocks.unix += 20 * DAY
    assert not old.lives()
    assert not any(file.exists() for file in old.files)


def test_the_defaults_fit_20_gb() -> None:
    shipped = OperatorFiles.load().settings.housekeeping
    for settings in (shipped, HousekeepingSettings()):
        kinds = (settings.results, settings.pictures, settings.logs, settings.ledger)
        assert sum(kind.max_bytes for kind in kinds) <= 20e9 * 0.95
    assert shipped == HousekeepingSettings()
