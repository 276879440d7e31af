"""What the ledger does when its file is deleted, replaced or overwritten, or loses its -wal, while the miner runs."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from miner.ledger import writer
from miner.ledger.events import (
    Event,
    ExperimentEnded,
    ExperimentStarted,
    GenerationFailed,
    PhaseChanged,
    SubmissionAnswered,
)
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import LedgerReader
from miner.ledger.writer import LedgerWriter
from tests.miner.ledger.conftest import LogWatcher, read_tasks, task_started

# What a run of the miner before this one has written.
EARLIER: tuple[Event, ...] = (
    PhaseChanged(1.0, "a", "start", "h1", "x: 1\n"),
    ExperimentStarted("ended", 2.0, 7, {"a": 1, "b": 1}),
    ExperimentEnded("ended", 3.0, "b has won"),
    ExperimentStarted("open", 4.0, 8, {"a": 1, "b": 3}),
)
HISTORY = [(1.0, "a", "start"), (5.0, "a", "start")]


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def delete_wal(path: Path) -> None:
    wal(path).unlink()


def foreign(path: Path) -> Path:
    """Another miner's ledger, with more pages."""
    other = LedgerWriter(path.with_name("other.sqlite"))
    for number in range(40):
        other.record(task_started(other, f"foreign {number}"))
    assert other.close(10)
    return other.path


def replace(path: Path) -> None:
    foreign(path).replace(path)


def overwrite(path: Path) -> None:
    shutil.copyfile(foreign(path), path)


@contextmanager
def closing_writer(ledger: LedgerWriter) -> Iterator[LedgerWriter]:
    """Close a writer at the end of the context."""
    yield ledger
    assert ledger.close(10)


@pytest.fixture
def running(path: Path) -> LedgerWriter:
    """A writer that goes on with an earlier ledger and has written two tasks, the second into its -wal."""
    with closing_writer(LedgerWriter(path)) as before:
        for event in EARLIER:
            before.record(event)
    ledger = LedgerWriter(path)
    ledger.record(PhaseChanged(5.0, "a", "start", "h1", "x: 1\n"))
    ledger.record(task_started(ledger, "one"))
    assert ledger.flush(10)
    checkpoint(path)
    ledger.record(task_started(ledger, "two"))
    assert ledger.flush(10)
    assert ledger.status.written == 3
    return ledger


@pytest.mark.parametrize(
    ("lose", "words", "survivors"),
    [
        (delete, "was deleted", []),
        (delete_all, "was deleted", []),
        (replace, "was replaced by another file", [f"foreign {number}" for number in range(40)]),
        (overwrite, "was overwritten", [f"foreign {number}" for number in range(40)]),
        (delete_wal, "has lost its -wal file", ["one", "two"]),
    ],
)
def test_a_lost_file_is_told_and_its_history_written_again(
    running: LedgerWriter, path: Path, lose: Callable[[Path], None], words: str, survivors: list[str]
) -> None:
    with closing_writer(running), LogWatcher("while the miner ran") as warnings:
        lose(path)
        running.record(task_started(running, "three"))
        assert running.flush(10)
        assert f"The ledger {path} {words} while the miner ran" in warnings.wait()
        assert sorted(row.task_id for row in read_tasks(path)) == sorted([*survivors, "three"])
        with LedgerReader(path) as reader:
            assert [(row.at, row.phase, row.action) for row in reader.phases()] == HISTORY
            experiments = {row.name: (row.weights, row.decision) for row in reader.experiments()}
        assert experiments == {"ended": ({"a": 1, "b": 1}, "b has won"), "open": ({"a": 1, "b": 3}, None)}
        status = running.status
        is_kept = survivors == ["one", "two"]
        assert (status.written, status.dropped) == ((4, 0) if is_kept else (2, 2))
        assert words in status.problem
        assert ("no record of this run is lost" if is_kept else "lost: 2 records of this run") in status.problem
        # It stays a problem, and is told once.
        running.record(task_started(running, "four"))
        assert running.flush(10)
        assert (words in running.status.problem, len(warnings.lines)) == (True, 1)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_is_moved_away_keeps_all_that_was_written(running: LedgerWriter, path: Path) -> None:
    with closing_writer(running):
        moved = path.rename(path.with_name("kept.sqlite"))
        running.record(task_started(running, "three"))
        assert running.flush(10)
        assert [row.task_id for row in read_tasks(path)] == ["three"]
    assert [row.task_id for row in read_tasks(moved)] == ["one", "two"]


