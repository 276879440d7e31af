"""The contents of the report, whatever its format, and how they are read from the ledger."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miner.analytics import aggregate
from miner.analytics.aggregate import HOUR, Bin, By, Contrast, GroupDifference, Indices, Summary
from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.analytics.gate_summary import GateSummary, summarise_gate
from miner.analytics.rating import DEFAULT_SCALE, Scale
from miner.ledger import ExperimentRow, LedgerReader, PhaseRow, TaskRow

# Widths, in seconds, of the bins that the time axis may be cut into, and the most bins that it may have.
BIN_SECONDS = (HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 7 * 24 * HOUR)
MAX_BINS = 56
# Columns of the ledger that no report needs.
UNUSED = ("generated_at", "seed", "seeds", "candidates", "stages", "cooldown_until", "error")
Assigned = Literal["at random", "partly at random", "not at random"]


@dataclass(frozen=True)
class ReportRow:
    """One group of tasks, or all of them, whose key is "". `contrasts` is empty for hours."""

    key: str
    label: str
    summary: Summary
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class Report:
    """The contents of a report on the tasks of a ledger from `since` to `until`, unix seconds."""

    ledger: Path
    by: By
    since: float
    until: float
    total: ReportRow
    groups: tuple[ReportRow, ...]
    differences: tuple[GroupDifference, ...]
    bin_seconds: int
    bins: tuple[Bin, ...]
    phases: tuple[PhaseRow, ...]
    experiments: tuple[ExperimentSummary, ...]
    gate: GateSummary
    scale: Scale = DEFAULT_SCALE
    assigned: Assigned = "not at random"


def read_report(ledger: Path, by: By, since: float, scale: Scale = DEFAULT_SCALE) -> Report:
    """Build the report on a ledger, which has no tasks if it does not exist yet. Raises OperatorError if it is none."""
    now = time.time()
    if not ledger.exists():
        return build_report(ledger, [], by, since, now, scale=scale)
    with LedgerReader(ledger) as reader:
        tasks = reader.tasks(since, without=UNUSED)

        def tasks_of(row: ExperimentRow) -> list[TaskRow]:
            if row.started_at < since:
                return reader.tasks(experiment=row.name, without=UNUSED)
            return [task for task in tasks if task.experiment == row.name]

        experiments = [(row, tasks_of(row)) for row in reader.experiments()]
        return build_report(ledger, tasks, by, since, now, reader.phases(), experiments, scale)


def build_report(
    ledger: Path, tasks: Sequence[TaskRow], by: By, since: float, until: float, phases: Sequence[PhaseRow] = (),
    experiments: Iterable[tuple[ExperimentRow, Sequence[TaskRow]]] = (), scale: Scale = DEFAULT_SCALE,
) -> Report:  # fmt: skip
    """Sum up tasks in the order of their assignment; `experiments` come with all of their tasks."""
    table = aggregate.TaskTable(tasks, scale)
    experiments = list(experiments)

    def describe(key: str, label: str, indices: Indices, *, has_contrasts: bool = True) -> ReportRow:
        return ReportRow(key, label, table.summarise(indices), table.contrasts(indices) if has_contrasts else ())

    groups = [describe(group.key, group.label, group.indices, has_contrasts=by != "hour") for group in table.group(by)]
    if by == "validator":
        groups.sort(key=lambda group: -group.summary.tasks)
    width = _bin_seconds(tasks)
    return Report(
        *(ledger, by, since, until),
        total=describe("", "all", table.everything),
        groups=tuple(groups),
        differences=() if by == "hour" else aggregate.compare_groups((row.label, row.summary.rate) for row in groups),
        bin_seconds=width,
        bins=table.bins(table.everything, width),
        phases=tuple(phase for phase in phases if since <= phase.at <= until),
        experiments=tuple(summarise_experiment(known, members, until) for known, members in experiments),
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


def _bin_seconds(tasks: Sequence[TaskRow]) -> int:
    """Return the narrowest width with which the tasks fit into the bins, or the widest."""
    span = tasks[-1].assigned_at - tasks[0].assigned_at if tasks else 0.0
    return next((width for width in BIN_SECONDS if span / width < MAX_BINS - 1), BIN_SECONDS[-1])
