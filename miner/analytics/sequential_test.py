"""A sequential test of experiments, valid however often one looks.

The test bets. Within a block of tasks each arm occurs a known number of times, in random order. So if the arms are
alike, all ways in which the accepted results of a block can fall on its arms are equally likely, whatever the rates
are, between validators and from one hour to the next. A bet at those odds on "the odds of acceptance are e^delta times
higher in arm a" pays the ratio of two likelihoods, the noncentral hypergeometric distribution's over the central one's.
The product over blocks is an e-value: if the arms are alike, its mean stays 1, and by Ville's inequality the chance
that it ever exceeds 1/alpha is alpha at most, however often one looks and for whatever reason one stops.

Sources. E-variables for 2x2 tables: R. Turner, A. Ly, P. Grünwald (2024), J. Statistical Planning and Inference 230;
stratified: R. Turner, P. Grünwald (2023), AISTATS. Betting on assignments given outcomes: B. Duan, A. Ramdas,
L. Wasserman (2022), CLeaR. Mixtures over delta: H. Robbins (1970), Ann. Math. Statist. 41. The conditional distribution
of a table with its margins fixed is R. A. Fisher's.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from miner.analytics.assignment import Experiment
from miner.analytics.intervals import Floats
from miner.ledger import Stratum

ALPHA = 0.05
# The bets: log odds ratios up to 3, weighted by half a normal distribution. 38 % against 55 % is 0.69.
DELTAS: Floats = np.linspace(0.05, 3.0, 60)
LOG_PRIOR: Floats = -0.5 * (DELTAS / 0.5) ** 2
LOG_PRIOR = LOG_PRIOR - np.logaddexp.reduce(LOG_PRIOR)
# Odds ratios are looked for between e^-MAX_LOG_ODDS and e^MAX_LOG_ODDS.
MAX_LOG_ODDS = 6.0
# exp() of more overflows.
MAX_LOG_E_VALUE = 700.0
# Blocks, evenly spread, after which a comparison's e-value is kept.
PATH_POINTS = 160

# [blocks, 4]: accepted and judged of one arm, accepted and judged of another.
ContingencyTables = npt.NDArray[np.int64]


class Observation(NamedTuple):
    """The end of one task of an experiment.

    `accepted` is None if the task says nothing about its arm. `ended` is when that was known, in unix seconds; infinite
    for a task that may still be answered.
    """

    stratum: Stratum
    turn: int
    arm: str
    accepted: bool | None
    ended: float


@dataclass(frozen=True)
class ArmComparison:
    """The evidence that one arm is better than another.

    `e_value` is that after the last block, starting from 1, and `highest_e_value`, on which decisions rest, the most it
    ever was. `path` has the e-value after some of the blocks, the last one among them, as (unix seconds, e-value).
    `odds_ratio` is the interval of the odds of acceptance, better to worse, that holds at any time: 1 means equal, and
    its ends may be 0 and infinity.
    """

    better: str
    worse: str
    e_value: float
    highest_e_value: float
    odds_ratio: tuple[float, float]
    path: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment so far.

    `winner` has beaten every other arm; `losers` are clearly worse than some other. `threshold` is the e-value at which
    an arm beats another; `comparisons` has both directions of each pair; `counted` tasks in `blocks` complete blocks
    have been judged.
    """

    winner: str | None
    losers: tuple[str, ...]
    threshold: float
    comparisons: tuple[ArmComparison, ...]
    blocks: int
    counted: int

    @property
    def state(self) -> Literal["winner", "loser", "continue"]:
        """The possible step: promote the winner, drop the losers, or continue."""
        return "winner" if self.winner is not None else "loser" if self.losers else "continue"


def evaluate(experiment: Experiment, observations: Iterable[Observation], alpha: float = ALPHA) -> ExperimentResult:
    """Judge an experiment by its observations, in any order.

    The chance of a false alarm is at most `alpha`, over all pairs of arms and all times. Blocks count once all of their
    tasks have ended, in the order in which they did; the guarantee needs arms that affect neither which task gets no
    verdict nor, beyond chance, which block ends first.
    """
    blocks = _complete_blocks(experiment, observations)
    arms = tuple(experiment.weights)
    threshold = len(arms) * (len(arms) - 1) / alpha
    comparisons = tuple(_compare(blocks, better, worse, 2 / threshold) for better, worse in permutations(arms, 2))
    beaten = {(c.better, c.worse) for c in comparisons if c.highest_e_value >= threshold}
    winners = [arm for arm in arms if all((arm, other) in beaten for other in arms if other != arm)]
    return ExperimentResult(
        # Two arms can have beaten each other only if the tide has turned, and then neither has won.
        winner=winners[0] if len(winners) == 1 else None,
        losers=tuple(
            arm for arm in arms if any((other, arm) in beaten and (arm, other) not in beaten for other in arms)
        ),
        threshold=threshold,
        comparisons=comparisons,
        blocks=len(blocks),
        counted=sum(observation.accepted is not None for block in blocks for observation in block),
    )


