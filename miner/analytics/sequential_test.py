"""Experiments: which arm a task is given to, and when the results say that one arm is better. Pure.

The test bets. Within a block of tasks each arm stands a known number of times, in random order. So if the arms are
alike, all ways in which the accepted results of a block can fall on its arms are equally likely, whatever the rates
are, between validators and from one hour to the next. A bet at those odds on "the odds of acceptance are e^delta times
higher in arm a" pays the ratio of two likelihoods, the noncentral hypergeometric distribution's over the central one's.
The product over blocks is a wealth that on average a fair game does not raise; by Ville's inequality the chance that it
ever exceeds 1/alpha is alpha at most, however often one looks and whatever makes one stop.

Sources. E-variables for 2x2 tables: R. Turner, A. Ly, P. Grünwald (2024), J. Statistical Planning and Inference 230;
stratified: R. Turner, P. Grünwald (2023), AISTATS. Betting on assignments given outcomes: B. Duan, A. Ramdas,
L. Wasserman (2022), CLeaR. Mixtures over delta: H. Robbins (1970), Ann. Math. Statist. 41. The conditional distribution
of a table with its margins fixed is R. A. Fisher's.
"""

from __future__ import annotations

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
from miner.ledger.events import Stratum

ALPHA = 0.05
# What is bet on: log odds ratios up to 3, weighted by half a normal distribution. 38 % against 55 % is 0.69.
DELTAS: Floats = np.linspace(0.05, 3.0, 60)
LOG_PRIOR: Floats = -0.5 * (DELTAS / 0.5) ** 2
LOG_PRIOR = LOG_PRIOR - np.logaddexp.reduce(LOG_PRIOR)


class Trial(NamedTuple):
    """How one task of an experiment ended: accepted or not, None if nothing can be said that its arm is to answer for.

    `ended` is when that was known, in unix seconds; infinite for a task that may still be answered.
    """

    stratum: Stratum
    turn: int
    arm: str
    accepted: bool | None
    ended: float


