from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from miner.answers import Outcome
from miner.errors import OperatorError
from miner.ledger import Ledger
from miner.ledger_events import (
    Answered,
    Assigned,
    Draw,
    ExperimentEnded,
    ExperimentStarted,
    Forgotten,
    Generated,
    GenerationFailed,
    PhaseChanged,
)
from miner.ledger_reader import ExperimentRow, LedgerReader, PhaseRow, TaskRow
from miner.ledger_schema import CLOSED, FIGURES, MIGRATIONS, OUTCOMES, VERSION, figures
from pipeline.splats import Splats, Statistics, statistics
from scripts.blacklist import ValidatorOutcomes, read_outcomes
from scripts.proofs.ledger_kill import kill_once

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    ledger.start()
    yield ledger
    ledger.close(10)


class Heard(logging.Handler):
    """Waits for a line of the ledger's log."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._words = words
        self._seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.lines.append(record.getMessage())
            self._seen.set()

    def wait(self) -> str:
        assert self._seen.wait(20), f"nothing was logged about {self._words!r}"
        return self.lines[0]

    def __enter__(self) -> Heard:
        logging.getLogger("miner.ledger").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("miner.ledger").removeHandler(self)


def assigned(ledger: Ledger, task_id: str = "t1", at: float = 1000.0, **changes: object) -> Assigned:
    values: dict[str, object] = {
        "key": ledger.new_key(),
        "at": at,
        "transport": "pull",
        "validator": "5V",
        "uid": 27,
        "task_id": task_id,
        "task_type": "image",
        "phase": "phase3",
        "config_hash": "abc123",
        "code_version": "0.1.0",
    }
    return Assigned(**(values | changes))  # type: ignore[arg-type]


def generated(key: int, stats: dict[str, float]) -> Generated:
    return Generated(key, 1004.0, 7, (6, 7), {"structure": 1.5, "latents": 2.0}, stats, 0.64, 4_812_331)


def rows(path: Path) -> list[TaskRow]:
    with LedgerReader(path) as reader:
        return reader.tasks()


def test_a_task_from_assignment_to_feedback(ledger: Ledger, path: Path) -> None:
    stats = {name: float(number) for number, name in enumerate(FIGURES, 1)}
    task = assigned(ledger, draw=Draw("e1", "phase3", 4))
    ledger.record(task)
    assert ledger.flush(10)
    (row,) = rows(path)
    assert (row.experiment, row.arm, row.turn) == ("e1", "phase3", 4)
    assert (row.outcome, row.seed, row.answered_at, row.submissions, row.all_seeds, row.seconds) == (
        *(None, None, None, 0),
        *((), {}),
    )
    ledger.record(generated(task.key, stats))
    ledger.record(Answered(task.key, 1010.0, "accepted", score=0.71, cooldown_until=1300))
    assert ledger.flush(10)
    (row,) = rows(path)
    for field in fields(Assigned):
        if field.name not in ("at", "draw"):
            assert getattr(row, field.name) == getattr(task, field.name)
    assert {name: getattr(row, name) for name in FIGURES} == stats
    assert (row.assigned_at, row.generated_at, row.answered_at) == (1000, 1004, 1010)
    assert (row.seed, row.all_seeds, row.seconds) == (7, (6, 7), {"structure": 1.5, "latents": 2.0})
    assert (row.generation_seconds, row.local_score, row.submission_bytes) == (3.5, 0.64, 4_812_331)
    assert (row.outcome, row.score, row.cooldown_until, row.submissions) == ("accepted", 0.71, 1300, 1)
    with LedgerReader(path) as reader:
        assert reader.tasks(without=("seeds", "error", "volume")) == [row._replace(seeds=None, volume=None)]
    assert ledger.status.written == 3


def test_outcomes_are_those_of_answers() -> None:
    assert {outcome.value for outcome in Outcome} == set(OUTCOMES)
    assert {outcome.value for outcome in Outcome if outcome.closes} == set(CLOSED)
    with pytest.raises(ValueError, match="none of the outcomes accepted, rejected"):
        Answered(1, 0.0, "perhaps")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_an_accepted_result_has_a_score(ledger: Ledger, path: Path, outcome: str) -> None:
    for task_id, score in (("zero", 0.0), ("some", 0.66), ("none", None)):
        task = assigned(ledger, task_id)
        ledger.record(task)
        ledger.record(Answered(task.key, 1010.0, outcome, score=score, cooldown_until=0))
    assert ledger.flush(10)
    assert [row.score for row in rows(path)] == [None, 0.66 if outcome == "accepted" else None, None]
    assert {(row.outcome, row.cooldown_until) for row in rows(path)} == {(outcome, None)}


def test_the_first_verdict_stays_and_open_answers_wait_for_it(ledger: Ledger, path: Path) -> None:
    task = assigned(ledger)
    ledger.record(task)
    for outcome, score in (("unknown", None), ("still open", 0.0), ("accepted", 0.7), ("not held", None)):
        ledger.record(Answered(task.key, 1010.0, outcome, score=score))
    ledger.record(Answered(task.key, 2000.0, "rejected", score=0.0))
    assert ledger.flush(10)
    (row,) = rows(path)
    assert (row.outcome, row.score, row.answered_at, row.submissions) == ("accepted", 0.7, 1010.0, 3)


def test_a_failed_generation(ledger: Ledger, path: Path) -> None:
    task = assigned(ledger)
    ledger.record(task)
    ledger.record(GenerationFailed(task.key, 1002.0, "InvalidResult: 12 gaussians " + "x" * 1000))
    ledger.record(Answered(task.key, 1003.0, "skipped", score=0.0))
    assert ledger.flush(10)
    (row,) = rows(path)
    assert (row.generated_at, row.seed, row.outcome, row.score) == (1002.0, None, "skipped", None)
    assert row.error is not None
    assert row.error.startswith("InvalidResult: 12 gaussians xxx")
    assert len(row.error) == 500


def test_the_columns_are_the_splats_statistics() -> None:
    names = set(figures(vars(Statistics(*[(1.0, 2.0, 3.0)] * len(fields(Statistics))))))  # type: ignore[arg-type]
    assert "box_min_y" in names
    described = statistics(_cloud())
    flat = figures(vars(described))
    assert set(flat) == set(FIGURES)
    assert (flat["gaussians"], flat["box_max_z"], flat["volume"]) == (5, described.box_max[2], described.volume)


def _cloud() -> Splats:
    generator = torch.Generator().manual_seed(0)
    means, log_scales, colour = (torch.randn(5, 3, generator=generator) for _ in range(3))
    return Splats(means, torch.randn(5, 4, generator=generator), log_scales, torch.zeros(5), colour)


def test_figures_that_are_no_numbers_are_unknown(ledger: Ledger, path: Path) -> None:
    task = assigned(ledger)
    ledger.record(task)
    ledger.record(generated(task.key, {"gaussians": 0, "volume": float("nan"), "unheard_of": 3.0}))
    assert ledger.flush(10)
    (row,) = rows(path)
    assert (row.gaussians, row.volume, row.density_max) == (0, None, None)


def test_phases_and_experiments(ledger: Ledger, path: Path) -> None:
    ledger.record(PhaseChanged(10.0, "baseline", "start", "h1", "note: é\n"))
    ledger.record(PhaseChanged(20.0, "phase3", "apply", "h2", "steps: 50\n"))
    ledger.record(PhaseChanged(30.0, "baseline", "rollback", "h1", "note: é\n"))
    ledger.record(ExperimentStarted("e1", 40.0, 123, {"phase3": 50, "baseline": 50}))
    for turn, kind in ((0, "image"), (1, "image"), (0, "text"), (2, "image")):
        ledger.record(assigned(ledger, str(turn), task_type=kind, draw=Draw("e1", "phase3", turn)))
    ledger.record(assigned(ledger, "other"))
    ledger.record(ExperimentEnded("e1", 90.0, "phase3 won"))
    assert ledger.flush(10)
    with LedgerReader(path) as reader:
        assert reader.phases() == [
            PhaseRow(10.0, "baseline", "start", "h1", "note: é\n"),
            PhaseRow(20.0, "phase3", "apply", "h2", "steps: 50\n"),
            PhaseRow(30.0, "baseline", "rollback", "h1", "note: é\n"),
        ]
        (experiment,) = reader.experiments()
        assert experiment == ExperimentRow(
            "e1", 40.0, 123, '{"phase3": 50, "baseline": 50}', ended_at=90.0, decision="phase3 won"
        )
        assert experiment.weights == {"phase3": 50, "baseline": 50}
        assert reader.next_turns("e1") == {("5V", "image"): 3, ("5V", "text"): 1}
        assert reader.next_turns("e2") == {}
        assert len(reader.tasks(experiment="e1")) == 4


def test_selections(ledger: Ledger, path: Path) -> None:
    for number, outcome in enumerate(["accepted", "unknown", None, "skipped"]):
        task = assigned(ledger, str(number), at=1000.0 + number)
        ledger.record(task)
        if outcome:
            ledger.record(Answered(task.key, 1010.0, outcome, score=0.7))
    ledger.record(assigned(ledger, "pushed", at=1004.0, transport="push"))
    assert ledger.flush(10)
    with LedgerReader(path) as reader:
        assert [row.task_id for row in reader.tasks(since=1002.0)] == ["2", "3", "pushed"]
        assert [row.task_id for row in reader.open_tasks(since=0.0)] == ["1", "2"]
        assert [row.task_id for row in reader.open_tasks(since=1001.5)] == ["2"]


def test_outcomes_for_the_blacklist(ledger: Ledger, path: Path) -> None:
    for number, outcome in enumerate(["accepted", "rejected", "rejected", "skipped", "unknown"]):
        task = assigned(ledger, str(number), validator="5V" if number else "5W")
        ledger.record(task)
        ledger.record(Answered(task.key, 1010.0, outcome, score=0.7))
    assert ledger.flush(10)
    assert read_outcomes(path) == [ValidatorOutcomes("5V", 0, 2), ValidatorOutcomes("5W", 1, 0)]


def test_old_tasks_are_forgotten_and_the_file_shrinks(ledger: Ledger, path: Path) -> None:
    for number in range(300):
        ledger.record(assigned(ledger, str(number), at=float(number), code_version="x" * 1000))
    assert ledger.flush(30)

    def pages() -> int:
        with closing(sqlite3.connect(path)) as database:
            return int(database.execute("PRAGMA page_count").fetchone()[0])

    before = pages()
    ledger.record(Forgotten(before=290.0))
    assert ledger.flush(10)
    assert [row.task_id for row in rows(path)] == [str(number) for number in range(290, 300)]
    assert pages() < before / 4


def test_keys_are_distinct_and_in_order(ledger: Ledger) -> None:
    keys = [ledger.new_key() for _ in range(1000)]
    assert keys == sorted(set(keys))
    assert keys[0] <= time.time_ns()


def test_strangers_strings_do_no_harm(ledger: Ledger, path: Path) -> None:
    ledger.record(assigned(ledger, "\ud800'; DROP TABLE tasks; --\0" + "y" * 10_000))
    assert ledger.flush(10)
    (row,) = rows(path)
    assert row.task_id.startswith("?'; DROP TABLE tasks; --\0yyy")
    assert len(row.task_id) == 500


def test_a_record_that_no_file_can_hold_is_dropped_and_the_next_is_written(
    ledger: Ledger, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.record(assigned(ledger, "a", uid=2**70))
    ledger.record(assigned(ledger, "b", transport="pigeon"))
    ledger.record(assigned(ledger, "c", phase="\ud800"))
    ledger.record(assigned(ledger, "d"))
    assert ledger.flush(10)
    assert [row.task_id for row in rows(path)] == ["d"]
    assert (ledger.status.dropped, ledger.status.written, ledger.status.problem) == (3, 1, "")
    assert sum("cannot hold Assigned" in line for line in caplog.messages) == 3


def test_a_locked_file_is_reported_once_and_written_when_it_is_free(ledger: Ledger, path: Path) -> None:
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
    ledger = Ledger(path, capacity=2)
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


def test_a_file_that_is_moved_away_while_it_is_written_is_made_anew(ledger: Ledger, path: Path) -> None:
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
    ledger = Ledger(tmp_path / "file" / "ledger.sqlite")
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
from miner.ledger import Ledger
from miner.ledger_events import PhaseChanged

logging.basicConfig(stream=sys.stdout, format="%(message)s")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
ledger = Ledger(Path(sys.argv[1]))
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
    ledger = Ledger(path)
    for number in range(50):
        ledger.record(assigned(ledger, str(number)))
    ledger.start()
    assert ledger.close(20)
    ledger.record(assigned(ledger, "late"))
    assert list(path.parent.iterdir()) == [path]
    assert len(rows(path)) == 50
    assert (ledger.status.written, ledger.status.dropped) == (50, 1)


def test_closing_before_the_start() -> None:
    ledger = Ledger(Path("/nowhere/ledger.sqlite"))
    assert ledger.close(0)
    ledger.record(assigned(ledger))
    assert ledger.status.dropped == 1


def test_records_come_from_many_threads(ledger: Ledger, path: Path) -> None:
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


# As the first version made it: what an operator's file may be like.
VERSION_1 = """
CREATE TABLE tasks (
    key INTEGER PRIMARY KEY, assigned_at REAL NOT NULL,
    transport TEXT NOT NULL CHECK (transport IN ('pull', 'push')),
    validator TEXT NOT NULL, uid INTEGER, task_id TEXT NOT NULL,
    task_type TEXT NOT NULL CHECK (task_type IN ('text', 'image')),
    phase TEXT NOT NULL, config_hash TEXT NOT NULL, code_version TEXT NOT NULL, generated_at REAL,
    seed INTEGER, seeds TEXT, stages TEXT, generation_seconds REAL, gaussians INTEGER,
    opacity_min REAL, opacity_mean REAL, opacity_max REAL, transparent_share REAL,
    box_min_x REAL, box_min_y REAL, box_min_z REAL, box_max_x REAL, box_max_y REAL, box_max_z REAL,
    volume REAL, density_max REAL, density_mean REAL, scale_p5 REAL, scale_p50 REAL, scale_p95 REAL,
    local_score REAL, submission_bytes INTEGER, answered_at REAL,
    outcome TEXT, score REAL CHECK (score > 0), cooldown_until REAL, submissions INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE TABLE phases (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, phase TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('start', 'apply', 'rollback', 'automatic')),
    config_hash TEXT NOT NULL, yaml TEXT NOT NULL
);
INSERT INTO tasks (key, assigned_at, transport, validator, uid, task_id, task_type, phase, config_hash, code_version,
                   gaussians, outcome, score)
