"""Sums of the ledger's tasks by phase, validator, type and hour, for the report and the dashboard."""

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
from miner.words import phase_label

Indices = npt.NDArray[np.int64]
Dimension = Literal["phase", "validator", "type", "hour"]
DIMENSIONS: tuple[Dimension, ...] = ("phase", "validator", "type", "hour")
By = tuple[Dimension, ...]
"""The dimensions whose combinations are the groups, at least one."""

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
# The most bins that a time axis is cut into.
MAX_BINS = 56
# Between the labels of a group's dimensions.
SEPARATOR = " · "


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
    """The tasks assigned from `start`, unix seconds, until the next bin.

    `score` is the mean of the accepted ones', `seconds` the median of the generation times.
    """

    start: float
    tasks: int
    rate: AcceptanceRate
    score: float | None
    seconds: float | None


@dataclass(frozen=True)
class Group:
    """The tasks at `indices` of a table that agree in some dimensions.

    `keys` and `labels` have an entry for each dimension; a validator's key is the full hotkey, every other key is the
    label. `latest` is the task assigned last.
    """

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    latest: TaskRow
    indices: Indices

    @property
    def key(self) -> str:
        """The keys as one text."""
        return SEPARATOR.join(self.keys)

    @property
    def label(self) -> str:
        """The labels as one text."""
        return SEPARATOR.join(self.labels)


@dataclass(frozen=True)
class GroupDifference:
    """The rate of one group less another's; `tasks_each` judged would tell them apart, None if these already do."""

    label: str
    reference: str
    difference: intervals.Difference
    tasks_each: int | None


# Phases of the same name with other settings are different groups.
_KEYS: dict[Dimension, Callable[[TaskRow], object]] = {
    "phase": attrgetter("phase", "config_hash"),
    "validator": attrgetter("validator"),
    "type": attrgetter("task_type"),
    "hour": lambda task: task.assigned_at // HOUR,
}


_LABELS: dict[Dimension, Callable[[TaskRow], str]] = {
    "phase": lambda task: phase_label(task.phase, task.config_hash),
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
        self._unanswered = np.array(list(map(is_unanswered, tasks)), np.bool_)
        self._accepted, self._rejected, self._skipped = (
            np.array([task.outcome == outcome for task in tasks], np.bool_)
            for outcome in (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.SKIPPED)
        )

    @property
    def everything(self) -> Indices:
        """The indices of all tasks."""
        return np.arange(len(self._tasks))

    def group(self, *by: Dimension) -> list[Group]:
        """Return the groups of all combinations that occur, in the order in which they first do."""
        members = dict[object, list[int]]()
        for index, key in enumerate(zip(*(map(_KEYS[dimension], self._tasks) for dimension in by), strict=True)):
            members.setdefault(key, []).append(index)
        # A validator's uid may change, so the label is that of its latest task.
        latest_of = {task.validator: task for task in self._tasks} if "validator" in by else {}
        validators = {hotkey: _LABELS["validator"](task) for hotkey, task in latest_of.items()}
        groups = []
        for indices in members.values():
            latest = self._tasks[indices[-1]]
            labels = {dimension: _LABELS[dimension](latest) for dimension in by}
            keys = labels | {"validator": latest.validator}
            labels["validator"] = validators.get(latest.validator, "")
            group = Group(
                tuple(keys[name] for name in by), tuple(labels[name] for name in by), latest, np.array(indices)
            )
            groups.append(group)
        return groups

    def rate(self, indices: Indices) -> AcceptanceRate:
        """Return the acceptance rate of some tasks."""
        accepted, rejected = int(self._accepted[indices].sum()), int(self._rejected[indices].sum())
        return AcceptanceRate(accepted, accepted + rejected, self._scale)

    def summarise(self, indices: Indices) -> Summary:
        """Sum up some tasks."""
        return Summary(
            tasks=len(indices),
            skipped=int(self._skipped[indices].sum()),
            unanswered=int(self._unanswered[indices].sum()),
            rate=self.rate(indices),
            score=self._mean_score(indices),
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
        """Return the bins, `width` seconds each, that hold tasks, in the order of time."""
        numbers = self._columns["assigned_at"][indices] // width
        order = np.argsort(numbers, kind="stable")
        starts, firsts = np.unique(numbers[order], return_index=True)
        bins = []
        for start, members in zip(starts.tolist(), np.split(indices[order], firsts[1:]), strict=False):
            seconds = _finite(self._columns["generation_seconds"][members])
            median = float(np.median(seconds)) if len(seconds) else None
            bins.append(Bin(start * width, len(members), self.rate(members), self._mean_score(members), median))
        return tuple(bins)

    def stages(self, indices: Indices) -> dict[str, Quantiles | None]:
        """Return the quantiles of the seconds of each stage."""
        seconds: dict[str, list[float]] = {}
        for index in indices.tolist():
            for stage, value in self._tasks[index].seconds.items():
                seconds.setdefault(stage, []).append(value)
        return {stage: quantiles(np.array(values, np.float64)) for stage, values in seconds.items()}

    def _mean_score(self, indices: Indices) -> float | None:
        """Return the mean score of the accepted among some tasks."""
        score = _finite(self._columns["score"][indices[self._accepted[indices]]])
        return float(score.mean()) if len(score) else None

    def _quantiles(self, column: str, indices: Indices) -> Quantiles | None:
        return quantiles(_finite(self._columns[column][indices]))


def is_unanswered(task: TaskRow) -> bool:
    """Return whether a task's phase had no checkpoint for its type."""
    return task.error is not None and task.error.startswith("UnsupportedPrompt")


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def bin_width(span: float, widths: Sequence[int]) -> int:
    """Return the narrowest width, in seconds, of which MAX_BINS cover a span of seconds, or the widest there is."""
    return next((width for width in widths if span / width < MAX_BINS - 1), widths[-1])


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
