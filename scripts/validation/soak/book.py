"""What the validators of a soak know of each task and of each pull that came too early."""

import math
import time
from dataclasses import dataclass, field
from typing import Literal

from miner.localnet import SubmissionVerdict

# An answer that was sent less than this before the miner was killed may not have been read.
READING_SECONDS = 1.0
CLOSING = (
    SubmissionVerdict.ACCEPTED,
    SubmissionVerdict.REJECTED,
    SubmissionVerdict.SKIPPED,
    SubmissionVerdict.NOT_VALIDATED,
    SubmissionVerdict.BAD_SIGNATURE,
)


@dataclass(frozen=True)
class Exchange:
    """When a validator got a request and had its answer ready, in moments of the steady clock."""

    began: float
    ended: float


@dataclass
class TaskFacts:
    """One task as its validator knows it; moments are those of the steady clock.

    `verdict` is that of the first submission that closed a pulled task, and for a pushed one "answered", "no_result",
    "refused" or "unanswered"; "" while it is open. `closing` is the exchange of the verdict, `first_arrival` when the
    first submission came. `is_forgotten`: the validator has restarted without it, or a late verdict on an earlier task
    has closed it.
    """

    validator: str
    hotkey: str
    task_id: str
    transport: Literal["pull", "push"]
    task_type: str
    assigned_at: float
    verdict: str = ""
    reason: str = ""
    closing: Exchange | None = None
    first_arrival: float | None = None
    submissions: int = 0
    is_forgotten: bool = False

    @property
    def seconds(self) -> float | None:
        """The seconds from the assignment to the arrival of the first result; None if none came."""
        return None if self.first_arrival is None else self.first_arrival - self.assigned_at


@dataclass(frozen=True)
class Violation:
    """A pull during a cooldown. `is_known`: an answer that told of the cooldown had reached the miner."""

    validator: str
    at: float
    seconds_early: float
    is_known: bool


@dataclass
class Book:
    """All tasks and violations of a soak, written by the threads of all validators.

    `patience` is how long the miner waits for the answer to a submission. `kills` are the moments of its deaths,
    `starts` those at which it was ready.
    """

    patience: float
    tasks: dict[tuple[str, str], TaskFacts] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    def add(self, facts: TaskFacts) -> None:
        """Add a task that was assigned."""
        self.tasks[facts.hotkey, facts.task_id] = facts

    def has_reached_miner(self, exchange: Exchange) -> bool:
        """Return whether the miner must have read the answer of an exchange."""
        began, end = exchange.began, exchange.ended + READING_SECONDS
        was_alive = not any(began <= kill <= end for kill in self.kills)
        return was_alive and exchange.ended - began < self.patience - READING_SECONDS

    def was_down(self, moment: float) -> bool:
        """Return whether the miner had been killed and was not ready again."""
        killed = max((kill for kill in self.kills if kill <= moment), default=-math.inf)
        started = max((start for start in self.starts if start <= moment), default=-math.inf)
        return killed > started

    def submitted(self, hotkey: str, task_id: str, arrived: float) -> None:
        """Take note that a submission has arrived."""
        if (facts := self.tasks.get((hotkey, task_id))) is not None:
            facts.submissions += 1
            facts.first_arrival = facts.first_arrival or arrived

    def judged(self, hotkey: str, task_id: str, verdict: SubmissionVerdict, began: float) -> None:
        """Take note of the verdict on a submission that came at `began`; the first one that closes the task counts."""
        facts = self.tasks.get((hotkey, task_id))
        if facts is not None and verdict in CLOSING and not facts.verdict:
            facts.verdict, facts.closing = verdict.value, Exchange(began, time.monotonic())

    def keep_only(self, hotkey: str, held: str | None) -> None:
        """Take note that of a validator's open tasks it holds none but one: others have no verdict to come."""
        for facts in self.open_tasks():
            if facts.hotkey == hotkey and facts.transport == "pull":
                facts.is_forgotten = facts.task_id != held

    def open_tasks(self) -> list[TaskFacts]:
        """Return the tasks that have not ended."""
        return [facts for facts in self.tasks.values() if not facts.verdict and not facts.is_forgotten]
