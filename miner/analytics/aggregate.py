"""The ledger in numbers: by phase, validator, type or hour, accepted against rejected, and experiments. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Literal

import numpy as np
import numpy.typing as npt

from miner.analytics.assignment import Experiment
from miner.analytics.intervals import (
    Difference,
    EffectSize,
    Floats,
    cliffs_delta,
    compare_proportions,
    quantile,
    tasks_to_distinguish,
    wilson_interval,
)
from miner.analytics.rating import Rating, verdict
from miner.analytics.sequential_test import ExperimentResult, Trial, evaluate
from miner.ledger.events import Stratum
from miner.ledger.reader import ExperimentRow, PhaseRow, TaskRow
from miner.ledger.schema import CLOSED, FIGURES

Indices = npt.NDArray[np.int64]
By = Literal["phase", "validator", "type", "hour"]
GROUPINGS: tuple[By, ...] = ("phase", "validator", "type", "hour")

COMPARED = (*FIGURES, "local_score", "generation_seconds", "submission_bytes")
"""Columns of a task in which accepted and rejected results are compared."""

# A task of an experiment that has no verdict after this is held to get none; validators recycle theirs after as long.
VERDICT_LIMIT = 3600.0
# Widths of the bins that a time axis is cut into, in seconds, and how many it may have.
HOUR = 3600
BIN_SECONDS = (HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 7 * 24 * HOUR)
MOST_BINS = 56


@dataclass(frozen=True)
class Contrast:
    """One column among accepted and rejected results: how many have it, medians, and whether either has more of it."""

    column: str
    accepted: int
    rejected: int
    accepted_median: float | None
    rejected_median: float | None
    effect: EffectSize | None


@dataclass(frozen=True)
class Summary:
    """A group of tasks; `key` is a validator's whole hotkey, else the label.

    `rate` is of accepted in judged tasks, with its 95 % Wilson interval; None is "no data". `other` tasks were not
    judged: their validator failed, they are open yet, or nobody knows. `score` is the mean of the accepted ones' and
    says nothing of the rejected, whose score is not told. `quality` is the median of what was scored here, sent or
    not. `contrasts` are empty for hours.
    """

    key: str
    label: str
    tasks: int
    accepted: int
    rejected: int
    skipped: int
    other: int
    rate: float | None
    interval: tuple[float, float]
    verdict: Rating
    score: float | None
    quality: float | None
    seconds_p50: float | None
    seconds_p95: float | None
    gaussians_p50: float | None
    contrasts: tuple[Contrast, ...]

    @property
    def judged(self) -> int:
        """Accepted and rejected."""
        return self.accepted + self.rejected


@dataclass(frozen=True)
class GroupDifference:
    """The rate of one group less that of another; `tasks_each` would tell such rates apart, None if these are."""

    label: str
    reference: str
    difference: Difference
    tasks_each: int | None


@dataclass(frozen=True)
class Bin:
    """What was judged of the tasks assigned from `start`, unix seconds, until the next bin."""

    start: float
    accepted: int
    judged: int


@dataclass(frozen=True)
class ExperimentSummary:
    """An experiment as far as it got; `arms` are (arm, accepted, counted), a skipped task counting as not accepted."""

    row: ExperimentRow
    arms: tuple[tuple[str, int, int], ...]
    decision: ExperimentResult


@dataclass(frozen=True)
class Report:
    """All that is told of a ledger's tasks from `since` to `until`, unix seconds."""

    by: By
    since: float
    until: float
    total: Summary
    groups: tuple[Summary, ...]
    differences: tuple[GroupDifference, ...]
    bin_seconds: int
    bins: tuple[Bin, ...]
    phases: tuple[PhaseRow, ...]
    experiments: tuple[ExperimentSummary, ...]


def _label(by: By, task: TaskRow) -> str:
    match by:
        case "phase":
            return f"{task.phase} {task.config_hash[:8]}"
        case "validator":
            return task.validator[:8] + ("" if task.uid is None else f" (uid {task.uid})")
        case "type":
            return task.task_type
        case "hour":
            return f"{datetime.fromtimestamp(task.assigned_at // HOUR * HOUR, UTC):%Y-%m-%d %H:%M}"


# What tells the groups apart; a phase of the same name with other settings is another one.
_KEYS: dict[By, Callable[[TaskRow], object]] = {
    "phase": attrgetter("phase", "config_hash"),
    "validator": attrgetter("validator"),
    "type": attrgetter("task_type"),
    "hour": lambda task: task.assigned_at // HOUR,
}


def report(
    tasks: Sequence[TaskRow],
    by: By,
    since: float,
    until: float,
    phases: Sequence[PhaseRow] = (),
    experiments: Iterable[tuple[ExperimentRow, Sequence[TaskRow]]] = (),
) -> Report:
    """Sum up tasks in the order of their assignment; `experiments` come with all of their tasks."""
    columns = _Columns(tasks)
    members = dict[object, list[int]]()
    for index, key in enumerate(map(_KEYS[by], tasks)):
        members.setdefault(key, []).append(index)
    groups = []
    for indices in members.values():
        # By its latest task, since a validator's uid may change.
        latest = tasks[indices[-1]]
        key = latest.validator if by == "validator" else _label(by, latest)
        groups.append(columns.summary(key, _label(by, latest), np.array(indices), contrasts=by != "hour"))
    if by == "validator":
        groups.sort(key=lambda group: -group.tasks)
    width = _bin_seconds(tasks)
    return Report(
        by=by,
        since=since,
        until=until,
        total=columns.summary("", "all", np.arange(len(tasks)), contrasts=True),
        groups=tuple(groups),
        differences=() if by == "hour" else tuple(_differences(groups)),
        bin_seconds=width,
        bins=tuple(columns.bins(width)),
        phases=tuple(phase for phase in phases if since <= phase.at <= until),
        experiments=tuple(summarise_experiment(row, trials, until) for row, trials in experiments),
    )


