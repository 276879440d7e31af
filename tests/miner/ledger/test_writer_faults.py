"""What the ledger does when a record or the file is bad, locked, moved or without room, and how it ends."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from miner.errors import OperatorError
from miner.ledger.reader import LedgerReader
from miner.ledger.writer import LedgerWriter
from tests.miner.ledger.conftest import Heard, assigned, rows
from tests.support.paths import ROOT


def test_a_record_that_no_file_can_hold_is_dropped_and_the_next_is_written(
    ledger: LedgerWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.record(assigned(ledger, "a", uid=2**70))
    ledger.record(assigned(ledger, "b", transport="pigeon"))
    ledger.record(assigned(ledger, "c", phase="\ud800"))
    ledger.record(assigned(ledger, "d"))
    assert ledger.flush(10)
    assert [row.task_id for row in rows(path)] == ["d"]
    assert (ledger.status.dropped, ledger.status.written, ledger.status.problem) == (3, 1, "")
    assert sum("cannot hold TaskStarted" in line for line in caplog.messages) == 3


def test_a_locked_file_is_reported_once_and_written_when_it_is_free(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(assigned(ledger, "a"))
    assert ledger.flush(10)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, Heard("cannot be written") as heard:
        other.execute("BEGIN IMMEDIATE")
        # Were these to wait for the lock, which this very thread holds, nothing would ever go on.
        for task_id in "bcd":
            ledger.record(assigned(ledger, task_id))
        assert "database is locked" in heard.wait()
        assert "locked" in ledger.status.problem
        assert [row.task_id for row in rows(path)] == ["a"]
        other.execute("COMMIT")
        with Heard("is written again") as again:
            assert ledger.flush(20)
            again.wait()
        assert len(heard.lines) == 1
    assert [row.task_id for row in rows(path)] == ["a", "b", "c", "d"]
    status = ledger.status
    assert (status.problem, status.dropped, status.waiting) == ("", 0, 0)
    assert status.failures >= 1


def test_a_damaged_file_stops_nothing_and_can_be_moved_away(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this was a database once. " * 500)
    ledger = LedgerWriter(path, capacity=2)
    ledger.start()
    with Heard("cannot be written") as heard:
        for task_id in "abcd":
            ledger.record(assigned(ledger, task_id))
        assert "not a database" in heard.wait()
        assert ledger.status.dropped == 2
        with pytest.raises(OperatorError, match="not a database"):
            rows(path)
        path.rename(path.with_suffix(".damaged"))
        assert ledger.flush(20)
    assert [row.task_id for row in rows(path)] == ["a", "b"]
    assert ledger.close(10)


def test_a_file_that_is_moved_away_while_it_is_written_is_made_anew(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(assigned(ledger, "a"))
    assert ledger.flush(10)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.rename(path.with_suffix(".old"))
    for leftover in path.parent.glob("ledger.sqlite-*"):
        leftover.unlink()
    ledger.record(assigned(ledger, "b"))
    assert ledger.flush(10)
    assert [row.task_id for row in rows(path)] == ["b"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    ledger = LedgerWriter(tmp_path / "file" / "ledger.sqlite")
    ledger.start()
    with Heard("cannot be written") as heard:
        ledger.record(assigned(ledger))
        heard.wait()
        while ledger.status.failures < 2:
            assert not ledger.flush(0.1)
    assert len(heard.lines) == 1
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
ledger.start()
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


def test_a_disk_without_space_stops_nothing_and_loses_nothing_that_waits(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum("cannot be written and is tried again; mining goes on" in line for line in lines) == 1
    problem = next(line for line in lines if line.startswith("PROBLEM"))
    assert problem.endswith("True")
    assert "OperationalError" in problem
    assert lines[-1] == "THEN 21 0  True"
    with LedgerReader(path) as reader:
        assert [row.at for row in reader.phases()] == [0.0, *map(float, range(20))]


def test_closing_writes_what_waits_and_takes_no_more(path: Path) -> None:
    ledger = LedgerWriter(path)
    for number in range(50):
        ledger.record(assigned(ledger, str(number)))
    ledger.start()
    assert ledger.close(20)
    ledger.record(assigned(ledger, "late"))
    assert list(path.parent.iterdir()) == [path]
    assert len(rows(path)) == 50
    assert (ledger.status.written, ledger.status.dropped) == (50, 1)


def test_closing_before_the_start() -> None:
    ledger = LedgerWriter(Path("/nowhere/ledger.sqlite"))
    assert ledger.close(0)
    ledger.record(assigned(ledger))
    assert ledger.status.dropped == 1


def test_records_come_from_many_threads(ledger: LedgerWriter, path: Path) -> None:
    def work(name: str) -> None:
        for number in range(50):
            ledger.record(assigned(ledger, f"{name}{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.flush(30)
    assert {row.task_id for row in rows(path)} == {f"{name}{number}" for name in "abcd" for number in range(50)}
