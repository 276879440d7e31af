"""The ledger's file as its one writer has it open: lost files are noticed, and their history goes into the next one."""

import logging
import os
import secrets
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from miner.ledger.events import Event, ExperimentEnded, ExperimentStarted, PhaseChanged, TasksDeleted, TaskStarted
from miner.ledger.schema import open_for_writing

log = logging.getLogger(__name__)

PHASE_COLUMNS = "at, phase, action, config_hash, yaml"
EXPERIMENT_COLUMNS = "name, started_at, seed, arms, ended_at, decision"
# Where a database file holds its application id, four bytes, most significant first; https://sqlite.org/fileformat2.html
MARK_OFFSET, MARK_BYTES = 68, 4
NO_FILE = -1

OVERWRITTEN = "was overwritten"
LOST_WAL = "has lost its -wal file"


@dataclass(frozen=True)
class History:
    """The rows of the phases and of the experiments, which are few, and which tasks can be understood only with."""

    phases: tuple[tuple[object, ...], ...]
    experiments: tuple[tuple[object, ...], ...]

    @staticmethod
    def read(database: sqlite3.Connection) -> "History":
        """Read both tables. Raise sqlite3.Error."""
        phases = database.execute(f"SELECT {PHASE_COLUMNS} FROM phases ORDER BY id").fetchall()  # noqa: S608
        experiments = database.execute(f"SELECT {EXPERIMENT_COLUMNS} FROM experiments").fetchall()  # noqa: S608
        return History(tuple(phases), tuple(experiments))

    def write_missing(self, database: sqlite3.Connection) -> None:
        """Write the rows that another file does not have, all or none. Raise sqlite3.Error."""
        present = set(History.read(database).phases)
        missing = [row for row in self.phases if row not in present]
        database.execute("BEGIN IMMEDIATE")
        # Commits, or rolls back on an exception.
        with database:
            database.executemany(f"INSERT INTO phases ({PHASE_COLUMNS}) VALUES (?, ?, ?, ?, ?)", missing)  # noqa: S608
            database.executemany(
                f"INSERT OR REPLACE INTO experiments ({EXPERIMENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                self.experiments,
            )


@dataclass(frozen=True)
class Loss:
    """What became of a ledger's file, as the end of a sentence, and whether all that it held is in the present one."""

    event: str
    is_complete: bool


