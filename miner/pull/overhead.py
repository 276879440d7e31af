"""When a generation must be done for its result to cost nothing."""

from __future__ import annotations

from dataclasses import dataclass

# Gains of TCP's estimator of round trips (RFC 6298): they follow a change within some ten samples.
MEAN_GAIN = 1 / 8
DEVIATION_GAIN = 1 / 4
DEVIATIONS = 4.0
# Before anything was measured: a slow upload and a validation.
FIRST_MARGIN = 5.0


@dataclass(frozen=True)
class OverheadEstimator:
    """Seconds from the end of a generation to the validator's answer: encoding, upload and validation.

    The cooldown that a validator sets counts from the end of its validation, so all three eat of the free period.
    """

    mean: float = FIRST_MARGIN
    deviation: float = 0.0
    measured: bool = False

    def after(self, seconds: float) -> OverheadEstimator:
        """With one more measurement."""
        if not self.measured:
            return OverheadEstimator(seconds, seconds / 2, measured=True)
        deviation = self.deviation + DEVIATION_GAIN * (abs(seconds - self.mean) - self.deviation)
        return OverheadEstimator(self.mean + MEAN_GAIN * (seconds - self.mean), deviation, measured=True)

    @property
    def seconds(self) -> float:
        """What nearly all take at most."""
        return self.mean + DEVIATIONS * self.deviation


def deadline(assigned_at: float, throttle_period: float, margin: OverheadEstimator) -> float:
    """The moment at which a generation should be done; may have passed, when as soon as possible is what remains."""
    return assigned_at + throttle_period - margin.seconds
