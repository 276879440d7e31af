"""The moments at which something changed that may change the results: the phase, the code, an experiment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from miner.ledger import ExperimentRow, PhaseRow, TaskRow
from miner.words import phase_label


@dataclass(frozen=True)
class Marker:
    """A change at a moment, unix seconds, in words."""

    at: float
    kind: Literal["phase", "code", "experiment"]
    text: str


def find_markers(
    tasks: Sequence[TaskRow],
    phases: Iterable[PhaseRow],
    experiments: Iterable[ExperimentRow],
    since: float,
    until: float,
) -> tuple[Marker, ...]:
    """Return the changes from `since` to `until`, unix seconds, in the order of time.

    A restart with the same settings is no change. The code is told by the tasks, which must be in the order of their
    assignment: it changed with the first one that another version generated.
    """
    found = list[Marker]()
    running = ""
    for row in phases:
        if row.config_hash != running:
            found.append(Marker(row.at, "phase", phase_label(row.phase, row.config_hash)))
        running = row.config_hash
    for before, task in pairwise(tasks):
        if task.code_version != before.code_version:
            found.append(Marker(task.assigned_at, "code", f"code {before.code_version} to {task.code_version}"))
    for experiment in experiments:
        found.append(Marker(experiment.started_at, "experiment", f"{experiment.name} begins"))
        if experiment.ended_at is not None:
            found.append(Marker(experiment.ended_at, "experiment", f"{experiment.name} ends"))
    return tuple(sorted((marker for marker in found if since <= marker.at <= until), key=lambda marker: marker.at))
