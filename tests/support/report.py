"""The report as a command, and ledgers of a few tasks for it."""

import time
from pathlib import Path

from miner.ledger.events import (
    PhaseAssignment,
    ResultGenerated,
    SubmissionAnswered,
    TaskStarted,
)
from miner.ledger.outcomes import Outcome
from miner.ledger.writer import LedgerWriter
from tests.support.cli import run


def run_report(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of `sn17-miner report ARGUMENTS`."""
    result = run("report", *arguments)
    return result.exit_code, result.stdout, result.stderr


def few(path: Path, outcomes: list[tuple[str, str]], validator: str = "5V", at: float | None = None) -> None:
    ledger = LedgerWriter(path)
    for number, (phase, outcome) in enumerate(outcomes):
        key = ledger.new_key()
        moment = time.time() if at is None else at
        ledger.record(
            TaskStarted(
                key, moment, "pull", validator, 3, str(number), "image", PhaseAssignment(phase, "h" * 12, None), "1"
            )
        )
        if phase == "a":
            ledger.record(ResultGenerated(key, moment + 4, 1, (1,), {"structure": 2.0}, {}, 0.5, 9))
        ledger.record(SubmissionAnswered(key, moment + 5, Outcome(outcome), score=0.7))
    assert ledger.close(30)