@dataclass(frozen=True)
class Comparison:
    """What one pair of arms shows. `wealth` has started at 1; the most it ever was decides.

    `odds_ratio`: interval of the ratio of the odds of acceptance, better to worse, that holds at any time; 1 means
    equal. Its ends may be 0 and infinity.
    """

    better: str
    worse: str
    wealth: float
    highest_e_value: float
    odds_ratio: tuple[float, float]


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment shows so far.

    `winner` has beaten every other arm; `losers` are clearly worse than some other. `threshold` is the wealth at which
    an arm beats another; `comparisons` has both directions of each pair; `counted` tasks in `blocks` whole blocks have
    been judged.
    """

    winner: str | None
    losers: tuple[str, ...]
    threshold: float
    comparisons: tuple[Comparison, ...]
    blocks: int
    counted: int

    @property
    def state(self) -> Literal["winner", "loser", "continue"]:
        """What can be done: promote the winner, drop the losers, or go on."""
        return "winner" if self.winner is not None else "loser" if self.losers else "continue"


# (accepted, judged) by arm.
Counts = dict[str, tuple[int, int]]
# Of each block, [blocks, 4]: accepted and judged of one arm, accepted and judged of another.
Tables = npt.NDArray[np.int64]


def evaluate(experiment: Experiment, trials: Iterable[Trial], alpha: float = ALPHA) -> ExperimentResult:
    """Judge an experiment by its trials, in any order; false alarms have a chance of `alpha`, over all pairs and times.

    Blocks count once all of their tasks have ended, in the order in which they did. That guarantee needs arms that do
    not affect which task gets no verdict, nor, beyond chance, which block ends first.
    """
    blocks = _whole_blocks(experiment, trials)
    arms = tuple(experiment.weights)
    threshold = len(arms) * (len(arms) - 1) / alpha
    comparisons = []
    for better, worse in permutations(arms, 2):
        absent = (0, 0)
        tables = np.array([(*b.get(better, absent), *b.get(worse, absent)) for b in blocks], np.int64).reshape(-1, 4)
        path = log_e_values(tables)
        comparisons.append(
            Comparison(
                better,
                worse,
                wealth=math.exp(min(path[-1], 700.0)) if len(path) else 1.0,
                highest_e_value=math.exp(min(max(path.max(), 0.0), 700.0)) if len(path) else 1.0,
                odds_ratio=odds_ratio_interval(tables, 2 / threshold),
            )
        )
    beaten = {(c.better, c.worse) for c in comparisons if c.highest_e_value >= threshold}
    winners = [arm for arm in arms if all((arm, other) in beaten for other in arms if other != arm)]
    return ExperimentResult(
        # Two arms can only have beaten each other if the tide has turned, and then neither has won.
        winner=winners[0] if len(winners) == 1 else None,
        losers=tuple(
            arm for arm in arms if any((other, arm) in beaten and (arm, other) not in beaten for other in arms)
        ),
        threshold=threshold,
        comparisons=tuple(comparisons),
        blocks=len(blocks),
        counted=sum(total for block in blocks for _, total in block.values()),
    )


def _whole_blocks(experiment: Experiment, trials: Iterable[Trial]) -> list[Counts]:
    """(accepted, judged) by arm of each block whose tasks have all ended, in the order in which they did."""
    size = len(experiment.block)
    members: dict[tuple[Stratum, int], dict[int, Trial]] = defaultdict(dict)
    for trial in sorted(trials, key=attrgetter("ended")):
        # A task that is there twice was drawn once.
        members[trial.stratum, trial.turn // size].setdefault(trial.turn, trial)
    whole = [list(block.values()) for block in members.values() if len(block) == size]
    ended = [block for block in whole if math.isfinite(block[-1].ended)]
    ended.sort(key=lambda block: block[-1].ended)
    found = []
    for block in ended:
        counts: Counts = {}
        for trial in block:
            if trial.accepted is not None:
                accepted, judged = counts.get(trial.arm, (0, 0))
                counts[trial.arm] = accepted + trial.accepted, judged + 1
        found.append(counts)
    return found


def log_e_values(tables: Tables) -> Floats:
    """[blocks]: the logarithm of the wealth after each block, from betting that the tables' first arm is better."""
    if not len(tables):
        return np.zeros(0)
    distinct, which = np.unique(tables, axis=0, return_inverse=True)
    gains = np.cumsum(_log_ratios(distinct, DELTAS)[which.reshape(-1)], axis=0)
    return np.asarray(np.logaddexp.reduce(gains + LOG_PRIOR, axis=1))


def odds_ratio_interval(tables: Tables, alpha: float) -> tuple[float, float]:
    """The odds ratios, first arm to second, that the same betting against each of them does not rule out at `alpha`.

    Bets on both directions, and takes the odds ratio to be the same in all blocks. (0, infinity) without data.
    """
    distinct, times = np.unique(tables, axis=0, return_counts=True)

    def log_likelihood(deltas: Floats) -> Floats:
        return np.asarray(times @ _log_ratios(distinct, deltas)) if len(distinct) else np.zeros(len(deltas))

    bets = np.concatenate([-DELTAS[::-1], DELTAS])
    prior = np.concatenate([LOG_PRIOR[::-1], LOG_PRIOR]) - math.log(2)
    candidates = np.linspace(-6.0, 6.0, 1201)
    wealth = np.logaddexp.reduce(log_likelihood(bets) + prior) - log_likelihood(candidates)
    kept = candidates[wealth < math.log(1 / alpha)]
    low, high = (float(kept[0]), float(kept[-1])) if len(kept) else (-6.0, 6.0)
    return (0.0 if low == -6.0 else math.exp(low)), (math.inf if high == 6.0 else math.exp(high))


def _log_ratios(tables: Tables, deltas: Floats) -> Floats:
    """[tables, deltas]: the likelihood of each table, its margins given, at each log odds ratio over that at 0."""
    return np.stack([_log_ratio(table, deltas) for table in tables.tolist()])


def _log_ratio(table: Sequence[int], deltas: Floats) -> Floats:
    a, n, b, m = table
    total = a + b
    accepted = np.arange(max(0, total - m), min(n, total) + 1)
    ways = np.array([math.comb(n, k) * math.comb(m, total - k) for k in accepted.tolist()], np.float64)
    chances = np.log(ways / ways.sum())
    return np.asarray(deltas * a - np.logaddexp.reduce(chances + np.outer(deltas, accepted), axis=1))
