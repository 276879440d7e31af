"""The experiments of the ledger, judged by their tasks."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from miner.analytics.assignment import Experiment
from miner.analytics.sequential_test import ExperimentResult, Observation, evaluate
from miner.ledger import CLOSING, ExperimentRow, Outcome, Stratum, TaskRow

# Seconds after which a task without a verdict is taken to get none; validators recycle their tasks after as long.
VERDICT_LIMIT = 3600.0


class ArmCounts(NamedTuple):
    """The tasks of one arm that count; a skipped one counts as not accepted."""

    phase: str
    accepted: int
    counted: int


@dataclass(frozen=True)
class ExperimentSummary:
    """An experiment as the ledger has it, the counts of its arms and its result so far."""

    row: ExperimentRow
    arms: tuple[ArmCounts, ...]
    result: ExperimentResult

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
    return ExperimentSummary(row, arms, evaluate(Experiment(row.seed, weights), observations))
