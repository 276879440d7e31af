"""Ledgers of earlier and later versions, and reading, which makes and changes nothing."""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from miner.errors import OperatorError
from miner.ledger.events import ArmAssignment, PhaseAssignment, SubmissionAnswered
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import LedgerReader, query_ledger, read_open_tasks
from miner.ledger.recorder import TaskRecorder
from miner.ledger.schema import MIGRATIONS, VERSION
from miner.ledger.writer import LedgerWriter
from tests.miner.ledger.conftest import LogWatcher, read_tasks, result_generated, task_started
from tests.support.task_rows import candidates_of

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


def migrate_to(path: Path, version: int) -> None:
    """Make a file of the first version one of a later release."""
    with closing(sqlite3.connect(path)) as database:
        for statements in MIGRATIONS[1:version]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()


def raw(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


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
    ledger = LedgerWriter(path)
    ledger.record(task_started(ledger, "new", arm=ArmAssignment("e", "phase3", 0)))
    assert ledger.close(10)
    with LedgerReader(path) as reader:
        assert reader.tasks()[0] == before
        assert (reader.tasks()[1].task_id, reader.tasks()[1].arm) == ("new", "phase3")
        assert reader.phases() == [phase]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    fresh = LedgerWriter(tmp_path / "fresh.sqlite")
    fresh.record(task_started(fresh))
    assert fresh.close(10)
    assert schema(path) == schema(fresh.path)


def test_a_file_from_before_candidates_were_kept_is_brought_up_to_date(path: Path, tmp_path: Path) -> None:
    version_1(path)
    migrate_to(path, 2)
    (before,) = read_tasks(path)
    assert (before.task_id, before.candidates) == ("old", None)
    ledger = LedgerWriter(path)
    task = task_started(ledger, "new")
    ledger.record(task)
    candidate: dict[str, str | int | float | None] = {"seed": 7, "seconds": 1.5, "quality": 0.64, "problem": ""}
    ledger.record(replace(result_generated(task.key, {}), candidates=(candidate, candidate | {"quality": None})))
    assert ledger.close(10)
    first, second = read_tasks(path)
    assert first == before
    assert candidates_of(second) == [candidate, candidate | {"quality": None}]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert database.execute("SELECT accepted FROM validator_outcomes").fetchone() == (1,)
    fresh = LedgerWriter(tmp_path / "fresh.sqlite")
    fresh.record(task_started(fresh))
    assert fresh.close(10)
    assert schema(path) == schema(fresh.path)


# As releases before version 4 wrote them.
OLD_OUTCOMES = {
    "accepted": Outcome.ACCEPTED,
    "rejected": Outcome.REJECTED,
    "skipped": Outcome.SKIPPED,
    "not validated": Outcome.NOT_VALIDATED,
    "closed without a score": Outcome.CLOSED_WITHOUT_SCORE,
    "still open": Outcome.STILL_OPEN,
    "not held": Outcome.NOT_HELD,
    "unknown": Outcome.UNKNOWN,
}


@pytest.fixture(params=[1, 2, 3])
def old_version(request: pytest.FixtureRequest, path: Path) -> int:
    """The version of the file at `path`, which has one task of each outcome, and one without."""
    version_1(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM tasks")
        for key, outcome in enumerate([*OLD_OUTCOMES, None], 1):
            database.execute(
                "INSERT INTO tasks (key, assigned_at, transport, validator, task_id, task_type, phase, config_hash, "
                "code_version, outcome, score) VALUES (?, ?, 'pull', '5V', ?, 'image', 'p', 'h', '0', ?, ?)",
                (key, float(key), f"t{key}", outcome, 0.7 if outcome == "accepted" else None),
            )
        database.commit()
    migrate_to(path, int(request.param))
    return int(request.param)


def test_outcomes_with_spaces_are_read_as_they_are_now_and_left_in_the_file(path: Path, old_version: int) -> None:
    before = path.read_bytes()
    with LedgerReader(path) as reader:
        assert [row.outcome for row in reader.tasks()] == [*OLD_OUTCOMES.values(), None]
        assert [row.outcome for row in reader.open_tasks(0.0)] == [Outcome.STILL_OPEN, Outcome.UNKNOWN, None]
        assert {row.outcome for row in reader.tasks(without=("outcome",))} == {None}
    assert path.read_bytes() == before
    assert raw(path, "PRAGMA user_version") == [(old_version,)]


def test_outcomes_with_spaces_are_migrated_and_counted_as_before(path: Path, old_version: int) -> None:
    with LedgerReader(path) as reader:
        before, open_before = reader.tasks(), reader.open_tasks(0.0)
    ledger = LedgerWriter(path)
    for key in (6, 5):
        # Still open and may be closed; closed and stays so.
        ledger.record(SubmissionAnswered(key, 50.0, Outcome.REJECTED))
    assert ledger.close(10)
    with LedgerReader(path) as reader:
        after, open_after = reader.tasks(), reader.open_tasks(0.0)
    assert [row.outcome for row in after] == [Outcome.REJECTED if row.key == 6 else row.outcome for row in before]
    assert [row for row in after if row.key != 6] == [row for row in before if row.key != 6]
    assert open_after == [row for row in open_before if row.key != 6]
    assert raw(path, "SELECT outcome FROM tasks WHERE outcome LIKE '% %'") == []
    assert raw(path, "SELECT * FROM validator_outcomes") == [("5V", 1, 2)]
    assert raw(path, "PRAGMA user_version") == [(VERSION,)]


@pytest.mark.parametrize("version", [1, 3, 4])
def test_the_quality_of_an_old_file_is_read_and_migrated_under_its_new_name(path: Path, version: int) -> None:
    version_1(path)
    migrate_to(path, version)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE tasks SET local_score = 0.64")
        database.commit()
    with LedgerReader(path) as reader:
        (before,) = reader.tasks()
        assert reader.tasks(without=("quality",)) == [before._replace(quality=None)]
        # What other rows have has no new name.
        assert [row.validator for row in reader.validators()] == [before.validator]
        assert reader.task_phases() == [(before.phase, before.config_hash)]
        assert reader.experiments() == []
    assert (before.quality, before.alignment, before.estimated_score, before.threshold) == (0.64, None, None, None)
    assert raw(path, "PRAGMA user_version") == [(version,)]
    ledger = LedgerWriter(path)
    task = task_started(ledger, "new")
    ledger.record(task)
    scored = replace(
        result_generated(task.key, {}),
        alignment=0.9,
        ssim=0.85,
        lpips=0.2,
        estimated_score=0.66,
        threshold=0.6,
        pass_probability=0.7,
        gate="sent",
        mattings=({"chosen": "u2net", "models": [{"model": "u2net", "area": 0.25, "agreement": None}]},),
    )
    ledger.record(scored)
    assert ledger.close(10)
    first, second = read_tasks(path)
    assert first == before
    assert (second.quality, second.alignment, second.ssim, second.lpips) == (0.64, 0.9, 0.85, 0.2)
    assert (second.estimated_score, second.threshold, second.pass_probability) == (0.66, 0.6, 0.7)
    assert (first.mattings, second.gate) == (None, "sent")
    assert second.mattings is not None
    assert json.loads(second.mattings)[0]["models"] == [{"model": "u2net", "area": 0.25, "agreement": None}]


def test_tasks_of_an_old_file_are_taken_up_after_the_restart_with_a_new_release(path: Path, old_version: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE tasks SET assigned_at = ?", (time.time(),))
        database.commit()
    open_tasks = read_open_tasks(path)
    assert [row.task_id for row in open_tasks] == ["t6", "t8", "t9"]
    ledger = LedgerWriter(path)
    record = TaskRecorder(ledger, "1.0", open_tasks=open_tasks).open("pull", "5V", "t6", "image")
    assert (record.key, record.assignment) == (6, PhaseAssignment("p", "h", None))
    record.start(PhaseAssignment("p", "h", None))
    record.answered(Outcome.ACCEPTED, 0.8, 1300.0)
    assert ledger.close(10)
    rows = read_tasks(path)
    assert len(rows) == 9
    assert (rows[5].outcome, rows[5].score) == (Outcome.ACCEPTED, 0.8)


def test_a_ledger_that_cannot_be_read_is_no_obstacle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert query_ledger(path, lambda reader: reader.tasks(), None) is None
    assert caplog.text == ""
    path.parent.mkdir()
    path.write_bytes(b"this was a database once. " * 500)
    assert read_open_tasks(path) == []
    assert "not a database" in caplog.text


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    version_1(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE VIEW validator_outcomes AS SELECT 1")
    ledger = LedgerWriter(path)
    with LogWatcher("cannot be written") as failures:
        ledger.record(task_started(ledger))
        assert "validator_outcomes already exists" in failures.wait()
    assert not ledger.close(0.1)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'experiments'").fetchone() == (0,)
    assert [row.task_id for row in read_tasks(path)] == ["old"]


def test_a_file_of_a_later_version_is_neither_written_nor_guessed_at(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    ledger = LedgerWriter(path)
    with LogWatcher("cannot be written") as failures:
        ledger.record(task_started(ledger))
        assert f"it has version {VERSION + 1}" in failures.wait()
    assert not ledger.close(0.1)
    with pytest.raises(OperatorError, match="update the miner"):
        LedgerReader(path)


def test_reading_needs_a_ledger_and_never_makes_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no ledger"):
        LedgerReader(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.sqlite").touch()
    with LedgerReader(tmp_path / "empty.sqlite") as reader:
        assert (reader.tasks(), reader.phases(), reader.experiments(), reader.open_tasks(0.0)) == ([], [], [], [])


def test_reading_cannot_write(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(task_started(ledger))
    assert ledger.flush(10)
    with LedgerReader(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._database.execute("DELETE FROM tasks")
