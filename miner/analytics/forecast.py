"""How many tasks an experiment needs until its test decides, if the rates stay as they are."""

import itertools
import math

import numpy as np

from miner.analytics.sequential_test import DELTAS, LOG_PRIOR, log_ratios

# Blocks beyond which no forecast is made.
MAX_BLOCKS = 2**17


def tasks_to_decide(better: float, worse: float, sizes: tuple[int, int], threshold: float) -> int | None:
    """Return after how many judged tasks of two arms the e-value, growing as expected, exceeds a threshold.

    `better` and `worse` are the arms' acceptance rates, `sizes` their tasks in a block. Each block multiplies each bet
    of the test by the exponential of its expected gain; what the test takes in practice scatters around that. None if
    the rates are not in this order, or would take more than MAX_BLOCKS blocks.
    """
    if better <= worse:
        return None
    first, second = sizes
    outcomes = list(itertools.product(range(first + 1), range(second + 1)))
    chances = np.array([_binomial(k, first, better) * _binomial(n, second, worse) for k, n in outcomes])
    gains = chances @ log_ratios(np.array([(k, first, n, second) for k, n in outcomes]), DELTAS)

    def decides(blocks: int) -> bool:
        return bool(np.logaddexp.reduce(blocks * gains + LOG_PRIOR) >= math.log(threshold))

    if not decides(MAX_BLOCKS):
        return None
    low, high = 0, MAX_BLOCKS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high * (first + second)


def _binomial(successes: int, trials: int, rate: float) -> float:
    return math.comb(trials, successes) * rate**successes * (1 - rate) ** (trials - successes)
