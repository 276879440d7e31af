"""The contents of the report, whatever its format, and how they are read from the ledger."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miner.analytics import aggregate
from miner.analytics.aggregate import HOUR, SEPARATOR, Bin, By, Contrast, Group, GroupDifference, Summary
from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.analytics.gate_summary import GateSummary, summarise_gate
from miner.analytics.markers import Marker, find_markers
from miner.analytics.rating import DEFAULT_SCALE, Scale
from miner.analytics.task_filter import TaskFilter
from miner.ledger import ExperimentRow, LedgerReader, PhaseRow, TaskRow

# Widths, in seconds, of the bins that the time axis may be cut into.
BIN_SECONDS = (HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 7 * 24 * HOUR)
# Columns of the ledger that no report needs.
UNUSED = ("generated_at", "seed", "seeds", "candidates", "mattings", "stages", "cooldown_until", "error")
EVERYTHING = TaskFilter()
Assigned = Literal["at random", "partly at random", "not at random"]


@dataclass(frozen=True)
class ReportRow:
    """One group of tasks, or all of them, which have no keys. `contrasts` is empty for hours."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    summary: Summary
    contrasts: tuple[Contrast, ...]

    @property
    def key(self) -> str:
        """The keys as one text, "" for all tasks."""
        return SEPARATOR.join(self.keys)

    @property
    def label(self) -> str:
        """The labels as one text."""
        return SEPARATOR.join(self.labels) or "all"


@dataclass(frozen=True)
class Report:
    """The contents of a report on the tasks of a ledger that a filter lets through, as of `now`, unix seconds."""

    ledger: Path
    by: By
    filter: TaskFilter
    now: float
    total: ReportRow
    groups: tuple[ReportRow, ...]
    differences: tuple[GroupDifference, ...]
    bin_seconds: int
    bins: tuple[Bin, ...]
    phases: tuple[PhaseRow, ...]
    markers: tuple[Marker, ...]
    experiments: tuple[ExperimentSummary, ...]
    gate: GateSummary
    scale: Scale = DEFAULT_SCALE
    assigned: Assigned = "not at random"

    @property
    def has_hours(self) -> bool:
        """Whether the groups are of different hours."""
        return "hour" in self.by

    @property
    def title(self) -> str:
        """The dimensions in words: "phase and validator"."""
        return " and ".join(self.by)


def read_report(
    ledger: Path, by: By = ("phase",), task_filter: TaskFilter = EVERYTHING, scale: Scale = DEFAULT_SCALE
) -> Report:
    """Build the report on a ledger, which has no tasks if it does not exist yet. Experiments come with all their tasks.

    Raises OperatorError if the file is no ledger, or has no task of what the filter names.
    """
    now = time.time()
    if not ledger.exists():
        return build_report(ledger, [], by, task_filter, now, scale=scale)
    with LedgerReader(ledger) as reader:
        tasks = task_filter.read(reader, without=UNUSED)
        has_all = task_filter.is_whole and task_filter.until > now

        def tasks_of(row: ExperimentRow) -> list[TaskRow]:
            if row.started_at < task_filter.since or not has_all:
                return reader.tasks(experiment=row.name, without=UNUSED)
            return [task for task in tasks if task.experiment == row.name]

        experiments = [(row, tasks_of(row)) for row in task_filter.choose(reader.experiments(), tasks)]
        return build_report(ledger, tasks, by, task_filter, now, reader.phases(), experiments, scale)


def build_report(
    ledger: Path, tasks: Sequence[TaskRow], by: By, task_filter: TaskFilter, now: float,
    phases: Sequence[PhaseRow] = (), experiments: Iterable[tuple[ExperimentRow, Sequence[TaskRow]]] = (),
    scale: Scale = DEFAULT_SCALE,
) -> Report:  # fmt: skip
    """Sum up the tasks of a filter in the order of their assignment; `experiments` come with all of their tasks."""
    table = aggregate.TaskTable(tasks, scale)
    experiments = list(experiments)
    since, until = task_filter.since, min(task_filter.until, now)

    def describe(group: Group) -> ReportRow:
        contrasts = () if "hour" in by else table.contrasts(group.indices)
        return ReportRow(group.keys, group.labels, table.summarise(group.indices), contrasts)

    groups = [describe(group) for group in table.group(*by)]
    if by[-1] == "validator":
        groups.sort(key=lambda row: -row.summary.tasks)
    elif len(by) > 1:
        groups.sort(key=lambda row: row.labels[-1])
    # Stable, so that validators stay in the order of their tasks within a phase.
    groups.sort(key=lambda row: row.labels[:-1])
    width = aggregate.bin_width(tasks[-1].assigned_at - tasks[0].assigned_at if tasks else 0.0, BIN_SECONDS)
    everything = table.everything
    return Report(
        *(ledger, by, task_filter, now),
        total=ReportRow((), (), table.summarise(everything), table.contrasts(everything)),
        groups=tuple(groups),
        differences=() if "hour" in by else _compare(groups),
        bin_seconds=width,
        bins=table.bins(everything, width),
        phases=tuple(phase for phase in phases if since <= phase.at <= until),
        markers=find_markers(tasks, phases, (row for row, _ in experiments), since, until),
        experiments=tuple(summarise_experiment(known, members, now) for known, members in experiments),
        gate=summarise_gate(tasks, until),
        scale=scale,
        assigned=_assigned(tasks, experiments),
    )


def _assigned(tasks: Sequence[TaskRow], experiments: Iterable[tuple[ExperimentRow, object]]) -> Assigned:
    """Return whether one experiment shared out all of the tasks, or some, or may since it runs, or none did."""
    shared_out_by = {task.experiment for task in tasks}
    if len(shared_out_by) == 1 and None not in shared_out_by:
        return "at random"
    is_running = any(row.ended_at is None for row, _ in experiments)
    return "partly at random" if is_running or shared_out_by - {None} else "not at random"


def _compare(groups: Iterable[ReportRow]) -> tuple[GroupDifference, ...]:
    """Compare the groups that differ in the first dimension alone: phases, say, among the tasks of one validator."""
    alike = dict[tuple[str, ...], list[ReportRow]]()
    for row in groups:
        alike.setdefault(row.keys[1:], []).append(row)
    return tuple(
        difference
        for rows in alike.values()
        for difference in aggregate.compare_groups((row.label, row.summary.rate) for row in rows)
    )
