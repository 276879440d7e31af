"""Everything that is remembered of one validator."""

import math
from dataclasses import dataclass, field
from enum import Enum

from miner.ledger import Outcome
from miner.pull import responses
from miner.pull.estimates import ClockOffset
from miner.pull.store import Cooldown, EarlierTask
from miner.subnet.protocol import ProtocolTask

# Added to a cooldown where the validator does not tell its time and ours has to do.
UNKNOWN_CLOCK_MARGIN = 2.0
# A submission less than 30 s after the validation of an earlier one began is ignored.
LOCK_DELAY = 31.0
# A moment before all others that is still a number in JSON.
LONG_AGO = -1e12
# No response makes us wait longer, so that one absurd number, or a clock that is wrong, does not lose a validator.
MAX_WAIT = responses.MAX_COOLDOWN
# From the assignment of a task, of a validator of which no cooldown is known.
USUAL_COOLDOWN = 300.0


class Stage(Enum):
    """What is going on with the validator."""

    IDLE = "idle"
    PULLING = "pulling"
    HOLDING = "holding a task"
    SUBMITTING = "submitting"
    WAITING = "waiting"


@dataclass(frozen=True)
class HeldTask:
    """The last task we were given; kept after it was closed, since a validator may fall back to an older state.

    `assigned_at` is the earliest moment at which the validator's 30 s can have begun. `result` is the file to submit,
    empty to skip the task, None until the generation is finished. `submitted_at` is the last moment at which a
    submission left that may have arrived. `threshold` is that of `TaskAssigned`.
    """

    task: ProtocolTask
    assigned_at: float
    throttle_period: float
    result: bytes | None = None
    submitted_at: float | None = None
    threshold: float | None = None

    @property
    def id(self) -> str:
        """The validator's id of the task."""
        return self.task.id


@dataclass(frozen=True)
class ValidatorState:
    """Everything that is remembered of one validator.

    No pull is sent before `pull_after`; `cooldown_end` is the part of it that the validator imposed, and
    `cooldown_seconds` how long the last cooldown was, counted from the assignment of its task. `asked_at` is when the
    first pull left that may have got us a task but brought no response. `submitting_since` is when the submission left
    that is under way. `failed_pulls` and `failed_submissions` count failures in a row. `earlier` is a task that was in
    hand before our restart, until the validator shows what became of it.
    """

    stage: Stage = Stage.IDLE
    pull_after: float = -math.inf
    cooldown_end: float = -math.inf
    cooldown_seconds: float | None = None
    held: HeldTask | None = None
    asked_at: float | None = None
    submitting_since: float | None = None
    failed_pulls: int = 0
    failed_submissions: int = 0
    clock: ClockOffset = field(default_factory=ClockOffset)
    earlier: EarlierTask | None = None

    @staticmethod
    def restored(cooldown: Cooldown, now: float) -> "ValidatorState":
        """Return the state of a validator of which only what was stored before a restart is known.

        After a submission without an answer, the first pull waits until it can be no violation if it was accepted.
        """
        end, task = min(cooldown.cooldown_end, now + MAX_WAIT), cooldown.task
        pull_after = end
        if task is not None and task.submitted_at is not None:
            expected = task.assigned_at + (cooldown.cooldown_seconds or USUAL_COOLDOWN) + UNKNOWN_CLOCK_MARGIN
            pull_after = min(max(end, task.submitted_at + LOCK_DELAY, expected), now + MAX_WAIT)
        return ValidatorState(
            pull_after=pull_after, cooldown_end=end, cooldown_seconds=cooldown.cooldown_seconds, earlier=task
        )

    def to_store(self) -> Cooldown:
        """Return what is to outlive a restart."""
        task = self.earlier
        if self.held is not None and (self.is_busy or self.failed_submissions):
            task = EarlierTask(
                id=self.held.id,
                type=self.held.task.type,
                assigned_at=self.held.assigned_at,
                submitted_at=self.submitting_since or self.held.submitted_at,
            )
        end = max(self.cooldown_end, LONG_AGO)
        return Cooldown(cooldown_end=end, cooldown_seconds=self.cooldown_seconds, task=task)

    def infer_end(self, response: responses.PullResponse) -> Outcome | None:
        """Return how a task must have ended whose end no response told; None if there is none, or it goes on.

        A validator that holds a task for us hands it back at each pull. One that does not has closed it if a result may
        have arrived, and has forgotten it otherwise.
        """
        task = self.held if self.failed_submissions else self.earlier
        if task is None or isinstance(response, responses.NotRegistered | responses.PullFailed):
            return None
        if isinstance(response, responses.TaskAssigned) and response.task.id == task.id:
            return None
        return Outcome.NOT_HELD if task.submitted_at is None else Outcome.CLOSED_WITHOUT_SCORE

    @property
    def is_busy(self) -> bool:
        """Whether a task is in our hands."""
        return self.stage in (Stage.HOLDING, Stage.SUBMITTING)
