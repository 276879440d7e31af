"""Confidence intervals, comparisons, effect sizes and sample sizes of counts and samples."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# 95 % of a normal distribution lie within this many standard deviations of its mean.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval for a proportion after E. B. Wilson (1927), (0, 1) without data.

    It holds the shares that `successes` of `total` do not rule out. Raises ValueError unless 0 <= successes <= total.
    """
    # scipy.stats has the same formula, but importing it takes longer than a report on 100,000 tasks may.
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no proportion")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    scale = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # The ends are exact at the edges, where rounding would leave a tiny remainder.
    return (0.0 if successes == 0 else centre - reach), (1.0 if successes == total else centre + reach)


@dataclass(frozen=True)
class Difference:
    """The first share minus the second, and the 95 % interval of that."""

    estimate: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Return whether the interval rules out that the shares are equal."""
        return self.low > 0 or self.high < 0


def compare_proportions(first: tuple[int, int], second: tuple[int, int], z: float = Z_95) -> Difference:
    """Compare two independent proportions, each (successes, total).

    The hybrid score interval, method 10 of R. G. Newcombe (1998), Statistics in Medicine 17, 873-890. It holds for one
    look at a number of tasks that was chosen beforehand; `miner.analytics.sequential_test` has a test that stays valid
    however often one looks. Raises ValueError if either is no proportion or has no data.
    """
    (low1, high1), (low2, high2) = wilson_interval(*first, z), wilson_interval(*second, z)
    if not (first[1] and second[1]):
        raise ValueError("there is nothing to compare without data")
    share1, share2 = first[0] / first[1], second[0] / second[1]
    difference = share1 - share2
    return Difference(
        estimate=difference,
        low=difference - math.hypot(share1 - low1, high2 - share2),
        high=difference + math.hypot(high1 - share1, share2 - low2),
    )


def tasks_to_distinguish(first: float, second: float, power: float = 0.8, z: float = Z_95) -> int | None:
    """Return how many tasks each of two arms needs for a two-sided test at 5 % to tell these shares apart.

    None if the shares are equal. The normal approximation without continuity correction; Fleiss, Levin and Paik (2003),
    equation 4.14.
    """
    if first == second:
        return None
    mean = (first + second) / 2
    spread = z * math.sqrt(2 * mean * (1 - mean))
    spread += NormalDist().inv_cdf(power) * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil((spread / (first - second)) ** 2)


def tasks_to_exclude(share: float, bound: float, z: float = Z_95) -> int | None:
    """Return after how many tasks the Wilson interval around a constant share excludes `bound`; None if they are equal.

    The interval holds the bounds that the score test does not reject, (share - bound)^2 <= z^2 bound (1 - bound) / n,
    which is solved for n.
    """
    if share == bound:
        return None
    # Rounded first, so that a floating-point error does not turn a whole number into the next one.
    return max(1, math.ceil(round(z**2 * bound * (1 - bound) / (share - bound) ** 2, 9)))


@final
@dataclass(frozen=True)
class EffectSize:
    """Cliff's delta of one sample against another, and its 95 % interval.

    The chance that a value of the first is larger than one of the second, less the chance that it is smaller: 1 if all
    are larger, 0 if neither tends to be, -1 if all are smaller.
    """

    delta: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Return whether the interval rules out that neither sample tends to be larger."""
        return self.low > 0 or self.high < 0

    @property
    def magnitude(self) -> str:
        """The size in words, by the customary limits .147, .33 and .474 of Romano et al. (2006)."""
        size = abs(self.delta)
        return "negligible" if size < 0.147 else "small" if size < 0.33 else "medium" if size < 0.474 else "large"


def cliffs_delta(first: Floats, second: Floats, z: float = Z_95) -> EffectSize | None:
    """Return the effect size between two samples [m] and [n] of finite numbers; None if either is empty.

    Not Cohen's d: numbers of gaussians, densities and volumes are skewed, have long tails and many ties, and a mean in
    standard deviations of such says little, while a rank statistic does not move when one value is absurd. Cliff
    (1993), Psychological Bulletin 114, 494-509. The interval is method 5 of Newcombe (2006), Statistics in Medicine 25,
    559-573: those effects that lie within z of the Hanley-McNeil deviation that they themselves imply.
    """
    m, n = len(first), len(second)
    if m == 0 or n == 0:
        return None
    # Both are sorted, since looking up neighbours one after the other is several times faster.
    first, second = np.sort(first), np.sort(second)
    below = np.searchsorted(second, first, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(second, first, side="right").sum(dtype=np.int64)
    superiority = float(below + not_above) / (2 * m * n)
    low, high = _superiority_interval(superiority, m, n, z)
    return EffectSize(2 * superiority - 1, 2 * low - 1, 2 * high - 1)


def _superiority_interval(estimate: float, m: int, n: int, z: float) -> tuple[float, float]:
    others = (m + n) / 2 - 1

    def is_plausible(chance: float) -> bool:
        spread = 1 + others * ((1 - chance) / (2 - chance) + chance / (1 + chance))
        return (chance - estimate) ** 2 <= z**2 * chance * (1 - chance) * spread / (m * n)

    def bisect(outside: float) -> float:
        inside = estimate
        # Each step halves the gap: 60 exhaust a float's digits.
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_plausible(middle) else (inside, middle)
        return inside

    return bisect(0.0), bisect(1.0)


@final
@dataclass(frozen=True)
class Quantiles:
    """The median and the 95th percentile of a sample."""

    p50: float
    p95: float


def quantiles(values: Floats) -> Quantiles | None:
    """Return the quantiles of a sample [n], linear between neighbours; None if it is empty."""
    if not len(values):
        return None
    p50, p95 = np.quantile(values, (0.5, 0.95)).tolist()
    return Quantiles(p50, p95)
