"""Doubt about the wall clock, by which nothing may be deleted while it may be wrong."""

import logging
from dataclasses import dataclass

from miner.runtime import Clock

log = logging.getLogger(__name__)

DAY = 86_400.0
# A step of the wall clock against the steady one, in seconds, that no drift and no correction of a drift makes.
NOTABLE_STEP = 600.0
# A clock that has not stepped for this long, in seconds of the steady clock, is taken for right.
DOUBT_SECONDS = DAY


@dataclass(eq=False)
class ClockDoubt:
    """Watches the wall clock of `clock`; see `is_credible`."""

    clock: Clock
    _ahead: float | None = None
    _doubted_at: float | None = None

    def is_credible(self, newest_record: float | None) -> bool:
        """Return whether the wall clock may be relied upon, and warn once when it becomes doubtful.

        At the first call it is doubted if it is more than a day ahead of the newest record, unix seconds, None if there
        are no records; later whenever it has stepped since the last call. A doubt lasts for a day.
        """
        now, wall = self.clock.now(), self.clock.wall()
        reason = ""
        if self._ahead is None and newest_record is not None and wall - newest_record > DAY:
            reason = f"is {(wall - newest_record) / DAY:.1f} days ahead of the newest record"
        if self._ahead is not None and abs(wall - now - self._ahead) > NOTABLE_STEP:
            reason = f"has stepped by {wall - now - self._ahead:.0f} s"
        self._ahead = wall - now
        if reason:
            self._doubted_at = now
            log.warning("The clock %s: for a day nothing is deleted because of its age; see timedatectl", reason)
        return self._doubted_at is None or now - self._doubted_at > DOUBT_SECONDS
