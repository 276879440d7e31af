"""What the ledger does when a record or the file is bad, locked, moved or without room, and how it ends."""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from miner.errors import OperatorError
from miner.ledger.reader import LedgerReader
from miner.ledger.writer import LedgerWriter
from tests.miner.ledger.conftest import LogWatcher, read_tasks, task_started
from tests.support.paths import ROOT


def test_a_record_that_no_file_can_hold_is_dropped_and_the_next_is_written(
    ledger: LedgerWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.record(task_started(ledger, "a", uid=2**70))
    ledger.record(task_started(ledger, "b", transport="pigeon"))
    ledger.record(task_started(ledger, "c", phase="\ud800"))
    ledger.record(task_started(ledger, "d"))
    assert ledger.flush(10)
    assert [row.task_id for row in read_tasks(path)] == ["d"]
    assert (ledger.status.dropped, ledger.status.written, ledger.status.problem) == (3, 1, "")
    assert sum("cannot store TaskStarted" in line for line in caplog.messages) == 3


def test_a_locked_file_is_reported_once_and_written_when_it_is_free(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(task_started(ledger, "a"))
    assert ledger.flush(10)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, LogWatcher("cannot be written") as failures:
        other.execute("BEGIN IMMEDIATE")
        # Were these to wait for the lock, which this very thread holds, nothing would ever go on.
        for task_id in "bcd":
            ledger.record(task_started(ledger, task_id))
        assert "database is locked" in failures.wait()
        assert "locked" in ledger.status.problem
        assert [row.task_id for row in read_tasks(path)] == ["a"]
        other.execute("COMMIT")
        with LogWatcher("is written again") as again:
            assert ledger.flush(20)
            again.wait()
        assert len(failures.lines) == 1
    assert [row.task_id for row in read_tasks(path)] == ["a", "b", "c", "d"]
    status = ledger.status
    assert (status.problem, status.dropped, status.waiting) == ("", 0, 0)
    assert status.failures >= 1


def test_a_damaged_file_stops_nothing_and_can_be_moved_away(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this was a database once. " * 500)
    ledger = LedgerWriter(path, capacity=2)
    with LogWatcher("cannot be written") as failures:
        for task_id in "abcd":
            ledger.record(task_started(ledger, task_id))
        assert "not a database" in failures.wait()
        assert ledger.status.dropped == 2
        with pytest.raises(OperatorError, match="not a database"):
            read_tasks(path)
        path.rename(path.with_suffix(".damaged"))
        assert ledger.flush(20)
    assert [row.task_id for row in read_tasks(path)] == ["a", "b"]
    assert ledger.close(10)


def test_a_file_that_is_moved_away_while_it_is_written_is_made_anew(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(task_started(ledger, "a"))
    assert ledger.flush(10)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.rename(path.with_suffix(".old"))
    for leftover in path.parent.glob("ledger.sqlite-*"):
        leftover.unlink()
    ledger.record(task_started(ledger, "b"))
    assert ledger.flush(10)
    assert [row.task_id for row in read_tasks(path)] == ["b"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    ledger = LedgerWriter(tmp_path / "file" / "ledger.sqlite")
    with LogWatcher("cannot be written") as failures:
        ledger.record(task_started(ledger))
        failures.wait()
        while ledger.status.failures < 2:
            assert not ledger.flush(0.1)
    assert len(failures.lines) == 1
    assert not ledger.close(0.1)
    assert ledger.status.dropped == 1


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from miner.ledger.writer import LedgerWriter
from miner.ledger.events import PhaseChanged

logging.basicConfig(stream=sys.stdout, format="%(message)s")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
ledger = LedgerWriter(Path(sys.argv[1]))
ledger.record(PhaseChanged(0.0, "p", "start", "h", "before"))
assert ledger.flush(10)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, unlimited[1]))
for number in range(20):
    ledger.record(PhaseChanged(float(number), "p", "apply", "h", "x" * 20_000))
assert not ledger.flush(1)
print("PROBLEM", ledger.status.problem, ledger.status.failures >= 1, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert ledger.flush(30)
print("THEN", ledger.status.written, ledger.status.dropped, ledger.status.problem, ledger.close(10), flush=True)
"""


@pytest.mark.process
def test_a_disk_without_space_stops_nothing_and_loses_nothing_that_waits(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum("cannot be written; retrying, mining goes on" in line for line in lines) == 1
    problem = next(line for line in lines if line.startswith("PROBLEM"))
    assert problem.endswith("True")
    assert "OperationalError" in problem
    assert lines[-1] == "THEN 21 0  True"
    with LedgerReader(path) as reader:
        assert [row.at for row in reader.phases()] == [0.0, *map(float, range(20))]


def test_closing_writes_what_waits_and_takes_no_more(path: Path) -> None:
    ledger = LedgerWriter(path)
    for number in range(50):
        ledger.record(task_started(ledger, str(number)))
    assert ledger.close(20)
    ledger.record(task_started(ledger, "late"))
    assert list(path.parent.iterdir()) == [path]
    assert len(read_tasks(path)) == 50
    assert (ledger.status.written, ledger.status.dropped) == (50, 1)


def test_without_an_event_no_file_is_made(path: Path) -> None:
    ledger = LedgerWriter(path)
    assert ledger.close(0.1)
    ledger.record(task_started(ledger))
    assert ledger.status.dropped == 1
    assert not path.parent.exists()


def test_records_come_from_many_threads(ledger: LedgerWriter, path: Path) -> None:
    def work(name: str) -> None:
        for number in range(50):
            ledger.record(task_started(ledger, f"{name}{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(30)
    assert {row.task_id for row in read_tasks(path)} == {f"{name}{number}" for name in "abcd" for number in range(50)}


KILLED = """
import itertools, sys
from pathlib import Path
from miner.ledger.writer import LedgerWriter
from miner.ledger.events import PhaseChanged

ledger = LedgerWriter(Path(sys.argv[1]))
burst = int(sys.argv[2])
for number in itertools.count():
    print("recorded", number + 1, flush=True)
    ledger.record(PhaseChanged(float(number), sys.argv[3], "apply", "h", "x"))
    if number % burst == 0 and ledger.flush(60):
        print("written", number + 1, flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("burst", [1, 20], ids=["one by one", "in bursts"])
def test_a_killed_writer_leaves_all_that_was_written_and_nothing_by_halves(path: Path, burst: int) -> None:
    """All rounds share one file, whose end each new writer has to recover."""
    for number in range(4):
        command = [sys.executable, "-c", KILLED, str(path), str(burst), f"round {number}"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            time.sleep(0.02 * number)
            process.kill()
            lines += process.stdout.readlines()
        counts = {name: int(count) for name, count in (line.split() for line in lines if line.endswith("\n"))}
        with LedgerReader(path) as reader:
            moments = [row.at for row in reader.phases() if row.phase == f"round {number}"]
        assert moments == list(map(float, range(len(moments))))
        assert counts["written"] <= len(moments) <= counts["recorded"]
