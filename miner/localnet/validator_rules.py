"""The rules of a validator of subnet 17, without network and with any clock, for local validators and simulations.

They determine the answers in each state as of validator version 45.
"""

import base64
import copy
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import bittensor as bt

from miner.subnet.protocol import Feedback, ProtocolTask, PullTask, SubmitResults, submission_message

UNREGISTERED_COOLDOWN = 3600
OBSERVATION_WINDOW = 4 * 3600
INITIAL_RATING = 1500.0
# The weight of a new score in the moving average.
AVERAGE_WEIGHT = 0.05


@dataclass(frozen=True)
class ValidatorTiming:
    """The parameters of a validator's rules, in seconds and counts; the defaults are those of the subnet."""

    throttle_period: int = 30
    task_cooldown: int = 300
    cooldown_penalty: int = 600
    violations_threshold: int = 100
    violation_penalty: int = 10
    validation_lock: int = 30
    quality_threshold: float = 0.6


@dataclass
class MinerState:
    """The state that a validator keeps for one miner; times are unix seconds of its clock."""

    task: ProtocolTask | None = None
    assigned_at: float = 0.0
    cooldown_until: int = 0
    violations: int = 0
    locked_until: int = 0
    last_accepted: int = 0
    average: float = 1.0
    accepted: deque[int] = field(default_factory=deque)


class SubmissionVerdict(Enum):
    """The result of a submission."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    NOT_VALIDATED = "not_validated"
    BAD_SIGNATURE = "wrong_signature"
    WRONG_TASK = "wrong_task_id"
    LOCKED = "validation_lock"
    TOO_SOON = "too_soon"


# Returns the score of a task's result, from 0 to 1, or None if the validation service fails.
Validate = Callable[[ProtocolTask, str], Awaitable[float | None]]


@dataclass(eq=False)
class ValidatorRules:
    """A validator that assigns one task per miner, keeps cooldowns, counts violations and judges submissions.

    `next_task` may return None, other than in the subnet, and `now` returns unix time.
    """

    hotkey: str
    next_task: Callable[[], ProtocolTask | None]
    is_registered: Callable[[str], bool]
    now: Callable[[], float]
    timing: ValidatorTiming
    miners: dict[str, MinerState] = field(default_factory=dict, init=False)

    def save_state(self) -> dict[str, MinerState]:
        """Return a copy of the state that a validator keeps on its disk."""
        return copy.deepcopy(self.miners)

    def restore_state(self, state: dict[str, MinerState]) -> None:
        """Take over saved state, as a validator does when it restarts."""
        self.miners = copy.deepcopy(state)

    def pull(self, miner_hotkey: str, synapse: PullTask) -> None:
        """Put the answer into the synapse: a new task, the one that is assigned already, or the end of the cooldown."""
        now = self.now()
        if not self.is_registered(miner_hotkey):
            synapse.cooldown_until = int(now) + UNREGISTERED_COOLDOWN
            return
        miner = self.miners.setdefault(miner_hotkey, MinerState())
        if now < miner.cooldown_until:
            miner.violations += 1
            if miner.violations > self.timing.violations_threshold:
                miner.cooldown_until += self.timing.violation_penalty
            synapse.cooldown_until, synapse.cooldown_violations = miner.cooldown_until, miner.violations
            return
        if miner.task is None:
            miner.task, miner.assigned_at = self.next_task(), now
        if miner.task is not None:
            synapse.task = miner.task
            synapse.throttle_period = self.timing.throttle_period
            synapse.validation_threshold = self.timing.quality_threshold

    def find_refusal(self, miner_hotkey: str) -> str | None:
        """Return why a submission is refused with HTTP 403 before it is read, or None if it is accepted."""
        if not self.is_registered(miner_hotkey):
            return f"Unrecognized hotkey {miner_hotkey}"
        if self.miners.get(miner_hotkey, MinerState()).task is None:
            return "no task assigned; the validator may have restarted"
        return None

    async def submit(self, miner_hotkey: str, synapse: SubmitResults, validate: Validate) -> SubmissionVerdict:
        """Judge a submission and put the answer into the synapse. Raises ValueError if the signature is not base64."""
        miner = self.miners[miner_hotkey]
        feedback = Feedback()
        verdict = await self._judge(miner, miner_hotkey, synapse, feedback, validate)
        while miner.accepted and miner.accepted[0] <= int(self.now()) - OBSERVATION_WINDOW:
            miner.accepted.popleft()
        feedback.average_fidelity_score = miner.average
        feedback.generations_within_the_window = len(miner.accepted)
        feedback.current_duel_rating = INITIAL_RATING
        feedback.current_miner_reward = len(miner.accepted) * INITIAL_RATING
        synapse.results = synapse.signature = ""
        synapse.feedback, synapse.cooldown_until = feedback, miner.cooldown_until
        return verdict

    async def _judge(
        self, miner: MinerState, miner_hotkey: str, synapse: SubmitResults, feedback: Feedback, validate: Validate
    ) -> SubmissionVerdict:
        timing, task = self.timing, miner.task
        if task is None or task.id != synapse.task_id:
            return SubmissionVerdict.WRONG_TASK
        message = submission_message(synapse.submit_time, task.prompt, self.hotkey, miner_hotkey)
        signature = base64.b64decode(synapse.signature, validate=True)
        if not bt.Keypair(ss58_address=miner_hotkey).verify(message, signature):
            self._close(miner, penalty=True)
            return SubmissionVerdict.BAD_SIGNATURE
        miner.violations = max(miner.violations - 1, 0)
        if synapse.results == "":
            self._close(miner, penalty=False)
            return SubmissionVerdict.SKIPPED
        if miner.locked_until > self.now():
            return SubmissionVerdict.LOCKED
        miner.locked_until = int(self.now()) + timing.validation_lock
        score = await validate(task, synapse.results)
        if score is None:
            feedback.validation_failed = True
            self._close(miner, penalty=False)
            return SubmissionVerdict.NOT_VALIDATED
        # Another submission of the same task may have been judged meanwhile.
        if miner.last_accepted + timing.task_cooldown - timing.throttle_period > self.now():
            return SubmissionVerdict.TOO_SOON
        if score < timing.quality_threshold:
            self._close(miner, penalty=True)
            return SubmissionVerdict.REJECTED
        self._close(miner, penalty=False)
        feedback.task_fidelity_score = min(score, 1.0)
        miner.average += AVERAGE_WEIGHT * (feedback.task_fidelity_score - miner.average)
        miner.last_accepted = int(self.now())
        miner.accepted.append(miner.last_accepted)
        return SubmissionVerdict.ACCEPTED

    def _close(self, miner: MinerState, penalty: bool) -> None:
        timing, now = self.timing, self.now()
        cooldown = timing.task_cooldown + (timing.cooldown_penalty if penalty else 0)
        ends = now + cooldown
        # A task that another submission has closed already no longer has a time of assignment.
        if miner.task is not None:
            ends = max(ends - timing.throttle_period, miner.assigned_at + cooldown)
        miner.cooldown_until = int(ends)
        miner.task = None
