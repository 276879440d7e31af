"""The sums of the ledger's tasks as the dashboard's JSON: by phase, by validator, by both, and over time."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from miner.analytics.aggregate import HOUR, Group, TaskTable, bin_width
from miner.analytics.figures import Json, bin_figures, gate_figures, rated_figures
from miner.analytics.gate_summary import summarise_gate
from miner.analytics.intervals import Quantiles
from miner.analytics.markers import find_markers
from miner.analytics.rating import DEFAULT_SCALE, Scale
from miner.analytics.report import calibration_title, gate_lines
from miner.analytics.task_filter import Choices, TaskFilter
from miner.ledger import SPLAT_COLUMNS, ExperimentRow, LedgerReader, PhaseRow, TaskRow

PERIODS: dict[str, float] = {
    "1h": HOUR, "6h": 6 * HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR, "30d": 720 * HOUR, "all": math.inf,
}  # fmt: skip
"""The periods before now that the page offers, by name, in seconds."""

# Widths, in seconds, of the bins that the time axis may be cut into.
BIN_SECONDS = (60, 300, 900, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR, 7 * 24 * HOUR)
# Seconds that the time axis spans at least.
MIN_SPAN = 60.0
# Tasks, the latest of a phase, of which the page shows the times of stages.
STAGE_TASKS = 1000
# Columns of the ledger that the page does not show.
UNUSED = (
    *(name for name in SPLAT_COLUMNS if name != "gaussians"),
    *("generated_at", "seed", "seeds", "candidates", "mattings", "submission_bytes", "cooldown_until", "task_id"),
)


def read_dashboard_view(ledger: Path, task_filter: TaskFilter, scale: Scale = DEFAULT_SCALE) -> Json:
    """Sum up the tasks of a ledger that a filter lets through, none if there is no ledger yet.

    Raises OperatorError if the file is no ledger, or has no task of what the filter names.
    """
    now = time.time()
    if not ledger.is_file():
        return build_dashboard_view([], task_filter, now, scale)
    with LedgerReader(ledger) as reader:
        choices = Choices.of(reader)
        tasks = task_filter.read(reader, without=UNUSED, choices=choices)
        experiments = task_filter.choose(reader.experiments(), tasks)
        view = build_dashboard_view(tasks, task_filter, now, scale, reader.phases(), experiments)
        # Whatever can be chosen, whether or not the filter lets it through.
        view["known_phases"] = [{"name": name, "hash": config_hash} for name, config_hash in choices.phases]
        view["known_validators"] = [{"hotkey": row.validator, "uid": row.uid} for row in choices.validators]
        return view


def build_dashboard_view(
    tasks: Sequence[TaskRow], task_filter: TaskFilter, now: float, scale: Scale = DEFAULT_SCALE,
    phases: Iterable[PhaseRow] = (), experiments: Iterable[ExperimentRow] = (),
) -> Json:  # fmt: skip
    """Sum up the tasks of a filter in the order of their assignment, rated on a scale; `now` is unix time.

    Phases are told apart by name and settings, the one that ran last first; validators by hotkey, the one with the most
    tasks first. A cell of `grid` is of the phase and the validator at these positions; those without tasks, and bins
    without any, are left out.
    """
    until = min(task_filter.until, now)
    earliest = tasks[0].assigned_at if tasks else until - 24 * HOUR
    since = min(max(task_filter.since, earliest) if task_filter.since <= 0 else task_filter.since, until - MIN_SPAN)
    width = bin_width(until - since, BIN_SECONDS)
    table = TaskTable(tasks, scale)
    by_phase = sorted(table.group("phase"), key=lambda group: -group.latest.assigned_at)
    by_validator = sorted(table.group("validator"), key=lambda group: -len(group.indices))
    rows = {group.key: position for position, group in enumerate(by_phase)}
    columns = {group.key: position for position, group in enumerate(by_validator)}
    gate = summarise_gate(tasks, until)
    return {
        "now": now,
        "since": since,
        "until": until,
        "stage_tasks": STAGE_TASKS,
        "bin_seconds": width,
        "bands": [asdict(band) for band in scale.bands],
        "bands_explanation": scale.explanation,
        "total": rated_figures(table.summarise(table.everything)),
        "phases": [_phase(table, group, width) for group in by_phase],
        "validators": [_validator(table, group, width) for group in by_validator],
        "grid": [
            {"phase": rows[group.keys[0]], "validator": columns[group.keys[1]]}
            | rated_figures(table.summarise(group.indices))
            for group in table.group("phase", "validator")
        ],
        "markers": [asdict(marker) for marker in find_markers(tasks, phases, experiments, task_filter.since, until)],
        "gate": gate_figures(gate)
        | {"lines": gate_lines(gate), "titles": [calibration_title(found) for found in gate.calibrations]},
        "known_phases": [],
        "known_validators": [],
    }


def _quantiles(quantiles: Quantiles | None) -> Json | None:
    return None if quantiles is None else asdict(quantiles)


def _phase(table: TaskTable, group: Group, width: int) -> Json:
    summary = table.summarise(group.indices)
    return {
        "name": group.latest.phase,
        "hash": group.latest.config_hash,
        "key": group.key,
        "unanswered": summary.unanswered,
        **rated_figures(summary),
        # JSON in the ledger, a fifth of the time for all of them.
        "stages": {name: _quantiles(taken) for name, taken in table.stages(group.indices[-STAGE_TASKS:]).items()},
        "bins": [bin_figures(found) for found in table.bins(group.indices, width)],
    }


def _validator(table: TaskTable, group: Group, width: int) -> Json:
    return {
        "hotkey": group.key,
        "uid": group.latest.uid,
        "last_task": group.latest.assigned_at,
        **rated_figures(table.summarise(group.indices)),
        "bins": [bin_figures(found) for found in table.bins(group.indices, width)],
    }
