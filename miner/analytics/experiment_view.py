"""The experiments of the ledger as the dashboard's JSON: their progress, what it would take, and their arms."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from miner.analytics.experiments import ExperimentSummary, summarise_experiment
from miner.analytics.figures import Json
from miner.analytics.intervals import wilson_interval
from miner.analytics.report import forecast_lines
from miner.config import parse_yaml
from miner.ledger import LedgerReader, PhaseRow, TaskRow

# The latest experiments that are shown.
SHOWN = 3
# Columns of the ledger that an experiment needs.
NEEDED = (
    *("key", "assigned_at", "validator", "task_id", "task_type", "config_hash"),
    *("experiment", "arm", "turn", "answered_at", "outcome"),
)
UNUSED = tuple(name for name in TaskRow._fields if name not in NEEDED)
# Keys of a phase that are texts for people.
TEXTS = ("note", "hypothesis")


def read_experiments(ledger: Path) -> list[Json]:
    """Return the latest experiments of a ledger, the newest first. Raises OperatorError if the file is none."""
    if not ledger.is_file():
        return []
    with LedgerReader(ledger) as reader:
        rows, phases = reader.experiments()[-SHOWN:], reader.phases()
        found = []
        for row in reversed(rows):
            tasks = reader.tasks(experiment=row.name, without=UNUSED)
            found.append(_view(summarise_experiment(row, tasks, time.time()), tasks, phases))
        return found


def _view(summary: ExperimentSummary, tasks: Sequence[TaskRow], phases: Sequence[PhaseRow]) -> Json:
    row, result = summary.row, summary.result
    hashes = {task.arm: task.config_hash for task in tasks}
    settings = {arm.phase: _settings(arm.phase, hashes.get(arm.phase), phases, row.started_at) for arm in summary.arms}
    keys = dict.fromkeys(key for values in settings.values() for key in values if key not in TEXTS)
    return {
        "name": row.name,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "decision": row.decision,
        "winner": result.winner,
        "losers": result.losers,
        "threshold": result.threshold,
        "forecasts": forecast_lines(summary),
        "arms": [
            {
                "phase": arm.phase, "hash": hashes.get(arm.phase, ""), "accepted": arm.accepted,
                "counted": arm.counted, "rate": arm.accepted / arm.counted if arm.counted else None,
                "interval": wilson_interval(arm.accepted, arm.counted),
                **{name: settings[arm.phase].get(name, "") for name in TEXTS},
            }
            for arm in summary.arms
        ],
        # One row for each setting in which the arms differ, a value for each arm.
        "differences": [
            {"key": key, "values": [values.get(key) for values in settings.values()]}
            for key in keys
            if len({values.get(key) for values in settings.values()}) > 1
        ],
        "comparisons": [
            {
                "better": one.better, "worse": one.worse, "e_value": one.e_value,
                "highest_e_value": one.highest_e_value, "path": one.path,
            }
            for one in result.comparisons
        ],
    }  # fmt: skip


def _settings(name: str, config_hash: str | None, phases: Sequence[PhaseRow], started_at: float) -> dict[str, str]:
    """Return the settings of an arm, flat, as text; none if the ledger does not have them.

    `config_hash` is that of the arm's tasks; without any, the phase's settings as of the start of the experiment.
    """
    of_hash = [row for row in phases if row.phase == name and row.config_hash == config_hash]
    by_name = [row for row in phases if row.phase == name and row.at <= started_at + 60]
    for row in (of_hash or by_name)[-1:]:
        # A damaged text must not hide the rest.
        with suppress(yaml.YAMLError, ValueError):
            content = parse_yaml(row.yaml)
            return dict(_flat(content)) if isinstance(content, dict) else {}
    return {}


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value)))
    return flat
