"""Estimates how far a validator's clock is from ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# Answers that the estimate rests on. Few, so that it follows a clock that is set back.
SAMPLES = 4


@dataclass(frozen=True)
class ClockOffset:
    """A lower bound of a validator's clock, learnt from the `Date` headers of its answers.

    A Date is the sender's unix time in whole seconds, rounded down, at some moment before we received it. So
    date - received is a lower bound of the difference between its clock and ours, and the highest of several is the
    best. A cooldown that is waited for on this bound never ends early, whatever either clock is off by, and ends less
    than two seconds late. `ceiling` bounds the difference from above: a validator that answers "still on cooldown until
    T" shows less than T, whatever a proxy puts into Date.
    """

    offsets: tuple[float, ...] = ()
    ceiling: float = math.inf

    def with_date(self, date: float | None, received: float) -> ClockOffset:
        """Return the estimate after an answer with that Date, or none, arrived at `received` of our steady clock."""
        if date is None:
            return self
        return replace(self, offsets=(*self.offsets, date - received)[-SAMPLES:])

    def with_ceiling(self, moment: float, received: float) -> ClockOffset:
        """Return the estimate after the validator's clock had not reached `moment` at `received`."""
        return replace(self, ceiling=min(self.ceiling, moment - received))

    @property
    def offset(self) -> float | None:
        """The validator's unix time minus our steady time, at least; None if it never sent a Date."""
        return min(max(self.offsets), self.ceiling) if self.offsets else None

    def validator_time(self, now: float, wall: float) -> float:
        """Return the least that the validator's clock shows at `now`; our own `wall` time if it never sent a Date."""
        return now + self.offset if self.offset is not None else min(wall, now + self.ceiling)