def _compare(blocks: Sequence[Sequence[Observation]], better: str, worse: str, alpha: float) -> ArmComparison:
    tables = np.array([(*_count(block, better), *_count(block, worse)) for block in blocks], np.int64).reshape(-1, 4)
    values = np.exp(np.minimum(log_e_values(tables), MAX_LOG_E_VALUE)).tolist()
    shown = np.unique(np.linspace(0, len(blocks) - 1, min(PATH_POINTS, len(blocks))).round().astype(int)).tolist()
    return ArmComparison(
        better,
        worse,
        e_value=[1.0, *values][-1],
        highest_e_value=max([1.0, *values]),
        odds_ratio=odds_ratio_interval(tables, alpha),
        path=tuple((blocks[index][-1].ended, values[index]) for index in shown),
    )


def _count(block: Sequence[Observation], arm: str) -> tuple[int, int]:
    """Return how many tasks of an arm were accepted, and how many judged."""
    verdicts = [task.accepted for task in block if task.arm == arm and task.accepted is not None]
    return sum(verdicts), len(verdicts)


def _complete_blocks(experiment: Experiment, observations: Iterable[Observation]) -> list[list[Observation]]:
    """Return the blocks whose tasks have all ended, in the order in which they did."""
    size = len(experiment.block)
    by_block: dict[tuple[Stratum, int], dict[int, Observation]] = defaultdict(dict)
    for observation in sorted(observations, key=attrgetter("ended")):
        # A task that is recorded twice was assigned once.
        by_block[observation.stratum, observation.turn // size].setdefault(observation.turn, observation)
    complete = [list(block.values()) for block in by_block.values() if len(block) == size]
    ended = [block for block in complete if math.isfinite(block[-1].ended)]
    return sorted(ended, key=lambda block: block[-1].ended)


def log_e_values(tables: ContingencyTables) -> Floats:
    """Return [blocks]: the logarithm of the e-value after each block, from betting that the first arm is better."""
    if not len(tables):
        return np.zeros(0)
    distinct, indices = np.unique(tables, axis=0, return_inverse=True)
    gains = np.cumsum(log_ratios(distinct, DELTAS)[indices.reshape(-1)], axis=0)
    return np.asarray(np.logaddexp.reduce(gains + LOG_PRIOR, axis=1))


def odds_ratio_interval(tables: ContingencyTables, alpha: float) -> tuple[float, float]:
    """Return the range of odds ratios, first arm to second, that betting against each does not rule out at `alpha`.

    Bets on both directions, and takes the odds ratio to be the same in all blocks. (0, infinity) without data.
    """
    distinct, times = np.unique(tables, axis=0, return_counts=True)

    def log_likelihood(deltas: Floats) -> Floats:
        return np.asarray(times @ log_ratios(distinct, deltas)) if len(distinct) else np.zeros(len(deltas))

    bets = np.concatenate([-DELTAS[::-1], DELTAS])
    prior = np.concatenate([LOG_PRIOR[::-1], LOG_PRIOR]) - math.log(2)
    candidates = np.linspace(-MAX_LOG_ODDS, MAX_LOG_ODDS, 1201)
    log_e = np.logaddexp.reduce(log_likelihood(bets) + prior) - log_likelihood(candidates)
    kept = candidates[log_e < math.log(1 / alpha)]
    low, high = (float(kept[0]), float(kept[-1])) if len(kept) else (-MAX_LOG_ODDS, MAX_LOG_ODDS)
    return (0.0 if low == -MAX_LOG_ODDS else math.exp(low)), (math.inf if high == MAX_LOG_ODDS else math.exp(high))


def log_ratios(tables: ContingencyTables, deltas: Floats) -> Floats:
    """Return [tables, deltas]: the log likelihood of each table, given its margins, at each delta less that at 0."""
    return np.stack([_log_ratio(table, deltas) for table in tables.tolist()])


def _log_ratio(table: Sequence[int], deltas: Floats) -> Floats:
    first_accepted, first_judged, second_accepted, second_judged = table
    total = first_accepted + second_accepted
    accepted = np.arange(max(0, total - second_judged), min(first_judged, total) + 1)
    ways = [math.comb(first_judged, k) * math.comb(second_judged, total - k) for k in accepted.tolist()]
    chances = np.log(np.array(ways, np.float64) / sum(ways))
    return np.asarray(deltas * first_accepted - np.logaddexp.reduce(chances + np.outer(deltas, accepted), axis=1))
