"""The ledger's tables, and how an older file is brought up to date."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

# Seconds that the writer waits for another process's lock before it reports it.
BUSY_TIMEOUT = 1.0

SPLAT_COLUMNS = (
    *("gaussians", "opacity_min", "opacity_mean", "opacity_max", "transparent_share"),
    *("box_min_x", "box_min_y", "box_min_z", "box_max_x", "box_max_y", "box_max_z"),
    *("volume", "density_max", "density_mean", "scale_p5", "scale_p50", "scale_p95"),
)
"""Columns of a task that describe its splats: the fields of `pipeline.splats.Statistics`, flat."""

# A migration is never changed once it has been released: operators' files have been through it.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE tasks (
            key INTEGER PRIMARY KEY,
            assigned_at REAL NOT NULL,
            transport TEXT NOT NULL CHECK (transport IN ('pull', 'push')),
            validator TEXT NOT NULL,
            uid INTEGER,
            task_id TEXT NOT NULL,
            task_type TEXT NOT NULL CHECK (task_type IN ('text', 'image')),
            phase TEXT NOT NULL,
            config_hash TEXT NOT NULL,
            code_version TEXT NOT NULL,
            generated_at REAL,
            seed INTEGER,
            seeds TEXT,
            stages TEXT,
            generation_seconds REAL,
            gaussians INTEGER,
            opacity_min REAL, opacity_mean REAL, opacity_max REAL, transparent_share REAL,
            box_min_x REAL, box_min_y REAL, box_min_z REAL, box_max_x REAL, box_max_y REAL, box_max_z REAL,
            volume REAL, density_max REAL, density_mean REAL,
            scale_p5 REAL, scale_p50 REAL, scale_p95 REAL,
            local_score REAL,
            submission_bytes INTEGER,
            answered_at REAL,
            outcome TEXT,
            score REAL CHECK (score > 0),
            cooldown_until REAL,
            submissions INTEGER NOT NULL DEFAULT 0,
            error TEXT
        )
        """,
        """
        CREATE TABLE phases (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            phase TEXT NOT NULL,
            action TEXT NOT NULL CHECK (action IN ('start', 'apply', 'rollback', 'automatic')),
            config_hash TEXT NOT NULL,
            yaml TEXT NOT NULL
        )
        """,
    ),
    (
        """
        CREATE TABLE experiments (
            name TEXT PRIMARY KEY,
            started_at REAL NOT NULL,
            seed INTEGER NOT NULL,
            arms TEXT NOT NULL,
            ended_at REAL,
            decision TEXT
        )
        """,
        "ALTER TABLE tasks ADD COLUMN experiment TEXT",
        "ALTER TABLE tasks ADD COLUMN arm TEXT",
        "ALTER TABLE tasks ADD COLUMN turn INTEGER",
        "CREATE INDEX tasks_of_experiments ON tasks (experiment) WHERE experiment IS NOT NULL",
        """
        CREATE VIEW validator_outcomes AS
            SELECT validator AS hotkey, sum(outcome = 'accepted') AS accepted, sum(outcome = 'rejected') AS rejected
            FROM tasks WHERE outcome IN ('accepted', 'rejected') GROUP BY validator
        """,
    ),
    ("ALTER TABLE tasks ADD COLUMN candidates TEXT",),
    # Outcomes in snake case, as everywhere else.
    ("UPDATE tasks SET outcome = replace(outcome, ' ', '_')",),
    # The score's other parts, the threshold that it was to reach, what the phase's gate made of both, and how the
    # objects of pictures were cut out.
    (
        "ALTER TABLE tasks RENAME COLUMN local_score TO quality",
        "ALTER TABLE tasks ADD COLUMN alignment REAL",
        "ALTER TABLE tasks ADD COLUMN ssim REAL",
        "ALTER TABLE tasks ADD COLUMN lpips REAL",
        "ALTER TABLE tasks ADD COLUMN estimated_score REAL",
        "ALTER TABLE tasks ADD COLUMN threshold REAL",
        "ALTER TABLE tasks ADD COLUMN pass_probability REAL",
        "ALTER TABLE tasks ADD COLUMN gate TEXT CHECK (gate IN ('sent', 'withheld', 'explored'))",
        "ALTER TABLE tasks ADD COLUMN mattings TEXT",
    ),
)
VERSION = len(MIGRATIONS)


class NewerLedgerError(Exception):
    """A ledger that was written by a later version of this software."""


def splat_columns(statistics: Mapping[str, float | tuple[float, ...]]) -> dict[str, float]:
    """Return SPLAT_COLUMNS of statistics that are given as vars(); corners of the box become _x, _y and _z."""
    flat: dict[str, float] = {}
    for name, value in statistics.items():
        if isinstance(value, tuple):
            flat |= {f"{name}_{axis}": part for axis, part in zip("xyz", value, strict=True)}
        else:
            flat["gaussians" if name == "count" else name] = value
    return flat


def check_version(database: sqlite3.Connection) -> int:
    """Return the version of the file's tables, 0 if it has none yet. Raise NewerLedgerError or sqlite3.Error."""
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        known = f"this release knows versions up to {VERSION}"
        raise NewerLedgerError(f"it has version {version}, and {known}: update the miner")
    return version


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the file, creating or migrating it if necessary.

    Each statement is a transaction that survives a loss of power. Raises OSError, sqlite3.Error or NewerLedgerError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        # Takes effect only before the first table is made; lets the file shrink after rows have been deleted.
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def migrate(database: sqlite3.Connection) -> None:
    """Bring the tables up to VERSION, in all steps or none."""
    if check_version(database) == VERSION:
        return
    database.execute("BEGIN IMMEDIATE")
    # Commits, or rolls back on an exception.
    with database:
        # Read again, now that no other process can be migrating.
        present = check_version(database)
        for version, statements in enumerate(MIGRATIONS[present:], present + 1):
            for statement in statements:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {version}")
