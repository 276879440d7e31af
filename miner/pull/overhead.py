"""Estimates the time between the end of a generation and the validator's answer, and derives deadlines from it."""

from __future__ import annotations

from dataclasses import dataclass

# Gains of TCP's estimator of round-trip times (RFC 6298): it follows a change within some ten samples.
MEAN_GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
DEVIATIONS = 4.0
# Before the first measurement: a slow upload and a validation.
INITIAL_OVERHEAD = 5.0


@dataclass(frozen=True)
class OverheadEstimator:
    """The seconds from the end of a generation to the validator's answer: packing, upload and validation.

    A validator's cooldown counts from the end of its validation, so all three use up the free period.
    """

    mean: float = INITIAL_OVERHEAD
    deviation: float = 0.0
    is_measured: bool = False

    def with_sample(self, seconds: float) -> OverheadEstimator:
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
