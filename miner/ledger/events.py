"""What the ledger is told, one frozen value per event; moments are unix seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from miner.ledger.schema import CLOSED, FIGURES, OUTCOMES

# Of strangers' names and of messages, which may be of any length.
LONGEST_TEXT = 500

Value = str | int | float | None
Statement = tuple[str, dict[str, Value]]


def _text(text: str) -> str:
    """What a database takes: some strangers' strings are no valid unicode."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class ArmAssignment:
    """Which arm of a running experiment a task was given to, as its how-manieth of the same validator and type."""

    experiment: str
    arm: str
    turn: int


class Stratum(NamedTuple):
    """Tasks that are shared out evenly among themselves."""

    validator: str
    task_type: str


@dataclass(frozen=True)
class PhaseAssignment:
    """What is remembered of what a task is generated with."""

    phase: str
    config_hash: str
    draw: ArmAssignment | None


@dataclass(frozen=True)
class TaskStarted:
    """A validator has handed out a task and its generation is about to begin.

    `key` is from Ledger.new_key; `uid` is the validator's as seen now, `config_hash` that of the phase's settings.
    """

    key: int
    at: float
    transport: Literal["pull", "push"]
    validator: str
    uid: int | None
    task_id: str
    task_type: Literal["text", "image"]
    phase: str
    config_hash: str
    code_version: str
    draw: ArmAssignment | None = None

    def statement(self) -> Statement:
        """As SQL."""
        columns: dict[str, Value] = {
            "key": self.key,
            "assigned_at": self.at,
            "transport": self.transport,
            "validator": _text(self.validator),
            "uid": self.uid,
            "task_id": _text(self.task_id),
            "task_type": self.task_type,
            "phase": self.phase,
            "config_hash": self.config_hash,
            "code_version": self.code_version,
            "experiment": self.draw.experiment if self.draw else None,
            "arm": self.draw.arm if self.draw else None,
            "turn": self.draw.turn if self.draw else None,
        }
        return _insert("tasks", columns)


@dataclass(frozen=True)
class ResultGenerated:
    """A result is there: all seeds tried and the one chosen, seconds of each of its stages, what came out.

    `statistics` is what `miner.ledger.schema.figures` makes of the splats' statistics, `local_score` the quality that
    `pipeline.scoring.quality` found, None if the result was not scored here, `submission_bytes` its size as it travels, None if
    it is withheld. `candidates` are the fields of a `pipeline.Candidate` each, in the order they were made.
    """

    key: int
    at: float
    seed: int
    seeds: tuple[int, ...]
    seconds: Mapping[str, float]
    statistics: Mapping[str, float]
    local_score: float | None
    submission_bytes: int | None
    candidates: tuple[Mapping[str, Value], ...] = ()

    def statement(self) -> Statement:
        """As SQL."""
        columns: dict[str, Value] = {
            "generated_at": self.at,
            "seed": self.seed,
            "seeds": json.dumps(self.seeds),
            "stages": json.dumps({stage: round(seconds, 4) for stage, seconds in self.seconds.items()}),
            "generation_seconds": sum(self.seconds.values()),
            "local_score": self.local_score,
            "submission_bytes": self.submission_bytes,
            "candidates": json.dumps([dict(candidate) for candidate in self.candidates]) if self.candidates else None,
        }
        columns |= {name: self.statistics.get(name) for name in FIGURES}
        return _update(self.key, columns)


@dataclass(frozen=True)
class GenerationFailed:
    """There is no result, and why; what is answered instead comes as SubmissionAnswered."""

    key: int
    at: float
    error: str

    def statement(self) -> Statement:
        """As SQL."""
        return _update(self.key, {"generated_at": self.at, "error": _text(self.error)})


@dataclass(frozen=True)
class SubmissionAnswered:
    """A submission was answered; `outcome` is the value of a miner.pull.responses.Outcome.

    `score` may be the feedback's number as it came: it is kept only with an accepted result, since 0.0 stands for any
    failure. `cooldown_until` is the validator's unix time. After a submission of unknown fate another may follow; the
    first verdict of a task is the one that stays. A pushed task has no verdict: its outcome is "unknown".
    """

    key: int
    at: float
    outcome: str
    score: float | None = None
    cooldown_until: float | None = None

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"{self.outcome!r} is none of the outcomes {', '.join(OUTCOMES)}")

    def statement(self) -> Statement:
        """As SQL."""
        scored = self.outcome == "accepted" and self.score is not None and 0 < self.score < math.inf
        return (
            "UPDATE tasks SET answered_at = :at, outcome = :outcome, score = :score, "  # noqa: S608
            "cooldown_until = :cooldown_until, submissions = submissions + 1 "
            f"WHERE key = :key AND (outcome IS NULL OR outcome NOT IN {CLOSED})",
            {
                "key": self.key,
                "at": self.at,
                "outcome": self.outcome,
                "score": self.score if scored else None,
                "cooldown_until": self.cooldown_until or None,
            },
        )


@dataclass(frozen=True)
class PhaseChanged:
    """From now on a phase shapes results; `yaml` is all of its settings, so that any can be had again."""

    at: float
    phase: str
    action: Literal["start", "apply", "rollback", "automatic"]
    config_hash: str
    yaml: str

    def statement(self) -> Statement:
        """As SQL."""
        return _insert("phases", dict(vars(self)))


@dataclass(frozen=True)
class ExperimentStarted:
    """Tasks are shared out among `arms`, phase to weight, from now on; with `seed` the shares can be drawn again."""

    name: str
    at: float
    seed: int
    arms: Mapping[str, int]

    def statement(self) -> Statement:
        """As SQL."""
        arms = json.dumps(dict(self.arms))
        return _insert("experiments", {"name": self.name, "started_at": self.at, "seed": self.seed, "arms": arms})


@dataclass(frozen=True)
class ExperimentEnded:
    """No more tasks are shared out; `decision` says why."""

    name: str
    at: float
    decision: str

    def statement(self) -> Statement:
        """As SQL."""
        values: dict[str, Value] = {"name": self.name, "at": self.at, "decision": self.decision}
        return "UPDATE experiments SET ended_at = :at, decision = :decision WHERE name = :name", values


@dataclass(frozen=True)
class TasksDeleted:
    """Tasks assigned before this moment are to be deleted."""

    before: float

    def statement(self) -> Statement:
        """As SQL."""
        return "DELETE FROM tasks WHERE assigned_at < :before", {"before": self.before}


Event = (
    TaskStarted
    | ResultGenerated
    | GenerationFailed
    | SubmissionAnswered
    | PhaseChanged
    | ExperimentStarted
    | ExperimentEnded
    | TasksDeleted
)


def _insert(table: str, columns: dict[str, Value]) -> Statement:
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) VALUES (:{', :'.join(columns)})", columns  # noqa: S608


def _update(key: int, columns: dict[str, Value]) -> Statement:
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    return f"UPDATE tasks SET {changes} WHERE key = :key", columns | {"key": key}  # noqa: S608
