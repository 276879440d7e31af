"""The events that the ledger records, one frozen value each; moments are unix seconds."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from miner.ledger.outcomes import CLOSING, Outcome
from miner.ledger.schema import SPLAT_COLUMNS

# Length to which task ids and messages are cut, which may be arbitrarily long.
MAX_TEXT_LENGTH = 500

Value = str | int | float | None
Statement = tuple[str, dict[str, Value]]
GateVerdict = Literal["sent", "withheld", "explored"]
"""What a gate made of a result; an explored one was sent although the gate would have withheld it."""


class Stratum(NamedTuple):
    """The tasks of one validator and one type, among which an experiment balances its arms."""

    validator: str
    task_type: str


@dataclass(frozen=True)
class ArmAssignment:
    """The arm of a running experiment that a task was assigned to; `turn` counts the tasks of its stratum from 0."""

    experiment: str
    arm: str
    turn: int


@dataclass(frozen=True)
class PhaseAssignment:
    """The phase that a task is generated with, by name and hash, and its arm if an experiment runs."""

    phase: str
    config_hash: str
    arm: ArmAssignment | None


@dataclass(frozen=True)
class TaskStarted:
    """A task, whose generation is about to begin, under a `LedgerWriter.new_key`; `uid` is None if there is none."""

    key: int
    at: float
    transport: Literal["pull", "push"]
    validator: str
    uid: int | None
    task_id: str
    task_type: Literal["text", "image"]
    assignment: PhaseAssignment
    code_version: str

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        assignment = self.assignment
        columns: dict[str, Value] = {
            "key": self.key,
            "assigned_at": self.at,
            "transport": self.transport,
            "validator": _storable(self.validator),
            "uid": self.uid,
            "task_id": _storable(self.task_id),
            "task_type": self.task_type,
            "phase": assignment.phase,
            "config_hash": assignment.config_hash,
            "code_version": self.code_version,
        }
        return _insert("tasks", columns | (vars(assignment.arm) if assignment.arm else {}))


@dataclass(frozen=True)
class ResultGenerated:
    """A result was generated: the seed chosen, all seeds tried, seconds of each stage, the splats' statistics.

    `statistics` are those of `miner.ledger.schema.splat_columns`; `submission_bytes` is the result's size as submitted,
    None if it is withheld. `candidates` hold the fields of a `pipeline.Candidate` each, those of its score flat, in
    the order in which they were made.

    `mattings` hold, for each picture whose background was removed, the model that was chosen, "" if none was, and what
    each model made of it: its name, the measures of its matte, the IoU expected of it, and its flaw. They are those of
    the result alone where candidates have pictures of their own.

    `quality`, `alignment`, `ssim` and `lpips` are the parts of the validator's score that were computed here, None if
    they were not; `estimated_score` is the whole of it if all parts are there. `threshold` is the score from which the
    validator accepts, None if it told none. `gate` is what the phase's gate decided, None without one, and
    `pass_probability` the chance to be accepted that it reckoned with, None if it reckoned with none.
    """

    key: int
    at: float
    seed: int
    seeds: tuple[int, ...]
    seconds: Mapping[str, float]
    statistics: Mapping[str, float]
    quality: float | None
    submission_bytes: int | None
    candidates: tuple[Mapping[str, Value], ...] = ()
    alignment: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    estimated_score: float | None = None
    threshold: float | None = None
    pass_probability: float | None = None
    gate: GateVerdict | None = None
    mattings: tuple[Mapping[str, object], ...] = ()

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        columns: dict[str, Value] = {
            "generated_at": self.at,
            "seed": self.seed,
            "seeds": json.dumps(self.seeds),
            "stages": json.dumps({stage: round(seconds, 4) for stage, seconds in self.seconds.items()}),
            "generation_seconds": sum(self.seconds.values()),
            "quality": self.quality,
            "alignment": self.alignment,
            "ssim": self.ssim,
            "lpips": self.lpips,
            "estimated_score": self.estimated_score,
            "threshold": self.threshold,
            "pass_probability": self.pass_probability,
            "gate": self.gate,
            "submission_bytes": self.submission_bytes,
            "mattings": json.dumps(self.mattings) if self.mattings else None,
            "candidates": json.dumps([dict(candidate) for candidate in self.candidates]) if self.candidates else None,
        }
        return _update(self.key, columns | {name: self.statistics.get(name) for name in SPLAT_COLUMNS})


@dataclass(frozen=True)
class GenerationFailed:
    """A task has no result, and why; the answer that is sent instead is a SubmissionAnswered."""

    key: int
    at: float
    error: str

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        return _update(self.key, {"generated_at": self.at, "error": _storable(self.error)})


@dataclass(frozen=True)
class SubmissionAnswered:
    """A validator answered a submission.

    `score` may be the number of the feedback as it came: it is stored only with an accepted result, since 0.0 stands
    for any failure. `cooldown_until` is the validator's unix time. A submission whose outcome does not close the task
    may be followed by another; the first closing outcome of a task is final. Pushed tasks get no feedback: their
    outcome is `unknown`. `submissions` is 0 for an outcome that no answer told but that followed from later ones.
    """

    key: int
    at: float
    outcome: Outcome
    score: float | None = None
    cooldown_until: float | None = None
    submissions: int = 1

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        has_score = self.outcome is Outcome.ACCEPTED and self.score is not None and 0 < self.score < math.inf
        return (
            "UPDATE tasks SET answered_at = :at, outcome = :outcome, score = :score, "  # noqa: S608
            "cooldown_until = :cooldown_until, submissions = submissions + :submissions "
            f"WHERE key = :key AND (outcome IS NULL OR outcome NOT IN {tuple(map(str, CLOSING))})",
            {
                "key": self.key,
                "at": self.at,
                "outcome": str(self.outcome),
                "score": self.score if has_score else None,
                "cooldown_until": self.cooldown_until or None,
                "submissions": self.submissions,
            },
        )


@dataclass(frozen=True)
class PhaseChanged:
    """A phase shapes results from now on; `yaml` holds all of its settings, so that each can be restored."""

    at: float
    phase: str
    action: Literal["start", "apply", "rollback", "automatic"]
    config_hash: str
    yaml: str

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        return _insert("phases", dict(vars(self)))


@dataclass(frozen=True)
class ExperimentStarted:
    """Tasks are assigned to `arms` (phase to weight) from now on; `seed` reproduces the assignment."""

    name: str
    at: float
    seed: int
    arms: Mapping[str, int]

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        arms = json.dumps(dict(self.arms))
        return _insert("experiments", {"name": self.name, "started_at": self.at, "seed": self.seed, "arms": arms})


@dataclass(frozen=True)
class ExperimentEnded:
    """An experiment assigns no more tasks; `decision` says why."""

    name: str
    at: float
    decision: str

    def statement(self) -> Statement:
        """Return the SQL that records the event."""
        return "UPDATE experiments SET ended_at = :at, decision = :decision WHERE name = :name", dict(vars(self))


@dataclass(frozen=True)
class TasksDeleted:
    """Tasks that were assigned before this moment are to be deleted."""

    before: float

    def statement(self) -> Statement:
        """Return the SQL that deletes the tasks."""
        return "DELETE FROM tasks WHERE assigned_at < :before", {"before": self.before}


TaskEvent = TaskStarted | ResultGenerated | GenerationFailed | SubmissionAnswered
Event = TaskEvent | PhaseChanged | ExperimentStarted | ExperimentEnded | TasksDeleted


def _storable(text: str) -> str:
    """Cut a text, and replace what is not valid Unicode, which a database cannot store."""
    return text[:MAX_TEXT_LENGTH].encode("utf-8", "replace").decode()


def _insert(table: str, columns: dict[str, Value]) -> Statement:
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(columns)})", columns  # noqa: S608


def _update(key: int, columns: dict[str, Value]) -> Statement:
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    return f"UPDATE tasks SET {changes} WHERE key = :key", columns | {"key": key}  # noqa: S608
