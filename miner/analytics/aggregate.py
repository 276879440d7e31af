"""Sums of the ledger's tasks by phase, validator, type or hour, for the report and the dashboard."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Literal

import numpy as np
import numpy.typing as npt

from miner.analytics import intervals
from miner.analytics.intervals import EffectSize, Floats, Quantiles, quantiles
from miner.analytics.rating import DEFAULT_SCALE, AcceptanceRate, Scale
from miner.ledger import SPLAT_COLUMNS, Outcome, TaskRow

Indices = npt.NDArray[np.int64]
By = Literal["phase", "validator", "type", "hour"]
GROUPINGS: tuple[By, ...] = ("phase", "validator", "type", "hour")

SCORE_COLUMNS = ("quality", "alignment", "ssim", "lpips", "estimated_score")
"""Columns of a task with the parts of its score that were computed here, and the whole."""

_ALIGNMENTS = {"text": "text_alignment", "image": "image_alignment"}
"""The columns that the alignment is split into, by type of task: validators measure the two on different scales."""

COMPARED = (
    *SPLAT_COLUMNS,
    *(name for column in SCORE_COLUMNS for name in (_ALIGNMENTS.values() if column == "alignment" else (column,))),
    *("generation_seconds", "submission_bytes"),
)
"""Columns in which accepted and rejected results are compared: those of a task, its alignment split by type."""

HOUR = 3600


@dataclass(frozen=True)
class Contrast:
    """One column among accepted and rejected results that have a value; `effect` is None without any of either."""

    column: str
    accepted: int
    rejected: int
    accepted_median: float | None
    rejected_median: float | None
    effect: EffectSize | None


@dataclass(frozen=True)
class Summary:
    """The sum of a group of tasks.

    `unanswered` are tasks whose phase had no checkpoint for their type. `rate` counts judged tasks. `score` is the mean
    of the accepted ones' and says nothing about the rejected, whose score is not reported. `quality` and the alignments
    are those of all results that were scored here, submitted or not.
    """

    tasks: int
    skipped: int
    unanswered: int
    rate: AcceptanceRate
    score: float | None
    quality: Quantiles | None
    text_alignment: Quantiles | None
    image_alignment: Quantiles | None
    seconds: Quantiles | None
    gaussians: Quantiles | None

    @property
    def other(self) -> int:
        """The number of tasks without a verdict: their validator failed, they are still open, or nobody knows."""
        return self.tasks - self.rate.judged - self.skipped


@dataclass(frozen=True)
class Bin:
    """The judged tasks among those assigned from `start`, unix seconds, until the next bin."""

    start: float
    rate: AcceptanceRate


@dataclass(frozen=True)
class Group:
    """The tasks at `indices` of a table, which have the same phase, validator, type or hour.

    `key` is a validator's full hotkey, and the label for all other groupings. `latest` is the task assigned last.
    """

    key: str
    label: str
    latest: TaskRow
    indices: Indices


@dataclass(frozen=True)
class GroupDifference:
    """The rate of one group less another's; `tasks_each` judged would tell them apart, None if these already do."""

    label: str
    reference: str
    difference: intervals.Difference
    tasks_each: int | None


# Phases of the same name with other settings are different groups.
_KEYS: dict[By, Callable[[TaskRow], object]] = {
    "phase": attrgetter("phase", "config_hash"),
    "validator": attrgetter("validator"),
    "type": attrgetter("task_type"),
    "hour": lambda task: task.assigned_at // HOUR,
}


_LABELS: dict[By, Callable[[TaskRow], str]] = {
    "phase": lambda task: f"{task.phase} {task.config_hash[:8]}",
    "validator": lambda task: task.validator[:8] + ("" if task.uid is None else f" (uid {task.uid})"),
    "type": attrgetter("task_type"),
    "hour": lambda task: f"{datetime.fromtimestamp(task.assigned_at // HOUR * HOUR, UTC):%Y-%m-%d %H:%M}",
}


