"""Reads the ledger into typed, frozen rows, on a connection that cannot write."""

import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from miner.errors import OperatorError
from miner.ledger.outcomes import Outcome
from miner.ledger.schema import NewerLedgerError, check_version

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

FIRST_VERSION_WITH_EXPERIMENTS = 2
# Seconds after which no validator hands a task back any more.
MAX_HOLD_SECONDS = 86_400.0


class TaskRow(NamedTuple):
    """One task; None stands for what is not known, or not yet. `miner.ledger.events` documents the columns."""

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
    quality: float | None
    alignment: float | None
    ssim: float | None
    lpips: float | None
    estimated_score: float | None
    threshold: float | None
    pass_probability: float | None
    gate: str | None
    mattings: str | None
    candidates: str | None
    submission_bytes: int | None
    answered_at: float | None
    outcome: str | None
    score: float | None
    cooldown_until: float | None
    submissions: int
    error: str | None

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each stage."""
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
        """The arms' weights by phase."""
        return dict(json.loads(self.arms))


class ValidatorRow(NamedTuple):
    """A validator that has assigned us tasks, as of the latest of them."""

    validator: str
    uid: int | None
    assigned_at: float


class PhaseOfTasksRow(NamedTuple):
    """A phase that tasks were generated with."""

    phase: str
    config_hash: str


Row = TypeVar("Row", TaskRow, PhaseRow, ExperimentRow, ValidatorRow, PhaseOfTasksRow)


class LedgerReader:
    """A read-only connection to the ledger, usable while the miner writes; OperatorError if the file is no ledger."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raise OperatorError if it does not exist or cannot be read."""
        self._path = path.expanduser()
        if not self._path.is_file():
            raise OperatorError(f"there is no ledger {path}; the miner creates it with its first task")
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
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._database.close()

    def tasks(
        self, since: float = 0.0, experiment: str | None = None, without: Collection[str] = (),
        until: float = math.inf, last: int | None = None,
    ) -> list[TaskRow]:  # fmt: skip
        """Return the tasks assigned from `since` until before `until`, unix seconds, in the order of their assignment.

        With `experiment`, return only the tasks of that experiment; with `last`, only so many, the latest ones. Columns
        in `without` are not read and are None.
        """
        if experiment is not None and self._version < FIRST_VERSION_WITH_EXPERIMENTS:
            return []
        where = "assigned_at >= ? AND assigned_at < ?"
        values: tuple[float | str, ...] = (since, until)
        if experiment is not None:
            where, values = f"{where} AND experiment = ?", (*values, experiment)
        if last is None:
            return self._rows(TaskRow, f"tasks WHERE {where} ORDER BY key", values, without)
        limited = f"tasks WHERE {where} ORDER BY key DESC LIMIT ?"
        return self._rows(TaskRow, limited, (*values, last), without)[::-1]

    def tasks_of(self, keys: Iterable[int]) -> list[TaskRow]:
        """Return the tasks with these keys, at most some hundreds; those that the ledger does not have are left out."""
        values = tuple(keys)
        return self._rows(TaskRow, f"tasks WHERE key IN ({', '.join('?' * len(values))}) ORDER BY key", values)

    def task_phases(self) -> list[tuple[str, str]]:
        """Return the names and hashes of the phases that tasks were generated with, in alphabetical order."""
        rows = self._rows(PhaseOfTasksRow, "tasks GROUP BY phase, config_hash ORDER BY phase, config_hash")
        return [(row.phase, row.config_hash) for row in rows]

    def open_tasks(self, since: float) -> list[TaskRow]:
        """Return pulled tasks assigned since then without a final outcome, which validators may hand back."""
        unsettled = (None, Outcome.STILL_OPEN, Outcome.UNKNOWN)
        return [row for row in self.tasks(since) if row.transport == "pull" and row.outcome in unsettled]

    def validators(self) -> list[ValidatorRow]:
        """Return each validator with the uid and the moment of its latest task."""
        return self._rows(ValidatorRow, "tasks WHERE key IN (SELECT max(key) FROM tasks GROUP BY validator)")

    def phases(self) -> list[PhaseRow]:
        """Return all changes of phase, the earliest first."""
        return self._rows(PhaseRow, "phases ORDER BY id")

    def experiments(self) -> list[ExperimentRow]:
        """Return all experiments, the earliest first."""
        return self._rows(ExperimentRow, "experiments ORDER BY started_at")

    def next_turns(self, experiment: str) -> dict[tuple[str, str], int]:
        """Return the next turn of an experiment by validator and task type; strata without tasks are absent."""
        tasks = self.tasks(experiment=experiment)
        return {(task.validator, task.task_type): task.turn + 1 for task in tasks if task.turn is not None}

    def _rows(
        self, kind: type[Row], source: str, values: tuple[float | str, ...] = (), without: Collection[str] = ()
    ) -> list[Row]:
        """Return the rows of `source`, a table with the conditions and the order of its rows."""
        table = source.partition(" ")[0]
        try:
            # A file of an older version does not have all columns yet.
            present = {str(column[1]) for column in self._database.execute(f"PRAGMA table_info({table})")}
            if not present:
                return []
            selected = {name: name if name in present and name not in without else "NULL" for name in kind._fields}
            if "quality" in selected and "local_score" in present and "quality" not in without:
                # Its name in files before version 5.
                selected["quality"] = "local_score"
            if selected.get("outcome") == "outcome":
                # Files before version 4 have outcomes with spaces.
                selected["outcome"] = "replace(outcome, ' ', '_')"
            query = f"SELECT {', '.join(selected.values())} FROM {source}"  # noqa: S608
            return [kind._make(row) for row in self._database.execute(query, values)]
        except sqlite3.Error as error:
            raise OperatorError(f"the ledger {self._path} cannot be read: {error}") from None


def query_ledger(path: Path, query: Callable[[LedgerReader], Answer], default: Answer) -> Answer:
    """Return a query's result; `default` if there is no ledger yet or, with a warning, if it cannot be read. Blocks."""
    if not path.expanduser().exists():
        return default
    try:
        with LedgerReader(path) as reader:
            return query(reader)
    except OperatorError as error:
        log.warning("The miner goes on without its history: %s", error)
        return default


def read_open_tasks(path: Path) -> list[TaskRow]:
    """Return the pulled tasks that validators may hand back to us after a restart. Blocks."""
    return query_ledger(path, lambda reader: reader.open_tasks(time.time() - MAX_HOLD_SECONDS), [])
