"""Doubt about the wall clock, by which nothing may be deleted while it may be wrong."""

import logging
import math
from collections.abc import Callable
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

    def is_credible(self, find_newest: Callable[[float], float | None]) -> bool:
        """Return whether the wall clock may be relied upon, and warn once when it becomes doubtful.

        `find_newest` returns when the newest record before a moment was made, unix seconds, None if there is none. At
        the first call the clock is doubted if it is far ahead of the newest record, or of the newest one before
        today's: those of today may be of the same wrong clock, before a restart. Later it is doubted whenever it has
        stepped since the last call. A doubt lasts for a day.
        """
        now, wall = self.clock.now(), self.clock.wall()
        reason = self._compare(wall, find_newest) if self._ahead is None else ""
        if self._ahead is not None and abs(wall - now - self._ahead) > NOTABLE_STEP:
            reason = f"has stepped by {wall - now - self._ahead:.0f} s"
        self._ahead = wall - now
        if reason:
            self._doubted_at = now
            log.warning("The clock %s: for a day nothing is deleted because of its age; see timedatectl", reason)
        return self._doubted_at is None or now - self._doubted_at > DOUBT_SECONDS

    def _compare(self, wall: float, find_newest: Callable[[float], float | None]) -> str:
        """Return how far the clock is ahead of the records if that makes it doubtful, as the end of a sentence."""
        newest, earlier = find_newest(math.inf), find_newest(wall - DAY)
        if newest is not None and wall - newest > DAY:
            return f"is {(wall - newest) / DAY:.1f} days ahead of the newest record"
        if earlier is not None and wall - earlier > 2 * DAY:
            return f"is {(wall - earlier) / DAY:.1f} days ahead of the last record before today's"
        return ""
