"""The experiments of the ledger, judged by their tasks."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

from miner.analytics.assignment import Experiment
from miner.analytics.forecast import tasks_to_decide
from miner.analytics.sequential_test import ExperimentResult, Observation, evaluate
from miner.ledger import CLOSING, ExperimentRow, Outcome, Stratum, TaskRow

# Seconds after which a task without a verdict is taken to get none; validators recycle their tasks after as long.
VERDICT_LIMIT = 3600.0
# Counted tasks of an arm below which its rate says nothing of what it would take.
MIN_COUNTED = 20


class ArmCounts(NamedTuple):
    """The tasks of one arm that count; a skipped one counts as not accepted."""

    phase: str
    accepted: int
    counted: int


class Forecast(NamedTuple):
    """After how many judged tasks of two arms together one would be called better, if their rates stay as they are."""

    better: str
    worse: str
    tasks: int


@dataclass(frozen=True)
class ExperimentSummary:
    """An experiment as the ledger has it, the counts of its arms, its result so far, and what it would take.

    `forecasts` are of the pairs of arms that are not told apart yet and have enough tasks to guess from.
    """

    row: ExperimentRow
    arms: tuple[ArmCounts, ...]
    result: ExperimentResult
    forecasts: tuple[Forecast, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the experiment's name, its arms, its winner and its losers in JSON's types."""
        arms = tuple(arm._asdict() for arm in self.arms)
        winner, losers = self.result.winner, self.result.losers
        return {"experiment": self.row.name, "arms": arms, "winner": winner, "losers": losers}

    def __str__(self) -> str:
        """Describe the result so far in one line."""
        arms = ", ".join(f"{arm.phase} {arm.accepted} of {arm.counted}" for arm in self.arms)
        verdict = "no arm is better yet"
        if self.result.winner is not None:
            verdict = f"{self.result.winner} has won"
        elif self.result.losers:
            verdict = f"{' and '.join(self.result.losers)} clearly worse than another arm"
        return f"{verdict}; accepted: {arms}"


def observe(task: TaskRow, now: float) -> Observation:
    """Return the observation that a task of an experiment is at `now`, unix seconds.

    A skipped task counts as not accepted: whatever kept the arm from a result, the arm is to blame. A task that the
    validator did not validate or lost, and one without a verdict after an hour, says nothing. Raises ValueError if the
    task belongs to no experiment.
    """
    if task.arm is None or task.turn is None:
        raise ValueError(f"task {task.task_id} belongs to no experiment")
    stratum, limit = Stratum(task.validator, task.task_type), task.assigned_at + VERDICT_LIMIT
    # Whether a verdict counts must not depend on when one looks.
    if task.outcome in CLOSING and task.answered_at is not None and task.answered_at <= limit:
        verdicts = {Outcome.ACCEPTED: True, Outcome.REJECTED: False, Outcome.SKIPPED: False}
        return Observation(stratum, task.turn, task.arm, verdicts.get(Outcome(task.outcome)), task.answered_at)
    return Observation(stratum, task.turn, task.arm, None, limit if limit <= now else math.inf)


def summarise_experiment(row: ExperimentRow, tasks: Iterable[TaskRow], now: float) -> ExperimentSummary:
    """Judge an experiment by all of its tasks. Raises ValueError if the row is no valid experiment."""
    weights = row.weights
    observations = [observe(task, now) for task in tasks if task.arm in weights and task.turn is not None]
    counted = Counter(observation.arm for observation in observations if observation.accepted is not None)
    accepted = Counter(observation.arm for observation in observations if observation.accepted)
    arms = tuple(ArmCounts(arm, accepted[arm], counted[arm]) for arm in weights)
    experiment = Experiment(row.seed, weights)
    result = evaluate(experiment, observations)
    return ExperimentSummary(row, arms, result, tuple(_forecast(experiment, arms, result)))


def _forecast(experiment: Experiment, arms: Sequence[ArmCounts], result: ExperimentResult) -> Iterable[Forecast]:
    told_apart = {frozenset((c.better, c.worse)) for c in result.comparisons if c.highest_e_value >= result.threshold}
    sizes = Counter(experiment.block)
    for first, second in permutations((arm for arm in arms if arm.counted >= MIN_COUNTED), 2):
        if frozenset((first.phase, second.phase)) in told_apart:
            continue
        rates = first.accepted / first.counted, second.accepted / second.counted
        tasks = tasks_to_decide(*rates, (sizes[first.phase], sizes[second.phase]), result.threshold)
        if tasks is not None:
            yield Forecast(first.phase, second.phase, tasks)
