"""The chance that a result passes, from a score computed here: a logistic regression with a prior, and how good it is.

Platt's scaling (1999) of the margin, score less threshold: logit p = intercept + slope * margin, at the maximum of the
posterior under independent normal priors of both. Isotonic regression, the other usual choice, needs no such form, but
several hundred outcomes; it has no prior, and says nothing beyond the scores that it has seen, which is where a gate
decides. Two numbers suffice here, since a score that is computed like the validator's differs from it by an error with
one peak, which makes the chance a sigmoid of the margin.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.analytics.intervals import Floats, wilson_interval

Bools = npt.NDArray[np.bool_]

# Newton's method doubles the number of right digits with each step; this many always suffice.
MAX_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Normal:
    """A normal distribution by its mean and its standard deviation."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Prior:
    """What is believed of a calibration before any outcome; the slope is in logits per unit of score."""

    intercept: Normal
    slope: Normal


@dataclass(frozen=True)
class Calibration:
    """A fitted chance to pass, and the number of outcomes behind it."""

    intercept: float
    slope: float
    outcomes: int = 0

    def predict(self, margins: Floats) -> Floats:
        """Return the chance to pass at each margin, score less threshold: [n] -> [n]."""
        return _sigmoid(self.intercept + self.slope * margins)

    def chance(self, margin: float) -> float:
        """Return the chance to pass at one margin."""
        return float(self.predict(np.array([margin]))[0])


def fit_calibration(margins: Floats, passed: Bools, prior: Prior) -> Calibration:
    """Return the calibration of highest posterior density for margins [n] and whether each result passed [n].

    The slope is at least 0, for a higher score never passes less: where the data say otherwise, it is 0 and the chance
    the same for all. Without outcomes, it is the prior's mean. Raises ValueError if a margin is not finite or the
    lengths differ.
    """
    if len(margins) != len(passed) or not np.isfinite(margins).all():
        raise ValueError("a calibration needs a finite margin for each outcome")
    free = _maximise(margins, passed, prior)
    if free[1] < 0:
        # The posterior has one peak, so the best with slope >= 0 lies at 0.
        free = np.array([_maximise(np.zeros_like(margins), passed, prior)[0], 0.0])
    return Calibration(float(free[0]), float(free[1]), len(margins))


def _maximise(margins: Floats, passed: Bools, prior: Prior) -> Floats:
    """Return intercept and slope [2] at the peak of the posterior, by Newton's method with halved steps."""
    design = np.stack([np.ones_like(margins), margins], axis=1)
    mean = np.array([prior.intercept.mean, prior.slope.mean])
    precision = np.array([prior.intercept.deviation, prior.slope.deviation]) ** -2.0
    signs = np.where(passed, 1.0, -1.0)

    def loss(at: Floats) -> float:
        return float(np.logaddexp(0.0, -signs * (design @ at)).sum() + 0.5 * (precision * (at - mean) ** 2).sum())

    at, best = mean, loss(mean)
    for _ in range(MAX_STEPS):
        chance = _sigmoid(design @ at)
        gradient = design.T @ (chance - passed) + precision * (at - mean)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        # Twice the improvement that is still to be had, were the loss a parabola.
        if float(gradient @ step) < TOLERANCE:
            break
        size = 1.0
        while (found := loss(at - size * step)) > best and size > TOLERANCE:
            size /= 2
        at, best = at - size * step, found
    return at


def _sigmoid(logits: Floats) -> Floats:
    # By tanh, which does not overflow.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float64)


def brier_score(chances: Floats, passed: Bools) -> float | None:
    """Return the mean squared difference of chances [n] and outcomes [n] (Brier, 1950), 0 at best; None without any."""
    return float(np.mean((chances - passed) ** 2)) if len(chances) else None


@dataclass(frozen=True)
class ReliabilityBin:
    """The results whose predicted chance is in [low, high): the mean of their chances, and how many passed."""

    low: float
    high: float
    predicted: float
    passed: int
    total: int

    @property
    def share(self) -> float:
        """The share that passed."""
        return self.passed / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share."""
        return wilson_interval(self.passed, self.total)


def reliability(chances: Floats, passed: Bools, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Sort chances [n] with outcomes [n] into bins of equal width; those without results are left out."""
    numbers = np.minimum((chances * bins).astype(np.int64), bins - 1)
    found = []
    for number in np.unique(numbers).tolist():
        members = numbers == number
        mean, count = float(chances[members].mean()), int(passed[members].sum())
        found.append(ReliabilityBin(number / bins, (number + 1) / bins, mean, count, int(members.sum())))
    return tuple(found)