class TaskTable:
    """Tasks in the order of their assignment, with their numeric columns as arrays: NaN where a task has no value."""

    def __init__(self, tasks: Sequence[TaskRow], scale: Scale = DEFAULT_SCALE) -> None:
        """Copy the columns out of the rows; rates are rated on `scale`."""
        self._tasks = tasks
        self._scale = scale
        names = [name for name in (*COMPARED, "score", "assigned_at") if name not in _ALIGNMENTS.values()]
        names.append("alignment")
        # Row by row, as they lie in memory: column by column takes four times as long.
        rows = np.array(list(map(attrgetter(*names), tasks)), np.float64).reshape(-1, len(names))
        self._columns: dict[str, Floats] = dict(zip(names, np.ascontiguousarray(rows.T), strict=True))
        types = np.array([task.task_type for task in tasks], np.str_)
        for task_type, name in _ALIGNMENTS.items():
            self._columns[name] = np.where(types == task_type, self._columns["alignment"], np.nan)
        self._accepted, self._rejected, self._skipped = (
            np.array([task.outcome == outcome for task in tasks], np.bool_)
            for outcome in (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.SKIPPED)
        )

    @property
    def everything(self) -> Indices:
        """The indices of all tasks."""
        return np.arange(len(self._tasks))

    def group(self, by: By) -> list[Group]:
        """Return the groups in the order in which they first occur."""
        members = dict[object, list[int]]()
        for index, key in enumerate(map(_KEYS[by], self._tasks)):
            members.setdefault(key, []).append(index)
        groups = []
        for indices in members.values():
            # A validator's uid may change, so the label is that of the latest task.
            latest = self._tasks[indices[-1]]
            label = _LABELS[by](latest)
            groups.append(Group(latest.validator if by == "validator" else label, label, latest, np.array(indices)))
        return groups

    def rate(self, indices: Indices) -> AcceptanceRate:
        """Return the acceptance rate of some tasks."""
        accepted, rejected = int(self._accepted[indices].sum()), int(self._rejected[indices].sum())
        return AcceptanceRate(accepted, accepted + rejected, self._scale)

    def summarise(self, indices: Indices) -> Summary:
        """Sum up some tasks."""
        score = _finite(self._columns["score"][indices[self._accepted[indices]]])
        return Summary(
            tasks=len(indices),
            skipped=int(self._skipped[indices].sum()),
            unanswered=sum(is_unanswered(self._tasks[index]) for index in indices.tolist()),
            rate=self.rate(indices),
            score=float(score.mean()) if len(score) else None,
            quality=self._quantiles("quality", indices),
            text_alignment=self._quantiles("text_alignment", indices),
            image_alignment=self._quantiles("image_alignment", indices),
            seconds=self._quantiles("generation_seconds", indices),
            gaussians=self._quantiles("gaussians", indices),
        )

    def contrasts(self, indices: Indices) -> tuple[Contrast, ...]:
        """Compare the accepted with the rejected among some tasks, column by column."""
        accepted, rejected = indices[self._accepted[indices]], indices[self._rejected[indices]]
        contrasts = []
        for name in COMPARED:
            first, second = (_finite(self._columns[name][members]) for members in (accepted, rejected))
            medians = [sample and sample.p50 for sample in (quantiles(first), quantiles(second))]
            effect = intervals.cliffs_delta(first, second)
            contrasts.append(Contrast(name, len(first), len(second), medians[0], medians[1], effect))
        return tuple(contrasts)

    def bins(self, indices: Indices, width: int) -> tuple[Bin, ...]:
        """Return the bins, `width` seconds each, that hold judged tasks, in the order of time."""
        judged = indices[self._accepted[indices] | self._rejected[indices]]
        numbers, bin_of = np.unique(self._columns["assigned_at"][judged] // width, return_inverse=True)
        accepted = np.bincount(bin_of, self._accepted[judged]).tolist()
        totals = np.bincount(bin_of).tolist()
        return tuple(
            Bin(number * width, AcceptanceRate(int(count), total))
            for number, count, total in zip(numbers.tolist(), accepted, totals, strict=True)
        )

    def stages(self, indices: Indices) -> dict[str, Quantiles | None]:
        """Return the quantiles of the seconds of each stage."""
        seconds: dict[str, list[float]] = {}
        for index in indices.tolist():
            for stage, value in self._tasks[index].seconds.items():
                seconds.setdefault(stage, []).append(value)
        return {stage: quantiles(np.array(values, np.float64)) for stage, values in seconds.items()}

    def _quantiles(self, column: str, indices: Indices) -> Quantiles | None:
        return quantiles(_finite(self._columns[column][indices]))


def is_unanswered(task: TaskRow) -> bool:
    """Return whether a task's phase had no checkpoint for its type."""
    return task.error is not None and task.error.startswith("UnsupportedPrompt")


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def compare_groups(groups: Iterable[tuple[str, AcceptanceRate]]) -> tuple[GroupDifference, ...]:
    """Compare each group, a label and a rate, with the one that has the most judged tasks."""
    judged = [(label, rate, rate.share) for label, rate in groups if rate.share is not None]
    if not judged:
        return ()
    reference, largest, largest_share = max(judged, key=lambda group: group[1].judged)
    differences = []
    for label, rate, share in judged:
        if rate is not largest:
            difference = intervals.compare_proportions((rate.accepted, rate.judged), (largest.accepted, largest.judged))
            tasks_each = None if difference.is_clear else intervals.tasks_to_distinguish(share, largest_share)
            differences.append(GroupDifference(label, reference, difference, tasks_each))
    return tuple(differences)
