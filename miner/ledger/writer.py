"""The ledger: what became of each task, in one SQLite file, written by a thread of its own."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from miner.ledger.events import Event, TasksDeleted
from miner.ledger.schema import NewerLedgerError, open_for_writing

log = logging.getLogger(__name__)

# A day's events at a task a second; some MB of memory.
CAPACITY = 10_000
# Back-off while the file cannot be written, in seconds, doubling.
FIRST_RETRY = 1.0
LAST_RETRY = 60.0

# What the database says of a record that no file could hold.
REFUSALS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, ValueError, OverflowError)


@dataclass(frozen=True)
class LedgerStatus:
    """For the monitor: records written, waiting and lost, failed attempts, and what is wrong now, "" if nothing.

    A record is lost when it comes while the queue is full, or when the database refuses it and not the file.
    """

    written: int
    waiting: int
    dropped: int
    failures: int
    problem: str


class LedgerWriter:
    """Takes records at once, from any thread; a file that cannot be written is reported once and tried again.

    Each record is committed by itself and in order, so a crash loses at most the one being written and those that
    came since.
    """

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        """`path` may not exist yet, nor its folder; `capacity` is how many records may wait."""
        self.path = path.expanduser()
        self._capacity = capacity
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._last_key = 0
        self._written = self._dropped = self._failures = 0
        self._problem = ""
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def new_key(self) -> int:
        """A key for a new task: unix nanoseconds, later than any before of this process."""
        with self._changed:
            self._last_key = max(self._last_key + 1, time.time_ns())
            return self._last_key

    def record(self, event: Event) -> None:
        """Have an event written soon; returns at once, whatever the file's state. Nothing is taken after close."""
        with self._changed:
            if self._closing or len(self._events) >= self._capacity:
                self._dropped += 1
                return
            self._events.append(event)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all that was recorded is written, `timeout` seconds at most; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events, timeout)

    def close(self, timeout: float) -> bool:
        """Write what waits, within `timeout` seconds or a little more, and end; whether all was written."""
        if self._thread.is_alive():
            self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        with self._changed:
            lost = len(self._events)
            self._dropped += lost
            self._events.clear()
        if lost:
            log.warning("The ledger %s was closed before %d records were written", self.path, lost)
        return not lost

    @property
    def status(self) -> LedgerStatus:
        """How it goes."""
        with self._changed:
            return LedgerStatus(self._written, len(self._events), self._dropped, self._failures, self._problem)

    def _run(self) -> None:
        retry = FIRST_RETRY
        while (event := self._next()) is not None:
            try:
                self._write(event)
            except REFUSALS as error:
                # The record is to blame: trying again would hold up the others for ever.
                log.error("The ledger cannot hold %s, which is lost: %s", type(event).__name__, error)
                self._done(event, lost=True)
            except (sqlite3.Error, OSError, NewerLedgerError) as error:
                self._failed(error)
                self._disconnect()
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, retry)
                retry = min(2 * retry, LAST_RETRY)
            else:
                retry = FIRST_RETRY
                self._done(event, lost=False)
        self._disconnect()

    def _next(self) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closing)
            return None if self._closing else self._events[0]

    def _write(self, event: Event) -> None:
        if self._database is None or self._is_gone():
            self._disconnect()
            self._database = open_for_writing(self.path)
            self._inode = self.path.stat().st_ino
        self._database.execute(*event.statement())
        if isinstance(event, TasksDeleted):
            # As a script: execute() would stop after the first page.
            self._database.executescript("PRAGMA incremental_vacuum")

    def _is_gone(self) -> bool:
        """Whether somebody has moved or replaced the file: what is written to the old one nobody would find."""
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _done(self, event: Event, lost: bool) -> None:
        with self._changed:
            # Closing may have given it up meanwhile.
            if self._events and self._events[0] is event:
                self._events.popleft()
            self._dropped += lost
            self._written += not lost
            problem = self._problem
            if not lost:
                self._problem = ""
            self._changed.notify_all()
        if problem and not lost:
            status = self.status
            log.warning("The ledger %s is written again; %d records were lost so far", self.path, status.dropped)

    def _failed(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        with self._changed:
            is_new = problem != self._problem
            self._problem = problem
            self._failures += 1
            self._changed.notify_all()
        if is_new:
            log.error(
                "The ledger %s cannot be written and is tried again; mining goes on, up to %d records wait. %s. "
                "A full disk needs space, a damaged file has to be moved away",
                *(self.path, self._capacity, problem),
            )

    def _disconnect(self) -> None:
        if self._database is not None:
            try:
                self._database.close()
            except sqlite3.Error as error:
                log.debug("Closing the ledger: %s", error)
            self._database = None
