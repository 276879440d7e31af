"""Ledgers of earlier and later versions, and reading, which makes and changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from miner.errors import OperatorError
from miner.ledger.events import ArmAssignment
from miner.ledger.reader import LedgerReader
from miner.ledger.schema import MIGRATIONS, VERSION
from miner.ledger.writer import LedgerWriter
from tests.miner.ledger.conftest import Heard, assigned, generated, rows

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
    ledger = LedgerWriter(path)
    ledger.start()
    ledger.record(assigned(ledger, "new", draw=ArmAssignment("e", "phase3", 0)))
    assert ledger.close(10)
    with LedgerReader(path) as reader:
        assert reader.tasks()[0] == before
        assert (reader.tasks()[1].task_id, reader.tasks()[1].arm) == ("new", "phase3")
        assert reader.phases() == [phase]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    fresh = LedgerWriter(tmp_path / "fresh.sqlite")
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
    ledger = LedgerWriter(path)
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
    fresh = LedgerWriter(tmp_path / "fresh.sqlite")
    fresh.start()
    fresh.record(assigned(fresh))
    assert fresh.close(10)
    assert schema(path) == schema(fresh.path)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    version_1(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE VIEW validator_outcomes AS SELECT 1")
    ledger = LedgerWriter(path)
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
    ledger = LedgerWriter(path)
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


def test_reading_cannot_write(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(assigned(ledger))
    assert ledger.flush(10)
    with LedgerReader(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._database.execute("DELETE FROM tasks")
