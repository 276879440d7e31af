"""What grows on disk is kept within an age and a size: results, pictures, logs, and the ledger's tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from miner.config.settings import HousekeepingSettings, RetentionSettings
from miner.ledger.events import TasksDeleted

log = logging.getLogger(__name__)

DAY = 86_400.0
# A ledger that is too large is cut down to this share of its limit, so that not every round has to cut again.
LEDGER_SHARE = 0.9
# What of each folder is ours; whatever else stands there is not touched.
RESULTS = re.compile(r"(?P<stem>[0-9]{1,19})(\.prompt)?\.(spz|ply|json|prompt|webp|part)")
# The present log is the writer's to rotate.
LOGS = re.compile(r"(?P<stem>miner\.log\.[0-9]+)")


@dataclass(frozen=True)
class Item:
    """What is kept or deleted as a whole: files of one folder, their bytes together, when the last was written."""

    names: tuple[str, ...]
    size: int
    modified: float


def expired(items: Collection[Item], now: float, limits: RetentionSettings) -> list[Item]:
    """What to delete, the oldest first: all that is too old, and of the rest the oldest until it fits. Pure."""
    oldest = now - limits.max_days * DAY
    left = sum(item.size for item in items)
    found = []
    for item in sorted(items, key=lambda item: (item.modified, item.names)):
        if item.modified >= oldest and left <= limits.max_bytes:
            break
        found.append(item)
        left -= item.size
    return found


def items(folder: int, ours: re.Pattern[str]) -> list[Item]:
    """The items of an open folder: regular files whose name is ours, together where the pattern's stem is the same.

    Raises OSError if the folder cannot be listed.
    """
    names = defaultdict[str, list[str]](list)
    sizes, modified = defaultdict[str, int](int), defaultdict[str, float](float)
    with os.scandir(folder) as entries:
        for entry in entries:
            match = ours.fullmatch(entry.name)
            if match is None:
                continue
            with suppress(FileNotFoundError):
                if not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                stem = match["stem"]
                names[stem].append(entry.name)
                sizes[stem] += facts.st_size
                modified[stem] = max(modified[stem], facts.st_mtime)
    return [Item(tuple(sorted(names[stem])), sizes[stem], modified[stem]) for stem in names]


def tidy(folder: Path, ours: re.Pattern[str], limits: RetentionSettings, now: float) -> list[Item]:
    """Delete what has expired in a folder; what was deleted. No link is followed but the folder itself.

    Raises OSError if the folder cannot be read or a file not deleted; a missing folder is an empty one.
    """
    try:
        # Held open, so that what is listed and what is deleted is in the same folder, whatever its path becomes.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return []
    try:
        gone = expired(items(descriptor, ours), now, limits)
        for name in (name for item in gone for name in item.names):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
        return gone
    finally:
        os.close(descriptor)


def ledger_size(path: Path) -> int:
    """Bytes of the ledger with its journal; 0 if there is none."""
    total = 0
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            total += path.with_name(path.name + suffix).stat().st_size
    return total


def forget_before(path: Path, limits: RetentionSettings, now: float) -> float | None:
    """The moment before which the ledger's tasks are to be forgotten, unix seconds; None if it may keep them all.

    Raises sqlite3.Error if the file cannot be read.
    """
    size = ledger_size(path)
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
    """Tidies again and again; `forget` hands an event to the ledger, None if there is none."""

    def __init__(
        self, settings: HousekeepingSettings, state: Path, ledger: Path, forget: Callable[[TasksDeleted], None] | None
    ) -> None:
        """`state` holds results/, pictures/ and logs/."""
        self._settings = settings
        self._folders = (
            (state / "results", RESULTS, settings.results),
            (state / "pictures", RESULTS, settings.pictures),
            (state / "logs", LOGS, settings.logs),
        )
        self._ledger = ledger
        self._forget = forget
        self._problems: dict[Path, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.round)
            await asyncio.sleep(self._settings.interval)

    def round(self) -> None:
        """Tidy once. What cannot be read or deleted is reported once, and tried again in the next round."""
        now = time.time()
        for folder, ours, limits in self._folders:
            with self._reported(folder):
                self._tell(folder, tidy(folder, ours, limits, now))
        if self._forget is not None:
            with self._reported(self._ledger):
                before = forget_before(self._ledger, self._settings.ledger, now)
                if before is not None:
                    log.info("The ledger forgets tasks of more than %.1f days ago", (now - before) / DAY)
                    self._forget(TasksDeleted(before))

    def _tell(self, folder: Path, gone: Iterable[Item]) -> None:
        sizes = [item.size for item in gone]
        if sizes:
            log.info("Deleted the %d oldest in %s, %.1f MB", len(sizes), folder, sum(sizes) / 1e6)

    @contextmanager
    def _reported(self, what: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if self._problems.get(what) != str(error):
                log.warning("%s cannot be tidied: %s", what, error)
            self._problems[what] = str(error)
        else:
            self._problems.pop(what, None)
