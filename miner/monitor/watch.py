"""Looks now and then for what the operator wants to be told, see `notifications`."""

import asyncio
import logging
import math
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from miner.analytics import DROP_COLUMNS, find_drops
from miner.config import NotificationSettings
from miner.errors import HotkeyNotRegistered, OperatorError
from miner.ledger import LedgerReader, TaskRow
from miner.monitor.notifications import Notification, Notifier
from miner.monitor.status import Status, StatusSource
from miner.monitor.told import Kind, ToldStore
from miner.words import plural

log = logging.getLogger(__name__)

# Seconds between two looks at the status, and at the ledger.
INTERVAL = 60.0
LEDGER_INTERVAL = 600.0
# Seconds of the ledger that the rate before a drop is of.
HISTORY_SECONDS = 14 * 86_400.0
GIGABYTE = 10**9
_UNUSED = tuple(name for name in TaskRow._fields if name not in DROP_COLUMNS)


class Watch:
    """Tells what is noticed in a status, in a ledger and of the disk of a state folder."""

    def __init__(self, settings: NotificationSettings, source: StatusSource, ledger: Path, state_dir: Path) -> None:
        """Look at these; the ledger need not exist yet."""
        self._settings = settings
        self._source = source
        self._ledger = ledger
        self._state_dir = state_dir
        self._notifier = Notifier(settings, ToldStore(state_dir / "notifications.json"))
        # None if they cannot be told.
        self._drops: tuple[Notification, ...] | None = None
        self._next_drops = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Look once, and tell what is new."""
        if time.monotonic() >= self._next_drops:
            self._drops = await asyncio.to_thread(self._find_drops)
            self._next_drops = time.monotonic() + LEDGER_INTERVAL
        free = await asyncio.to_thread(self._read_free_space)
        status = self._source.status()
        present = (*self._of_status(status), *self._of_disk(free), *(self._drops or ()))

        def is_unknown(kind: Kind, subject: str) -> bool:
            return self._is_unknown(kind, subject, status, free)

        await self._notifier.tell(present, is_unknown)

    @asynccontextmanager
    async def telling_of_the_end(self) -> AsyncIterator[None]:
        """Tell if the context ends because our hotkey is not registered."""
        try:
            yield
        except HotkeyNotRegistered as error:
            await self._notifier.tell_also(Notification("deregistered", "", f"The miner ends: {error}"))
            raise

    def _of_status(self, status: Status) -> Iterator[Notification]:
        experiment = status.experiment
        if experiment is not None and (experiment["winner"] is not None or experiment["losers"]):
            winner, losers = experiment["winner"], " and ".join(experiment["losers"])
            verdict = f"{losers} clearly worse" if winner is None else f"{winner} has won"
            name = experiment["experiment"]
            yield Notification("experiment_decided", f"{name} {verdict}", f"Experiment {name}: {verdict}")
        # After a start, nothing is missed before it has lasted as long.
        minutes = int(min(_silence(status), status.uptime) // 60)
        if status.able_to_work and minutes >= self._settings.silence_minutes:
            yield Notification("no_result", "", f"No result for {plural(minutes, 'minute')}; see `sn17-miner status`")
        if status.ledger is not None and status.ledger.problem:
            yield Notification("disk", "ledger", f"The ledger cannot be written: {status.ledger.problem}")

    def _of_disk(self, free: float | None) -> Iterator[Notification]:
        if free is not None and free < self._settings.disk_free_gb:
            yield Notification("disk", "free", f"Only {free:.1f} GB are free on the disk of {self._state_dir}")

    def _is_unknown(self, kind: Kind, subject: str, status: Status, free: float | None) -> bool:
        """Return whether nothing shows if a notification is still true, as in the first minutes after a start."""
        if kind == "no_result":
            limit = 60 * self._settings.silence_minutes
            return _silence(status) >= limit and (status.uptime < limit or not status.able_to_work)
        if kind == "experiment_decided":
            return status.experiment is None
        if kind == "acceptance_fell":
            return self._drops is None
        if (kind, subject) == ("disk", "ledger"):
            ledger = status.ledger
            return ledger is None or (not ledger.written and not ledger.problem)
        return kind == "disk" and free is None

    def _read_free_space(self) -> float | None:
        """Return the gigabytes that are free on the state folder's disk, None if nothing tells."""
        try:
            return shutil.disk_usage(self._state_dir).free / GIGABYTE
        except OSError:
            return None

    def _find_drops(self) -> tuple[Notification, ...] | None:
        now = time.time()
        try:
            if not self._ledger.is_file():
                return ()
            with LedgerReader(self._ledger) as reader:
                drops = find_drops(reader.tasks(now - HISTORY_SECONDS, without=_UNUSED), now)
        except OperatorError as error:
            log.warning("Whether acceptance fell cannot be told: %s", error)
            return None
        return tuple(
            Notification(
                "acceptance_fell",
                f"{drop.phase} {drop.config_hash}",
                f"Acceptance of phase {drop.phase} fell at about {datetime.fromtimestamp(drop.since, UTC):%H:%M} UTC: "
                f"{drop.after.accepted} of {drop.after.judged} since, {100 * (drop.before.share or 0):.0f} % before",
            )
            for drop in drops
        )


def _silence(status: Status) -> float:
    """Return the seconds since the last result; infinite if there is none yet."""
    return math.inf if status.last_success is None else time.time() - status.last_success
