"""Estimates of a validator's clock, and of the time from a generation to its answer, from which deadlines follow."""

import math
from dataclasses import dataclass, replace

# Answers that the estimate rests on. Few, so that it follows a clock that is set back.
SAMPLES = 4
# Gains of TCP's estimator of round-trip times (RFC 6298): it follows a change within some ten samples.
MEAN_GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
DEVIATIONS = 4.0
# Before the first measurement: a slow upload and a validation.
INITIAL_OVERHEAD = 5.0


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

    def with_date(self, date: float | None, received: float) -> "ClockOffset":
        """Return the estimate after an answer with that Date, or none, arrived at `received` of our steady clock."""
        if date is None:
            return self
        return replace(self, offsets=(*self.offsets, date - received)[-SAMPLES:])

    def with_ceiling(self, moment: float, received: float) -> "ClockOffset":
        """Return the estimate after the validator's clock had not reached `moment` at `received`."""
        return replace(self, ceiling=min(self.ceiling, moment - received))

    @property
    def offset(self) -> float | None:
        """The validator's unix time minus our steady time, at least; None if it never sent a Date."""
        return min(max(self.offsets), self.ceiling) if self.offsets else None

    def validator_time(self, now: float, wall: float) -> float:
        """Return the least that the validator's clock shows at `now`; our own `wall` time if it never sent a Date."""
        return now + self.offset if self.offset is not None else min(wall, now + self.ceiling)


@dataclass(frozen=True)
class OverheadEstimator:
    """The seconds from the end of a generation to the validator's answer: upload and validation.

    A validator's cooldown counts from the end of its validation, so both use up the free period.
    """

    mean: float = INITIAL_OVERHEAD
    deviation: float = 0.0
    is_measured: bool = False

    def with_sample(self, seconds: float) -> "OverheadEstimator":
        """Return the estimate after one more measurement."""
        if not self.is_measured:
            return OverheadEstimator(seconds, seconds / 2, is_measured=True)
        deviation = self.deviation + DEVIATION_GAIN * (abs(seconds - self.mean) - self.deviation)
        return OverheadEstimator(self.mean + MEAN_GAIN * (seconds - self.mean), deviation, is_measured=True)

    @property
    def upper_bound(self) -> float:
        """The seconds that nearly every submission stays within."""
        return self.mean + DEVIATIONS * self.deviation


def generation_deadline(assigned_at: float, throttle_period: float, overhead: OverheadEstimator) -> float:
    """Return the moment at which a generation should be done for its result to cost nothing; it may be in the past."""
    return assigned_at + throttle_period - overhead.upper_bound
