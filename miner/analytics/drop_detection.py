"""Whether the acceptance of a phase has fallen, by a sequential test that may look after each result.

An e-detector (J. Shin, A. Ramdas, A. Rinaldo, 2022, "E-detectors"), the statistic of Shiryaev and Roberts of bets. The
rate before is bounded from below by its Wilson interval. Each later result is bet on at the odds of that bound: a bet
on the lower rate q pays q/p for an accepted result and (1-q)/(1-p) for a rejected one, whose mean is 1 at most for any
rate of p or more. The statistic M, (M + 1) times what a result pays, sums up the bets begun at every moment; so as long
as the rate is p or more, M exceeds RUN_LENGTH once in that many results at most, on average.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from miner.analytics.aggregate import HOUR
from miner.analytics.intervals import Floats, wilson_interval
from miner.analytics.rating import AcceptanceRate
from miner.ledger import Outcome, TaskRow

# Judged results between false alarms, at least: with 80 an hour, ten days.
RUN_LENGTH = 20_000
# Results are bet on for so long, and compared with those before.
RECENT_SECONDS = 12 * HOUR
# Judged results from which a rate before is known well enough.
MIN_BEFORE = 100
# Standard deviations of the bound of the rate before: 99.9 % on its one side.
Z_BOUND = 3.09
# The bets, as parts of the bound.
SHARES: Floats = np.array([0.9, 0.75, 0.6, 0.4, 0.2])
DROP_COLUMNS = ("assigned_at", "answered_at", "phase", "config_hash", "outcome")
"""The columns of a task that the test needs."""


@dataclass(frozen=True)
class Drop:
    """The acceptance of a phase, before and since the moment, unix seconds, at which it most likely fell."""

    phase: str
    config_hash: str
    since: float
    before: AcceptanceRate
    after: AcceptanceRate


def find_drops(tasks: Iterable[TaskRow], now: float) -> list[Drop]:
    """Return the phases, told apart by their settings, whose acceptance has fallen; `now` is unix time."""
    judged: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for task in tasks:
        if task.outcome in (Outcome.ACCEPTED, Outcome.REJECTED):
            at = task.assigned_at if task.answered_at is None else task.answered_at
            judged[task.phase, task.config_hash].append((at, task.outcome == Outcome.ACCEPTED))
    drops = []
    for (phase, config_hash), results in judged.items():
        results.sort()
        first = next((n for n, (at, _) in enumerate(results) if at >= now - RECENT_SECONDS), len(results))
        before = AcceptanceRate(sum(accepted for _, accepted in results[:first]), first)
        recent = results[first:]
        start = find_fall(before, [accepted for _, accepted in recent])
        if start is not None:
            after = [accepted for _, accepted in recent[start:]]
            drops.append(Drop(phase, config_hash, recent[start][0], before, AcceptanceRate(sum(after), len(after))))
    return drops


def find_fall(before: AcceptanceRate, recent: Sequence[bool]) -> int | None:
    """Return at which of the recent results the rate most likely fell; None if that is not shown."""
    bound = wilson_interval(before.accepted, before.judged, Z_BOUND)[0]
    if before.judged < MIN_BEFORE or bound <= 0:
        return None
    bets = bound * SHARES
    gains = {True: bets / bound, False: (1 - bets) / (1 - bound)}
    statistics, highest = np.zeros(len(bets)), 0.0
    for accepted in recent:
        statistics = (statistics + 1) * gains[accepted]
        highest = max(highest, float(statistics.mean()))
    return _most_likely_start(bound, recent) if highest >= RUN_LENGTH else None


def _most_likely_start(bound: float, recent: Sequence[bool]) -> int:
    """Return the start of the end of `recent` that is most likely of a lower rate than `bound`."""
    best, best_start, accepted = -math.inf, 0, 0
    for start in range(len(recent) - 1, -1, -1):
        accepted += recent[start]
        total = len(recent) - start
        rate = min(accepted / total, bound)
        likelihood = _log_likelihood(rate, accepted, total) - _log_likelihood(bound, accepted, total)
        if likelihood > best:
            best, best_start = likelihood, start
    return best_start


def _log_likelihood(rate: float, accepted: int, total: int) -> float:
    successes = accepted * math.log(rate) if accepted else 0.0
    return successes + ((total - accepted) * math.log(1 - rate) if total > accepted else 0.0)
