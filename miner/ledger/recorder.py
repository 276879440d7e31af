"""What tasks tell the ledger: one entry for each, from its assignment to its last answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

from miner.errors import OperatorError
from miner.ledger.events import (
    ArmAssignment,
    Event,
    GenerationFailed,
    PhaseAssignment,
    ResultGenerated,
    Stratum,
    SubmissionAnswered,
    TaskStarted,
)
from miner.ledger.reader import LedgerReader, TaskRow
from miner.ledger.schema import figures
from miner.ledger.writer import LedgerWriter
from miner.phases.selector import TaskPlan
from pipeline import BestResult
from pipeline.splats.statistics import Statistics

log = logging.getLogger(__name__)

# Seconds after which nobody hands a task back any more.
LONGEST_HELD = 86_400.0

Transport = Literal["pull", "push"]
TaskType = Literal["text", "image"]
Answer = TypeVar("Answer")


class TaskRecorder:
    """Opens entries; without a ledger they are kept nowhere."""

    def __init__(
        self,
        ledger: LedgerWriter | None = None,
        code_version: str = "",
        uid_of: Callable[[str], int | None] = lambda _: None,
        unsettled: Iterable[TaskRow] = (),
        observe: Callable[[Event], None] = lambda _: None,
    ) -> None:
        """`uid_of` tells a hotkey's uid; `unsettled`: pulled tasks without a verdict that may be handed back to us.

        `observe` is told all that the ledger is told, from any thread.
        """
        self.ledger = ledger
        self.code_version = code_version
        self.uid_of = uid_of
        self._observe = observe
        self._unsettled = {(row.validator, row.task_id): row for row in unsettled}

    def entry(self, transport: Transport, validator: str, task_id: str, task_type: TaskType) -> Entry:
        """The entry of a task that has just been assigned; if it was before our restart, the same as then."""
        row = self._unsettled.pop((validator, task_id), None) if transport == "pull" else None
        return Entry(self, transport, validator, task_id, task_type, row)

    def record(self, event: Event) -> None:
        """Have it written."""
        self._observe(event)
        if self.ledger is not None:
            self.ledger.record(event)

    def new_key(self) -> int:
        """See LedgerWriter.new_key."""
        return time.time_ns() if self.ledger is None else self.ledger.new_key()


class Entry:
    """One task's. A task that is begun again with other settings gets another row."""

    def __init__(
        self,
        books: TaskRecorder,
        transport: Transport,
        validator: str,
        task_id: str,
        task_type: TaskType,
        row: TaskRow | None = None,
    ) -> None:
        self.task_id = task_id
        self.stratum = Stratum(validator, task_type)
        self.key = books.new_key() if row is None else row.key
        self.drawn = None if row is None else _drawn(row)
        self._books = books
        self._transport: Transport = transport
        self._task_type: TaskType = task_type

    def assigned(self, begun: TaskPlan) -> None:
        """Its generation is about to begin."""
        if self.drawn == begun.drawn:
            return
        if self.drawn is not None:
            self.key = self._books.new_key()
        self.drawn = begun.drawn
        self._books.record(
            TaskStarted(
                key=self.key,
                at=time.time(),
                transport=self._transport,
                validator=self.stratum.validator,
                uid=self._books.uid_of(self.stratum.validator),
                task_id=self.task_id,
                task_type=self._task_type,
                phase=self.drawn.phase,
                config_hash=self.drawn.config_hash,
                code_version=self._books.code_version,
                draw=self.drawn.draw,
            )
        )

    def generated(self, best: BestResult, statistics: Statistics, submission_bytes: int | None) -> None:
        """A result is ready to be sent, in so many bytes; None: it is withheld."""
        self._books.record(
            ResultGenerated(
                key=self.key,
                at=time.time(),
                seed=best.asset.seed,
                seeds=tuple(candidate.seed for candidate in best.candidates),
                seconds=best.asset.seconds,
                statistics=figures(vars(statistics)),
                local_score=best.quality,
                submission_bytes=submission_bytes,
                candidates=tuple(map(vars, best.candidates)),
            )
        )

    def failed(self, error: Exception) -> None:
        """There is no result."""
        self._books.record(GenerationFailed(self.key, time.time(), f"{type(error).__name__}: {error}"))

    def answered(self, outcome: str, score: float | None = None, cooldown_until: float | None = None) -> None:
        """What came of what was sent; see `miner.ledger.events.SubmissionAnswered`."""
        self._books.record(SubmissionAnswered(self.key, time.time(), outcome, score, cooldown_until))


def _drawn(row: TaskRow) -> PhaseAssignment:
    draw = None
    if row.experiment is not None and row.arm is not None and row.turn is not None:
        draw = ArmAssignment(row.experiment, row.arm, row.turn)
    return PhaseAssignment(row.phase, row.config_hash, draw)


def consult(path: Path, question: Callable[[LedgerReader], Answer], otherwise: Answer) -> Answer:
    """What a ledger says, `otherwise` if there is none yet or, with a warning, if it cannot be read. Blocks."""
    if not path.expanduser().exists():
        return otherwise
    try:
        with LedgerReader(path) as reader:
            return question(reader)
    except OperatorError as error:
        log.warning("What was before is not known: %s", error)
        return otherwise


def unsettled(path: Path) -> list[TaskRow]:
    """Pulled tasks that validators may hand back to us after a restart. Blocks."""
    since = time.time() - LONGEST_HELD
    return consult(path, lambda reader: reader.open_tasks(since), [])
