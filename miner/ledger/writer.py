"""Writes the ledger on a thread of its own, so that recording never blocks and never stops mining."""

import logging
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from miner.ledger.events import Event, ExperimentEnded, ExperimentStarted, PhaseChanged
from miner.ledger.file import LOST_WAL, LedgerFile, Loss
from miner.ledger.schema import NewerLedgerError
from miner.runtime import backoff
from miner.words import plural

log = logging.getLogger(__name__)

# A day's events at a task a second; some MB of memory.
CAPACITY = 10_000
# Seconds between two attempts while the file cannot be written.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

# Seconds after which the file is looked at even if there is nothing to write, and the -wal is emptied into it.
CHECK_INTERVAL = 5.0
HISTORY = PhaseChanged | ExperimentStarted | ExperimentEnded

# What the database raises for an event that no file could hold.
REJECTIONS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, ValueError, OverflowError)


@dataclass(frozen=True)
class LedgerStatus:
    """The writer's progress: events written, waiting and dropped, failed attempts, and the present problem or "".

    `written` are in the ledger. An event is dropped when it comes while the queue is full, when the database rejects it
    and not the file, and when the file that it was written to is lost. That a file was lost stays a problem.
    """

    written: int
    waiting: int
    dropped: int
    failures: int
    problem: str


class LedgerWriter:
    """A queue of events and the thread that writes them; a file that cannot be written is reported once and retried.

    Each event is committed by itself and in order, so that a crash loses at most the one being written and those still
    waiting.
    """

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        """Start the thread; `path` and its folder are created with the first event."""
        self.path = path.expanduser()
        self._capacity = capacity
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._last_key = 0
        self._written = self._dropped = self._failures = 0
        self._problem = self._loss = ""
        # Of the events written, those that are written again into the next file.
        self._history_events = 0
        self._file = LedgerFile(self.path)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def new_key(self) -> int:
        """Return a key for a new task: unix nanoseconds, later than any key that this process has given out."""
        with self._changed:
            self._last_key = max(self._last_key + 1, time.time_ns())
            return self._last_key

    def record(self, event: Event) -> None:
        """Queue an event and return at once, whatever the file's state; events after `close` are dropped."""
        with self._changed:
            if self._is_closing or len(self._events) >= self._capacity:
                self._dropped += 1
                return
            self._events.append(event)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until every event is written; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events, timeout)

    def close(self, timeout: float) -> bool:
        """Write what is waiting, within about `timeout` seconds, and stop; return whether everything was written."""
        self.flush(timeout)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            lost = len(self._events)
            self._dropped += lost
            self._events.clear()
        if lost:
            log.warning("The ledger %s was closed before it had %s", self.path, plural(lost, "more event"))
        return not lost

    @property
    def status(self) -> LedgerStatus:
        """The writer's progress so far."""
        with self._changed:
            problem = self._problem or self._loss
            return LedgerStatus(self._written, len(self._events), self._dropped, self._failures, problem)

    def _run(self) -> None:
        failures = 0
        next_checkpoint = 0.0
        while self._wait():
            event = self._peek()
            if event is None and not self._file.is_open:
                continue
            try:
                if loss := self._file.prepare():
                    self._report_loss(loss)
                is_stored = event is None or self._file.write(event)
                if self._file.find_loss() not in ("", LOST_WAL):
                    # Perhaps before the write, so that it is done again. What went to a -wal is saved.
                    continue
                if event is None or time.monotonic() >= next_checkpoint:
                    self._file.checkpoint()
                    next_checkpoint = time.monotonic() + CHECK_INTERVAL
            except REJECTIONS as error:
                # The event is at fault: trying again would hold up the others for ever.
                log.error("The ledger cannot store %s, which is lost: %s", type(event).__name__, error)
                self._finish(event, lost=True)
            except (sqlite3.Error, OSError, NewerLedgerError) as error:
                self._report(error)
                self._file.close()
                failures += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, backoff(failures, FIRST_RETRY, LAST_RETRY))
            else:
                failures = 0
                if event is not None:
                    if not is_stored:
                        log.error("The ledger lacks what %s is about, so it is lost", type(event).__name__)
                    self._finish(event, lost=not is_stored)
        self._file.close()

    def _wait(self) -> bool:
        """Wait for an event, or until the file is to be looked at; return False once the writer is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._is_closing, CHECK_INTERVAL)
            return not self._is_closing

    def _peek(self) -> Event | None:
        with self._changed:
            return self._events[0] if self._events else None

    def _report_loss(self, loss: Loss) -> None:
        """Count what is not in the ledger any more as dropped, and say so."""
        with self._changed:
            lost = 0 if loss.is_complete else self._written - self._history_events
            self._written -= lost
            self._dropped += lost
            records = f"lost: {plural(lost, 'record')} of this run" if lost else "no record of this run is lost"
            self._loss = (
                f"the ledger {self.path} {loss.event} while the miner ran; {records}; changes of phase and experiments "
                "are kept"
            )
        log.warning("%s", self._loss[0].upper() + self._loss[1:])

    def _finish(self, event: Event | None, lost: bool) -> None:
        with self._changed:
            # `close` may have given it up in the meantime.
            if self._events and self._events[0] is event:
                self._events.popleft()
            self._dropped += lost
            self._written += not lost
            self._history_events += not lost and isinstance(event, HISTORY)
            recovered = bool(self._problem) and not lost
            if recovered:
                self._problem = ""
            dropped = self._dropped
            self._changed.notify_all()
        if recovered:
            log.warning("The ledger %s is written again; lost so far: %s", self.path, plural(dropped, "event"))

    def _report(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        with self._changed:
            is_new = problem != self._problem
            self._problem = problem
            self._failures += 1
            self._changed.notify_all()
        if is_new:
            log.error(
                "The ledger %s cannot be written; retrying, mining goes on, up to %d events wait. %s. Free space on a "
                "full disk, or move a damaged file away",
                *(self.path, self._capacity, problem),
            )