class _Columns:
    """The numeric columns of tasks as arrays, NaN where a task has none."""

    def __init__(self, tasks: Sequence[TaskRow]) -> None:
        names = (*COMPARED, "score", "assigned_at")
        # Row by row, as they lie in memory: column by column takes four times as long.
        rows = np.array(list(map(attrgetter(*names), tasks)), np.float64).reshape(-1, len(names))
        self._numbers: dict[str, Floats] = dict(zip(names, np.ascontiguousarray(rows.T), strict=True))
        codes = {outcome: code for code, outcome in enumerate(CLOSED)}
        self._outcome = np.array([codes.get(task.outcome or "", len(CLOSED)) for task in tasks], np.int64)

    def summary(self, key: str, label: str, members: Indices, contrasts: bool) -> Summary:
        outcome = self._outcome[members]
        is_accepted, is_rejected = (outcome == CLOSED.index(name) for name in ("accepted", "rejected"))
        accepted, rejected = int(is_accepted.sum()), int(is_rejected.sum())
        skipped = int((outcome == CLOSED.index("skipped")).sum())
        judged = accepted + rejected
        score = _finite(self._numbers["score"][members[is_accepted]])
        seconds = _finite(self._numbers["generation_seconds"][members])
        return Summary(
            key=key,
            label=label,
            tasks=len(members),
            accepted=accepted,
            rejected=rejected,
            skipped=skipped,
            other=len(members) - judged - skipped,
            rate=accepted / judged if judged else None,
            interval=wilson_interval(accepted, judged),
            verdict=verdict(accepted, judged),
            score=float(score.mean()) if len(score) else None,
            quality=quantile(_finite(self._numbers["local_score"][members]), 0.5),
            seconds_p50=quantile(seconds, 0.5),
            seconds_p95=quantile(seconds, 0.95),
            gaussians_p50=quantile(_finite(self._numbers["gaussians"][members]), 0.5),
            contrasts=tuple(self._contrasts(members[is_accepted], members[is_rejected])) if contrasts else (),
        )

    def bins(self, width: int) -> Iterable[Bin]:
        judged = np.isin(self._outcome, [CLOSED.index("accepted"), CLOSED.index("rejected")])
        numbers = self._numbers["assigned_at"][judged] // width
        accepted = self._outcome[judged] == CLOSED.index("accepted")
        distinct, which = np.unique(numbers, return_inverse=True)
        counts = zip(distinct.tolist(), np.bincount(which, accepted).tolist(), np.bincount(which).tolist(), strict=True)
        return [Bin(number * width, int(accepted), judged) for number, accepted, judged in counts]

    def _contrasts(self, accepted: Indices, rejected: Indices) -> Iterable[Contrast]:
        for name in COMPARED:
            first, second = (_finite(self._numbers[name][members]) for members in (accepted, rejected))
            effect = cliffs_delta(first, second)
            yield Contrast(name, len(first), len(second), quantile(first, 0.5), quantile(second, 0.5), effect)


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _differences(groups: Sequence[Summary]) -> Iterable[GroupDifference]:
    """Each group against the one with the most judged tasks."""
    judged = [group for group in groups if group.rate is not None]
    if not judged:
        return
    reference = max(judged, key=lambda group: group.judged)
    for group in judged:
        if group is not reference and group.rate is not None and reference.rate is not None:
            found = compare_proportions((group.accepted, group.judged), (reference.accepted, reference.judged))
            tasks_each = None if found.is_clear else tasks_to_distinguish(group.rate, reference.rate)
            yield GroupDifference(group.label, reference.label, found, tasks_each)


def _bin_seconds(tasks: Sequence[TaskRow]) -> int:
    """The narrowest width with which the tasks fit into the bins; the widest if none does."""
    span = tasks[-1].assigned_at - tasks[0].assigned_at if tasks else 0.0
    return next((width for width in BIN_SECONDS if span / width < MOST_BINS - 1), BIN_SECONDS[-1])


def trial(task: TaskRow, now: float) -> Trial:
    """A task of an experiment as its test takes it. Raises ValueError if it belongs to none.

    A skipped task counts as not accepted: whatever kept the arm from a result, it is the arm's to answer for. One that
    the validator did not validate or lost, and one without a verdict after an hour, says nothing.
    """
    if task.arm is None or task.turn is None:
        raise ValueError(f"task {task.task_id} belongs to no experiment")
    stratum, limit = Stratum(task.validator, task.task_type), task.assigned_at + VERDICT_LIMIT
    # Whether a verdict counts must not depend on when one looks.
    if task.outcome in CLOSED and task.answered_at is not None and task.answered_at <= limit:
        verdicts = {"accepted": True, "rejected": False, "skipped": False}
        return Trial(stratum, task.turn, task.arm, verdicts.get(task.outcome), task.answered_at)
    return Trial(stratum, task.turn, task.arm, None, limit if limit <= now else math.inf)


def summarise_experiment(row: ExperimentRow, tasks: Iterable[TaskRow], now: float) -> ExperimentSummary:
    """Judge an experiment by all of its tasks. Raises ValueError if the row is no valid experiment."""
    weights = row.weights
    trials = [trial(task, now) for task in tasks if task.arm in weights and task.turn is not None]
    counted, accepted = Counter[str](), Counter[str]()
    for one in trials:
        if one.accepted is not None:
            counted[one.arm] += 1
            accepted[one.arm] += one.accepted
    arms = tuple((arm, accepted[arm], counted[arm]) for arm in weights)
    return ExperimentSummary(row, arms, evaluate(Experiment(row.seed, weights), trials))