def test_it_is_noticed_without_anything_to_write(
    running: LedgerWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECK_INTERVAL", 0.01)
    with closing_writer(running), LogWatcher("was deleted while the miner ran") as warnings:
        running.record(task_started(running, "three"))
        assert running.flush(10)
        path.unlink()
        warnings.wait()
        with LedgerReader(path) as reader:
            assert [row.name for row in reader.experiments()] == ["ended", "open"]


def test_what_was_written_is_soon_in_the_file_itself(
    ledger: LedgerWriter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk it could no longer be moved there, and a -wal that is deleted then would take all with it."""
    monkeypatch.setattr(writer, "CHECK_INTERVAL", 0.01)
    for task_id in ("one", "two"):
        ledger.record(task_started(ledger, task_id))
    assert ledger.flush(10)
    alone = path.with_name("alone.sqlite")

    def tasks_without_wal() -> list[str]:
        shutil.copyfile(path, alone)
        with LedgerReader(alone) as reader:
            return [row.task_id for row in reader.tasks()]

    await_true(lambda: tasks_without_wal() == ["one", "two"])
    assert ledger.status.problem == ""
    ledger.record(task_started(ledger, "three"))
    assert ledger.flush(10)
    await_true(lambda: tasks_without_wal() == ["one", "two", "three"])
    assert ledger.status.problem == ""


def await_true(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_belongs_to_a_lost_task_is_not_counted_as_written(running: LedgerWriter, path: Path) -> None:
    with closing_writer(running):
        task = task_started(running, "in hand")
        running.record(task)
        assert running.flush(10)
        path.unlink()
        running.record(GenerationFailed(task.key, 9.0, "Error: for the test"))
        running.record(SubmissionAnswered(task.key, 10.0, Outcome.SKIPPED))
        other = task_started(running, "later")
        for event in (other, SubmissionAnswered(other.key, 11.0, Outcome.REJECTED)):
            running.record(event)
        # The outcome is final already, which is no loss.
        running.record(SubmissionAnswered(other.key, 12.0, Outcome.ACCEPTED, 0.7))
        assert running.flush(10)
        assert [(row.task_id, row.outcome) for row in read_tasks(path)] == [("later", "rejected")]
        # The phase's change and three events; lost are three tasks and two events.
        assert (running.status.written, running.status.dropped) == (4, 5)


def checkpoint(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("with_wal", [False, True])
def test_a_backup_of_this_run_that_is_copied_over_the_ledger_is_told(
    running: LedgerWriter, path: Path, with_wal: bool
) -> None:
    """It has the mark of the present file, which it does not fit any more."""
    with closing_writer(running), LogWatcher("while the miner ran") as warnings:
        backups = {file: file.with_name(f"{file.name}.bak") for file in ((path, wal(path)) if with_wal else (path,))}
        for file, backup in backups.items():
            shutil.copyfile(file, backup)
        for number in range(60):
            running.record(task_started(running, f"later {number}"))
        assert running.flush(10)
        checkpoint(path)
        running.record(task_started(running, "last"))
        assert running.flush(10)
        for file, backup in backups.items():
            shutil.copyfile(backup, file)
        running.record(task_started(running, "new"))
        assert running.flush(10)
        assert f"The ledger {path} was overwritten while the miner ran; lost: " in warnings.wait()
        names = {row.task_id for row in read_tasks(path)}
        assert {"one", "new"} <= names
        assert not any(name.startswith("la") for name in names)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_backup_that_the_journal_completes_is_no_loss(running: LedgerWriter, path: Path) -> None:
    with closing_writer(running):
        shutil.copyfile(path, path.with_name("backup"))
        running.record(task_started(running, "three"))
        assert running.flush(10)
        shutil.copyfile(path.with_name("backup"), path)
        running.record(task_started(running, "four"))
        assert running.flush(10)
        assert running.status.problem == ""
        assert [row.task_id for row in read_tasks(path)] == ["one", "two", "three", "four"]


def test_a_foreign_checkpoint_is_no_loss(running: LedgerWriter, path: Path) -> None:
    with closing_writer(running):
        with closing(sqlite3.connect(path)) as database:
            database.execute("DELETE FROM tasks WHERE task_id = 'one'")
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        running.record(task_started(running, "three"))
        assert running.flush(10)
        assert running.status.problem == ""
        assert [row.task_id for row in read_tasks(path)] == ["two", "three"]
