"""Reading the ledger: typed, frozen rows, on a connection that cannot write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from miner.errors import OperatorError
from miner.ledger.schema import NewerLedgerError, check_version

FIRST_WITH_EXPERIMENTS = 2


class TaskRow(NamedTuple):
    """One task; None is what is not known, or not yet. See `miner.ledger.events` for what the columns mean."""

    key: int
    assigned_at: float
    transport: str
    validator: str
    uid: int | None
    task_id: str
    task_type: str
    phase: str
    config_hash: str
    code_version: str
    experiment: str | None
    arm: str | None
    turn: int | None
    generated_at: float | None
    seed: int | None
    seeds: str | None
    stages: str | None
    generation_seconds: float | None
    gaussians: int | None
    opacity_min: float | None
    opacity_mean: float | None
    opacity_max: float | None
    transparent_share: float | None
    box_min_x: float | None
    box_min_y: float | None
    box_min_z: float | None
    box_max_x: float | None
    box_max_y: float | None
    box_max_z: float | None
    volume: float | None
    density_max: float | None
    density_mean: float | None
    scale_p5: float | None
    scale_p50: float | None
    scale_p95: float | None
    local_score: float | None
    candidates: str | None
    submission_bytes: int | None
    answered_at: float | None
    outcome: str | None
    score: float | None
    cooldown_until: float | None
    submissions: int
    error: str | None

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of all candidates."""
        return tuple(json.loads(self.seeds)) if self.seeds else ()

    @property
    def all_candidates(self) -> list[dict[str, Any]]:
        """The fields of a `pipeline.Candidate` for each, in the order they were made."""
        return list(json.loads(self.candidates)) if self.candidates else []

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage."""
        return dict(json.loads(self.stages)) if self.stages else {}


class PhaseRow(NamedTuple):
    """One change of phase."""

    at: float
    phase: str
    action: str
    config_hash: str
    yaml: str


class ExperimentRow(NamedTuple):
    """One experiment; `arms` is JSON, phase to weight."""

    name: str
    started_at: float
    seed: int
    arms: str
    ended_at: float | None
    decision: str | None

    @property
    def weights(self) -> dict[str, int]:
        """Phase to weight."""
        return dict(json.loads(self.arms))


class LedgerReader:
    """Reads while the miner writes. Every method raises OperatorError if the file is no ledger."""

    def __init__(self, path: Path) -> None:
        """Raises OperatorError if there is no such file, or it cannot be read."""
        self._path = path.expanduser()
        if not self._path.is_file():
            raise OperatorError(f"there is no ledger {path}; the miner makes it with its first task")
        try:
            self._database = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                self._version = check_version(self._database)
            except BaseException:
                self._database.close()
                raise
        except (sqlite3.Error, NewerLedgerError) as error:
            raise OperatorError(f"the ledger {path} cannot be read: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def tasks(self, since: float = 0.0, experiment: str | None = None, without: Collection[str] = ()) -> list[TaskRow]:
        """Tasks assigned at `since`, unix seconds, or later, in the order of their assignment; those of one experiment
        if it is named. Columns `without` need not be read and are None.
        """
        if experiment is not None and self._version < FIRST_WITH_EXPERIMENTS:
            return []
        where = "assigned_at >= ?" + (" AND experiment = ?" if experiment is not None else "")
        values = (since,) if experiment is None else (since, experiment)
        return [TaskRow._make(row) for row in self._rows("tasks", TaskRow._fields, where, values, "key", without)]

    def open_tasks(self, since: float) -> list[TaskRow]:
        """Tasks assigned since then without a verdict: after a restart, those that a validator may hand back."""
        where = "assigned_at >= ? AND transport = 'pull' AND (outcome IS NULL OR outcome IN ('still open', 'unknown'))"
        return [TaskRow._make(row) for row in self._rows("tasks", TaskRow._fields, where, (since,), "key")]

    def phases(self) -> list[PhaseRow]:
        """All changes of phase, the first first."""
        return [PhaseRow._make(row) for row in self._rows("phases", PhaseRow._fields, "1", (), "id")]

    def experiments(self) -> list[ExperimentRow]:
        """All experiments, the first first."""
        rows = self._rows("experiments", ExperimentRow._fields, "1", (), "started_at")
        return [ExperimentRow._make(row) for row in rows]

    def next_turns(self, experiment: str) -> dict[tuple[str, str], int]:
        """By validator and task type, the turn that the next task of an experiment has there; absent: 0."""
        turns: dict[tuple[str, str], int] = {}
        for task in self.tasks(experiment=experiment):
            if task.turn is not None:
                turns[task.validator, task.task_type] = task.turn + 1
        return turns

    def _rows(
        self,
        table: str,
        columns: Sequence[str],
        where: str,
        values: Sequence[object],
        order: str,
        without: Collection[str] = (),
    ) -> list[tuple[object, ...]]:
        try:
            present = {str(column[1]) for column in self._database.execute(f"PRAGMA table_info({table})")}
            if not present:
                return []
            # A file of an older version does not have all columns yet.
            names = ", ".join(name if name in present and name not in without else "NULL" for name in columns)
            query = f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608
            return self._database.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise OperatorError(f"the ledger {self._path} cannot be read: {error}") from None