class LedgerFile:
    """The database connection, opened when first needed.

    SQLite does not notice that the file is deleted, replaced or overwritten or loses its -wal, and writes on to where
    nobody will read. So `prepare` comes before each write, and `find_loss` after it, before it counts.
    """

    def __init__(self, path: Path) -> None:
        """Remember where the file is to be; nothing is opened."""
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._connection: sqlite3.Connection | None = None
        self._inode = self._wal_inode = NO_FILE
        self._mark: bytes | None = None
        # As we left the file; only other processes change these meanwhile.
        self._stamp: tuple[int, int] | None = None
        # Whether the -wal has what the file does not.
        self._is_ahead = False
        self._history: History | None = None
        self._last_task: int | None = None
        self._event = ""

    def find_loss(self) -> str:
        """Return, as the end of a sentence, what has become of the open file; "" if it is there.

        Raises OSError, or sqlite3.OperationalError if a file that another process has changed cannot be checked.
        """
        if self._connection is None:
            return ""
        inode = _inode_of(self._path)
        if inode != self._inode:
            return "was deleted" if inode == NO_FILE else "was replaced by another file"
        if self._mark is not None and _read_mark(self._path) != self._mark:
            return OVERWRITTEN
        stamp = _stamp_of(self._path)
        if stamp != self._stamp:
            # Other processes may write to the database, but a backup of this run, with our mark, may also have been
            # copied over it, which the pages in the -wal do not fit.
            if not self._is_sound():
                return OVERWRITTEN
            self._stamp = stamp
        return "" if _inode_of(self._wal) == self._wal_inode else LOST_WAL

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def prepare(self) -> Loss | None:
        """Open the file that is at the path, if that is not the open one; return what was lost with one before.

        Raises OSError, sqlite3.Error or NewerLedgerError.
        """
        found = self.find_loss()
        if self.is_open and not found:
            return None
        self._event = found or self._event
        self._leave(found)
        is_first = self._history is None
        database = self._open()
        is_complete = is_first or self._has_last_task(database)
        if is_complete and not self._event:
            return None
        event, self._event = self._event or "was moved away", ""
        return Loss(event, is_complete)

    def write(self, event: Event) -> bool:
        """Write an event to the file that is open; return False if the row that it changes does not exist.

        Raises OSError, sqlite3.Error, or ValueError without an open file.
        """
        database = self._connection
        if database is None:
            raise ValueError("the ledger is not open")
        statement, values = event.statement()
        changed = database.execute(statement, values).rowcount
        if isinstance(event, TasksDeleted):
            # As a script: execute() would stop after the first page.
            database.executescript("PRAGMA incremental_vacuum")
            if not self._has_last_task(database):
                self._last_task = None
        self._stamp = _stamp_of(self._path)
        self._is_ahead = True
        if isinstance(event, TasksDeleted):
            return True
        if isinstance(event, PhaseChanged | ExperimentStarted | ExperimentEnded):
            self._history = History.read(database)
        elif isinstance(event, TaskStarted):
            self._last_task = event.key
        elif not changed:
            # The outcome of a task that has a final one already changes nothing, either.
            return database.execute("SELECT 1 FROM tasks WHERE key = ?", (event.key,)).fetchone() is not None
        return bool(changed)

    def checkpoint(self) -> None:
        """Move what the -wal has into the file, as far as readers let it, so that little is lost with a -wal.

        SQLite does so by itself only once some hundred tasks have been written. Raises OSError or sqlite3.Error.
        """
        if self._connection is not None and self._is_ahead:
            _, pages, moved = self._connection.execute("PRAGMA wal_checkpoint").fetchone()
            self._stamp = _stamp_of(self._path)
            self._is_ahead = moved < pages

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as error:
                log.debug("Closing the ledger: %s", error)
            self._connection = None

    def _is_sound(self) -> bool:
        """Return whether another reader finds a whole database with our last task. Raise sqlite3.OperationalError."""
        try:
            # Our own connection would take the pages that it has in memory for those of the file.
            with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)) as reader:
                problems = reader.execute("PRAGMA integrity_check(1)").fetchall()
                return problems == [("ok",)] and self._has_last_task(reader)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
                raise
            return False
        except sqlite3.DatabaseError:
            return False

    def _has_last_task(self, database: sqlite3.Connection) -> bool:
        """Return whether a database has the last task that was written, if any was."""
        found = database.execute("SELECT 1 FROM tasks WHERE key = ?", (self._last_task,)).fetchone()
        return self._last_task is None or found is not None

    def _leave(self, loss: str) -> None:
        """Close the connection to a file of which `loss` has become, so that nothing of it gets into the next one."""
        has_wal = self.is_open and _inode_of(self._wal) == self._wal_inode != NO_FILE
        if loss == OVERWRITTEN and has_wal:
            # Closing would otherwise write pages of the old database into the new one.
            os.truncate(self._wal, 0)
        elif loss and self._connection is not None:
            # Closing does not do that for a file that was moved away, which is to be complete.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint").fetchall()
        self.close()
        if loss not in ("", LOST_WAL) and has_wal:
            for leftover in (self._wal, self._path.with_name(f"{self._path.name}-shm")):
                leftover.unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        database = open_for_writing(self._path)
        try:
            mark = secrets.token_bytes(MARK_BYTES)
            database.execute(f"PRAGMA application_id = {int.from_bytes(mark, signed=True)}")
            database.execute("PRAGMA wal_checkpoint").fetchall()
            if self._history is not None:
                self._history.write_missing(database)
            self._history = History.read(database)
            self._inode, self._wal_inode = self._path.stat().st_ino, _inode_of(self._wal)
            # With a reader at work, the mark is not yet in the file, where it can be compared.
            self._mark = mark if _read_mark(self._path) == mark else None
            self._stamp = _stamp_of(self._path)
        except BaseException:
            database.close()
            raise
        self._connection = database
        return database


def _stamp_of(path: Path) -> tuple[int, int]:
    """Return the time of the last change in nanoseconds, and the size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _read_mark(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(MARK_OFFSET)
        return file.read(MARK_BYTES)


def _inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return NO_FILE
