"""Records the life of each task in the ledger, from its assignment to its last answer."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from miner.ledger import events
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import TaskRow
from miner.ledger.schema import splat_columns
from miner.ledger.writer import LedgerWriter

if TYPE_CHECKING:
    from pipeline import BestResult, Candidate, CutOutRecord, Score

Transport = Literal["pull", "push"]
TaskType = Literal["text", "image"]


class TaskRecorder:
    """Opens a record for each task; events also go to an observer, which the metrics are."""

    def __init__(
        self,
        ledger: LedgerWriter | None = None,
        code_version: str = "",
        uid_of: Callable[[str], int | None] = lambda _hotkey: None,
        open_tasks: Iterable[TaskRow] = (),
        observe: Callable[[events.Event], None] = lambda _event: None,
    ) -> None:
        """Record in `ledger`, or nowhere if it is None.

        `uid_of` returns a hotkey's present uid. `open_tasks` are pulled tasks of before a restart that validators may
        hand back. `observe` is called with every event, from any thread.
        """
        self.code_version = code_version
        self.uid_of = uid_of
        self._ledger = ledger
        self._observe = observe
        self._open_tasks = {(row.validator, row.task_id): row for row in open_tasks}

    def open(self, transport: Transport, validator: str, task_id: str, task_type: TaskType) -> "TaskRecord":
        """Return the record of a task that has just been assigned; one from before a restart is continued."""
        row = self._open_tasks.pop((validator, task_id), None) if transport == "pull" else None
        if row is None:
            return TaskRecord(self, transport, validator, task_id, task_type, self.new_key(), None)
        return TaskRecord(self, transport, validator, task_id, task_type, row.key, _assignment_of(row))

    def record(self, event: events.Event) -> None:
        """Hand an event to the observer and to the ledger."""
        self._observe(event)
        if self._ledger is not None:
            self._ledger.record(event)

    def new_key(self) -> int:
        """Return a key for a new row; see `LedgerWriter.new_key`."""
        return time.time_ns() if self._ledger is None else self._ledger.new_key()


@dataclass(eq=False)
class TaskRecord:
    """One task in the ledger, by its row's `key`; begun again with another `assignment`, it gets another row."""

    recorder: TaskRecorder
    transport: Transport
    validator: str
    task_id: str
    task_type: TaskType
    key: int
    assignment: events.PhaseAssignment | None

    @property
    def stratum(self) -> events.Stratum:
        """The tasks among which an experiment balances its arms."""
        return events.Stratum(self.validator, self.task_type)

    def start(self, assignment: events.PhaseAssignment) -> None:
        """Record that the generation is about to begin."""
        if self.assignment == assignment:
            return
        if self.assignment is not None:
            self.key = self.recorder.new_key()
        self.assignment = assignment
        self.recorder.record(
            events.TaskStarted(
                key=self.key,
                at=time.time(),
                transport=self.transport,
                validator=self.validator,
                uid=self.recorder.uid_of(self.validator),
                task_id=self.task_id,
                task_type=self.task_type,
                assignment=assignment,
                code_version=self.recorder.code_version,
            )
        )

    def generated(
        self,
        best: "BestResult",
        submission_bytes: int | None,
        threshold: float | None = None,
        gate: events.GateVerdict | None = None,
        pass_probability: float | None = None,
    ) -> None:
        """Record a result; see `ResultGenerated`."""
        score = _score_columns(best.score)
        self.recorder.record(
            events.ResultGenerated(
                key=self.key,
                at=time.time(),
                seed=best.asset.seed,
                seeds=tuple(candidate.seed for candidate in best.candidates),
                seconds=best.asset.seconds,
                statistics=splat_columns(vars(best.asset.statistics)),
                submission_bytes=submission_bytes,
                candidates=tuple(_columns(candidate) for candidate in best.candidates),
                quality=score["quality"],
                alignment=score["alignment"],
                ssim=score["ssim"],
                lpips=score["lpips"],
                estimated_score=score["estimated_score"],
                threshold=threshold,
                gate=gate,
                pass_probability=pass_probability,
                mattings=tuple(map(_cut_out_columns, best.asset.cut_outs)),
            )
        )

    def failed(self, error: Exception) -> None:
        """Record that there is no result, and why."""
        self.recorder.record(events.GenerationFailed(self.key, time.time(), f"{type(error).__name__}: {error}"))

    def answered(self, outcome: Outcome, score: float | None = None, cooldown_until: float | None = None) -> None:
        """Record the answer to a submission; see `SubmissionAnswered`."""
        self.recorder.record(events.SubmissionAnswered(self.key, time.time(), outcome, score, cooldown_until))

    def ended(self, outcome: Outcome, cooldown_until: float | None) -> None:
        """Record an outcome that no answer told but that followed from a later one."""
        self.recorder.record(events.SubmissionAnswered(self.key, time.time(), outcome, None, cooldown_until, 0))


def _score_columns(score: "Score | None") -> dict[str, float | None]:
    """Return the columns of a score; a part that is no number is stored as absent, as SQLite and JSON know none."""
    if score is None:
        return dict.fromkeys(("quality", "alignment", "ssim", "lpips", "estimated_score"))
    columns = vars(score) | {"estimated_score": score.total}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in columns.items()}


def _cut_out_columns(cut_out: "CutOutRecord") -> dict[str, object]:
    """Return what models made of a picture, and which one was chosen; see `ResultGenerated`."""
    numbers = [
        {
            "model": matting.model,
            "expected_iou": round(matting.expected_iou, 4),
            "flaw": matting.flaw,
            **{name: value and round(value, 4) for name, value in vars(matting.measures).items()},
        }
        for matting in cut_out.mattings
    ]
    return {"chosen": cut_out.model, "models": numbers}


def _columns(candidate: "Candidate") -> dict[str, events.Value]:
    """Return the fields of a candidate, flat."""
    return {
        "seed": candidate.seed, "seconds": candidate.seconds, "fate": candidate.fate, "problem": candidate.problem,
        "voxels": candidate.voxels,
        **_score_columns(candidate.score),
    }  # fmt: skip


def _assignment_of(row: TaskRow) -> events.PhaseAssignment:
    arm = None
    if row.experiment is not None and row.arm is not None and row.turn is not None:
        arm = events.ArmAssignment(row.experiment, row.arm, row.turn)
    return events.PhaseAssignment(row.phase, row.config_hash, arm)
