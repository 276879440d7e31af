"""What is known of a validator's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# Answers that the estimate of a validator's clock rests on. Few, so that it follows a clock that is set back.
SAMPLES = 4


@dataclass(frozen=True)
class ClockOffset:
    """The earliest that a validator's clock can show, learnt from the `Date` headers of its answers.

    A Date is the sender's unix time in whole seconds, rounded down, at some moment before we received it. So
    date - received is a lower bound of the difference between its clock and ours, and the highest of some is the best.
    Waiting for a cooldown on this bound never ends early, whatever either clock is off by, and ends less than two
    seconds late. `ceiling` bounds the difference from above: a validator that says "still on cooldown until T" shows
    less than T, whatever a proxy puts into Date.
    """

    offsets: tuple[float, ...] = ()
    ceiling: float = math.inf

    def seen(self, date: float | None, received: float) -> ClockOffset:
        """After an answer with that Date, or none, came at `received` of our steady clock."""
        if date is None:
            return self
        return replace(self, offsets=(*self.offsets, date - received)[-SAMPLES:])

    def still_before(self, moment: float, received: float) -> ClockOffset:
        """After the validator has shown that at `received` its clock had not reached `moment`."""
        return replace(self, ceiling=min(self.ceiling, moment - received))

    @property
    def offset(self) -> float | None:
        """The validator's unix time minus our steady time, at least; None if it never told."""
        return min(max(self.offsets), self.ceiling) if self.offsets else None

    def at(self, now: float, wall: float) -> float:
        """The validator's unix time at `now`, at least; ours, `wall`, if it never told its own."""
        return now + self.offset if self.offset is not None else min(wall, now + self.ceiling)
