"""The retention of results, pictures, logs and the ledger's tasks within limits of age and size."""

import asyncio
import logging
import math
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from miner.config import HousekeepingSettings, RetentionSettings
from miner.ledger import TasksDeleted
from miner.monitor.clock_doubt import DAY, ClockDoubt
from miner.runtime import SYSTEM_CLOCK, Clock, opened_folder, trim_heap

log = logging.getLogger(__name__)

# A ledger that is too large is reduced to this share of its limit, so that not every round has to reduce it again.
LEDGER_SHARE = 0.9
# The names of files that may be deleted, with the partial files that a crash may leave; no other file is touched.
RESULTS = re.compile(
    r"(?P<dot>\.)?(?P<stem>[0-9]{1,19})(\.prompt|\.views|\.candidates)?\.(spz|ply|json|prompt|webp|zip|part)(?(dot)\.[0-9a-f]{8}\.part)"
)
# The present log is rotated by its writer.
LOGS = re.compile(r"(?P<stem>miner\.log\.[0-9]+)")


@dataclass(frozen=True)
class StoredItem:
    """Files of one folder that are kept or deleted together, their size in bytes and the time of the last change."""

    names: tuple[str, ...]
    size: int
    modified: float


def select_expired(items: Collection[StoredItem], now: float, limits: RetentionSettings) -> list[StoredItem]:
    """Select the items that are too old, and the oldest others until the rest fits; the oldest come first.

    `now` is in unix seconds; -inf makes nothing too old.
    """
    oldest = now - limits.max_days * DAY
    remaining_bytes = sum(item.size for item in items)
    expired = []
    for item in sorted(items, key=lambda item: (item.modified, item.names)):
        if item.modified >= oldest and remaining_bytes <= limits.max_bytes:
            break
        expired.append(item)
        remaining_bytes -= item.size
    return expired


def list_items(folder: int, pattern: re.Pattern[str]) -> list[StoredItem]:
    """Return the items of an open folder: regular files grouped by the stem in their names. Raises OSError."""
    items: dict[str, StoredItem] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = pattern.fullmatch(entry.name)
            with suppress(FileNotFoundError):
                if match is not None and entry.is_file(follow_symlinks=False):
                    status, item = entry.stat(follow_symlinks=False), items.get(match["stem"], StoredItem((), 0, 0.0))
                    names = tuple(sorted([*item.names, entry.name]))
                    modified = max(item.modified, status.st_mtime)
                    items[match["stem"]] = StoredItem(names, item.size + status.st_size, modified)
    return list(items.values())


def delete_expired(folder: Path, pattern: re.Pattern[str], limits: RetentionSettings, now: float) -> list[StoredItem]:
    """Delete the expired items of a folder, if it exists, following no link below it; return them. Raises OSError."""
    try:
        # Held open, so that files are listed and deleted in the same folder even if its path is replaced.
        with opened_folder(folder) as descriptor:
            expired = select_expired(list_items(descriptor, pattern), now, limits)
            for name in (name for item in expired for name in item.names):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)
            return expired
    except FileNotFoundError:
        return []


def measure_ledger(path: Path) -> int:
    """Return the size in bytes of the ledger with its journal, 0 if there is none."""
    total = 0
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            total += path.with_name(path.name + suffix).stat().st_size
    return total


def find_newest_task(path: Path, before: float) -> float | None:
    """Return the unix time of the last task assigned before a moment, None if there is none. Raises sqlite3.Error."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        (moment,) = database.execute("SELECT max(assigned_at) FROM tasks WHERE assigned_at < ?", (before,)).fetchone()
    return None if moment is None else float(moment)


def find_ledger_cutoff(path: Path, limits: RetentionSettings, now: float) -> float | None:
    """Return the unix time before which the ledger's tasks must be deleted, or None. Raises sqlite3.Error."""
    size = measure_ledger(path)
    if not size:
        return None
    limit = now - limits.max_days * DAY
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        first = database.execute("SELECT min(assigned_at) FROM tasks").fetchone()[0]
        if first is None:
            return None
        if size > limits.max_bytes:
            (count,) = database.execute("SELECT count(*) FROM tasks").fetchone()
            surplus = int(count * (1 - LEDGER_SHARE * limits.max_bytes / size))
            query = "SELECT assigned_at FROM tasks ORDER BY key LIMIT 1 OFFSET ?"
            limit = max(limit, database.execute(query, (surplus,)).fetchone()[0])
    return limit if first < limit else None


class Retention:
    """Deletes what has expired, again and again."""

    def __init__(
        self,
        settings: HousekeepingSettings,
        state_dir: Path,
        ledger: Path,
        record: Callable[[TasksDeleted], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Look after results/, pictures/ and logs/ of `state_dir`, and the ledger, to which `record` writes."""
        self._settings = settings
        self._folders = (
            (state_dir / "results", RESULTS, settings.results),
            (state_dir / "pictures", RESULTS, settings.pictures),
            (state_dir / "logs", LOGS, settings.logs),
        )
        self._ledger = ledger
        self._record = record
        self._clock = clock
        self._doubt = ClockDoubt(clock)
        self._problems: dict[Path, str] = {}

    async def run(self) -> None:
        """Delete what has expired until cancelled; memory that is free goes back to the system then, too."""
        while True:
            await asyncio.to_thread(self.run_once)
            await asyncio.to_thread(trim_heap)
            await asyncio.sleep(self._settings.interval)

    def run_once(self) -> None:
        """Delete what has expired; what cannot be read or deleted is logged once and retried in the next round."""
        now = self._clock.wall()
        if not self._doubt.is_credible(self._find_newest_record):
            now = -math.inf
        for folder, pattern, limits in self._folders:
            with self._log_problem(folder):
                expired = delete_expired(folder, pattern, limits, now)
                if expired:
                    size = sum(item.size for item in expired)
                    log.info("Deleted the %d oldest in %s, %.1f MB", len(expired), folder, size / 1e6)
        with self._log_problem(self._ledger):
            cutoff = find_ledger_cutoff(self._ledger, self._settings.ledger, now)
            if cutoff is not None:
                age = (self._clock.wall() - cutoff) / DAY
                log.info("Deleting tasks that are older than %.1f days from the ledger", age)
                self._record(TasksDeleted(cutoff))

    def _find_newest_record(self, before: float) -> float | None:
        """Return the unix time of the newest result, picture, finished log or task before a moment, or None."""
        moments: list[float | None] = []
        for folder, pattern, _ in self._folders:
            with suppress(OSError), opened_folder(folder) as descriptor:
                moments += [item.modified for item in list_items(descriptor, pattern)]
        with suppress(sqlite3.Error, OSError):
            moments.append(find_newest_task(self._ledger, before))
        return max((moment for moment in moments if moment is not None and moment < before), default=None)

    @contextmanager
    def _log_problem(self, path: Path) -> Iterator[None]:
        """Log an error unless the last one of this path was the same."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if self._problems.get(path) != str(error):
                log.warning("Expired files of %s cannot be deleted: %s", path, error)
            self._problems[path] = str(error)
        else:
            self._problems.pop(path, None)