VALUES (1, 100.0, 'pull', '5V', 3, 'old', 'text', 'baseline', 'h', '0.0.9', 371424, 'accepted', 0.71);
INSERT INTO phases (at, phase, action, config_hash, yaml) VALUES (90.0, 'baseline', 'start', 'h', 'steps: 30');
PRAGMA user_version = 1;
"""


def version_1(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_1)


def schema(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as database:
        columns = [
            (table, *map(str, column[1:]))
            for table in ("tasks", "phases", "experiments", "validator_outcomes")
            for column in database.execute(f"PRAGMA table_info({table})")
        ]
        indices = database.execute("SELECT type, name FROM sqlite_master WHERE type != 'table'").fetchall()
        return sorted(columns) + sorted(indices)


def test_a_file_of_the_first_version_is_brought_up_to_date(path: Path, tmp_path: Path) -> None:
    version_1(path)
    # Before that, it can be read as it is.
    with LedgerReader(path) as reader:
        assert (reader.tasks(experiment="e"), reader.experiments()) == ([], [])
        (before,) = reader.tasks()
        (phase,) = reader.phases()
    assert (before.task_id, before.gaussians, before.score, before.experiment) == ("old", 371424, 0.71, None)
    ledger = Ledger(path)
    ledger.start()
    ledger.record(assigned(ledger, "new", draw=Draw("e", "phase3", 0)))
    assert ledger.close(10)
    with LedgerReader(path) as reader:
        assert reader.tasks()[0] == before
        assert (reader.tasks()[1].task_id, reader.tasks()[1].arm) == ("new", "phase3")
        assert reader.phases() == [phase]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    fresh = Ledger(tmp_path / "fresh.sqlite")
    fresh.start()
    fresh.record(assigned(fresh))
    assert fresh.close(10)
    assert schema(path) == schema(fresh.path)


def test_a_file_from_before_candidates_were_kept_is_brought_up_to_date(path: Path, tmp_path: Path) -> None:
    version_1(path)
    with closing(sqlite3.connect(path)) as database:
        for statement in MIGRATIONS[1]:
            database.execute(statement)
        database.execute("PRAGMA user_version = 2")
        database.commit()
    (before,) = rows(path)
    assert (before.task_id, before.candidates, before.all_candidates) == ("old", None, [])
    ledger = Ledger(path)
    ledger.start()
    task = assigned(ledger, "new")
    ledger.record(task)
    candidate = {"seed": 7, "seconds": 1.5, "quality": 0.64, "problem": ""}
    ledger.record(replace(generated(task.key, {}), candidates=(candidate, candidate | {"quality": None})))
    assert ledger.close(10)
    first, second = rows(path)
    assert first == before
    assert second.all_candidates == [candidate, candidate | {"quality": None}]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert database.execute("SELECT accepted FROM validator_outcomes").fetchone() == (1,)
    fresh = Ledger(tmp_path / "fresh.sqlite")
    fresh.start()
    fresh.record(assigned(fresh))
    assert fresh.close(10)
    assert schema(path) == schema(fresh.path)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    version_1(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE VIEW validator_outcomes AS SELECT 1")
    ledger = Ledger(path)
    ledger.start()
    with Heard("cannot be written") as heard:
        ledger.record(assigned(ledger))
        assert "validator_outcomes already exists" in heard.wait()
    assert not ledger.close(0.1)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'experiments'").fetchone() == (0,)
    assert [row.task_id for row in rows(path)] == ["old"]


def test_a_file_of_a_later_version_is_neither_written_nor_guessed_at(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    ledger = Ledger(path)
    ledger.start()
    with Heard("cannot be written") as heard:
        ledger.record(assigned(ledger))
        assert f"it has version {VERSION + 1}" in heard.wait()
    assert not ledger.close(0.1)
    with pytest.raises(OperatorError, match="update it"):
        LedgerReader(path)


def test_reading_needs_a_ledger_and_never_makes_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no ledger"):
        LedgerReader(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.sqlite").touch()
    with LedgerReader(tmp_path / "empty.sqlite") as reader:
        assert (reader.tasks(), reader.phases(), reader.experiments(), reader.open_tasks(0.0)) == ([], [], [], [])


def test_reading_cannot_write(ledger: Ledger, path: Path) -> None:
    ledger.record(assigned(ledger))
    assert ledger.flush(10)
    with LedgerReader(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._database.execute("DELETE FROM tasks")


def test_importing_the_ledger_imports_no_networks() -> None:
    heavy = "[m for m in ('torch', 'bittensor', 'numpy', 'pipeline') if m in sys.modules]"
    command = f"import sys, miner.ledger, miner.ledger_reader; print({heavy})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("paced", [True, False], ids=["one by one", "in bursts"])
def test_a_killed_writer_leaves_all_but_the_last_record(tmp_path: Path, paced: bool) -> None:
    for number in range(4):
        found = kill_once(tmp_path / "ledger.sqlite", f"round {number}", paced, after=0.02 * number)
        assert found.problems == ()
        assert found.found >= found.written >= 1
