"""The record of what became of each task, in one SQLite file."""

from miner.ledger.events import (
    ArmAssignment,
    Event,
    ExperimentEnded,
    ExperimentStarted,
    GateVerdict,
    GenerationFailed,
    PhaseAssignment,
    PhaseChanged,
    ResultGenerated,
    Stratum,
    SubmissionAnswered,
    TasksDeleted,
    TaskStarted,
)
from miner.ledger.outcomes import CLOSING, Outcome
from miner.ledger.reader import (
    ExperimentRow,
    LedgerReader,
    PhaseRow,
    TaskRow,
    ValidatorRow,
    query_ledger,
    read_open_tasks,
)
from miner.ledger.recorder import TaskRecord, TaskRecorder
from miner.ledger.schema import SPLAT_COLUMNS, open_for_writing
from miner.ledger.writer import LedgerStatus, LedgerWriter

__all__ = [
    "CLOSING", "SPLAT_COLUMNS", "ArmAssignment", "Event", "ExperimentEnded", "ExperimentRow", "ExperimentStarted",
    "GateVerdict", "GenerationFailed", "LedgerReader", "LedgerStatus", "LedgerWriter", "Outcome", "PhaseAssignment",
    "PhaseChanged", "PhaseRow", "ResultGenerated", "Stratum", "SubmissionAnswered", "TaskRecord", "TaskRecorder",
    "TaskRow", "TaskStarted", "TasksDeleted", "ValidatorRow", "open_for_writing", "query_ledger", "read_open_tasks",
]  # fmt: skip
