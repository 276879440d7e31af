"""Whether every task has ended, and the same way for its validator and in the miner's ledger."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from miner.ledger import LedgerReader, Outcome, TaskRow
from miner.localnet import SubmissionVerdict
from scripts.validation.soak.book import Book, TaskFacts, Violation

# By the verdict of a pulled task's validator, what the ledger must have if the answer reached the miner.
EXPECTED: dict[str, Outcome] = {
    SubmissionVerdict.ACCEPTED.value: Outcome.ACCEPTED,
    SubmissionVerdict.REJECTED.value: Outcome.REJECTED,
    SubmissionVerdict.SKIPPED.value: Outcome.SKIPPED,
    SubmissionVerdict.NOT_VALIDATED.value: Outcome.NOT_VALIDATED,
}
# A step of the clock may show in pulls for so long: a cooldown, and a restart.
STEP_SECONDS = 60.0
# A miner that was killed learns within this time what became of a task that it had submitted.
LEARNING_SECONDS = 60.0
# Records wait in memory while the ledger is locked, and until the miner tries again.
LOCK_SECONDS = 25.0
# What was written is in the ledger's file itself, and a -wal that was deleted is noticed, within this time.
CHECKPOINT_SECONDS = NOTICING_SECONDS = 8.0

Rows = dict[tuple[str, str], list[TaskRow]]


@dataclass(frozen=True)
class LedgerLoss:
    """Moments of the steady clock between which records may be lost with the ledger, and what was done to it."""

    begin: float
    end: float
    reason: str


@dataclass(frozen=True)
class Disagreement:
    """A task of which the ledger says something else than its validator; `excuse` is the fault that explains it."""

    facts: TaskFacts
    ledger: str
    excuse: str


@dataclass(frozen=True)
class Accounts:
    """What became of all tasks. `ends` counts them by transport and end; what is open at the end has the end "open"."""

    ends: Counter[tuple[str, str]]
    disagreements: tuple[Disagreement, ...]
    latencies: dict[str, list[float]]

    @property
    def lost(self) -> list[Disagreement]:
        """The disagreements that no fault explains."""
        return [each for each in self.disagreements if not each.excuse]


def losses_of_kill(killed: float, locked_since: float, wal_deleted_at: float) -> list[LedgerLoss]:
    """Return what a kill may have cost of records in memory, or in a -wal of which only the miner still had hold."""
    losses = []
    if killed - locked_since < LOCK_SECONDS:
        losses.append(LedgerLoss(locked_since, killed, "killed while the ledger was locked"))
    if killed - wal_deleted_at < NOTICING_SECONDS:
        reason = "killed before it noticed that the -wal was deleted"
        losses.append(LedgerLoss(wal_deleted_at - CHECKPOINT_SECONDS, killed, reason))
    return losses


def read_rows(ledgers: Iterable[Path]) -> Rows:
    """Return the rows of all ledgers by validator and task, of each row the one that knows most."""
    latest: dict[int, TaskRow] = {}
    for path in ledgers:
        with LedgerReader(path) as reader:
            for row in reader.tasks():
                known = latest.get(row.key, row)
                latest[row.key] = max(known, row, key=lambda each: (each.outcome is not None, each.submissions))
    rows: defaultdict[tuple[str, str], list[TaskRow]] = defaultdict(list)
    for row in sorted(latest.values()):
        rows[row.validator, row.task_id].append(row)
    return dict(rows)


def check_integrity(ledger: Path) -> str:
    """Return what SQLite finds wrong with a ledger; "ok" if it is whole."""
    with closing(sqlite3.connect(ledger)) as database:
        try:
            return str(database.execute("PRAGMA integrity_check").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)


def take_accounts(book: Book, rows: Rows, losses: Sequence[LedgerLoss]) -> Accounts:
    """Compare what the validators know of each task with the ledger, from which some may be lost."""
    ends: Counter[tuple[str, str]] = Counter()
    latencies: dict[str, list[float]] = {"pull": [], "push": []}
    disagreements = []
    for facts in book.tasks.values():
        end = facts.verdict or ("not held" if facts.is_forgotten else "open")
        ends[facts.transport, end] += 1
        if facts.seconds is not None:
            latencies[facts.transport].append(facts.seconds)
        found = rows.get((facts.hotkey, facts.task_id), [])
        agrees = _agrees_pulled if facts.transport == "pull" else _agrees_pushed
        if not agrees(book, facts, found):
            told = ", ".join(row.outcome or f"open, error {row.error}" for row in found) or "nothing"
            disagreements.append(Disagreement(facts, told, _find_excuse(book, facts, losses)))
    return Accounts(ends, tuple(disagreements), latencies)


def _agrees_pulled(book: Book, facts: TaskFacts, found: Sequence[TaskRow]) -> bool:
    final = next((row.outcome for row in found if row.outcome and Outcome(row.outcome).closes), None)
    last = found[-1].outcome if found else None
    if facts.verdict:
        expected = EXPECTED.get(facts.verdict)
        was_told = facts.closing is not None and book.has_reached_miner(facts.closing)
        # After an earlier submission without an answer, or a task that was closed twice, a rejection is none for sure.
        is_repeated = facts.submissions > 1
        allowed = {expected} | ({Outcome.CLOSED_WITHOUT_SCORE} if not was_told or is_repeated else set())
        return final in allowed
    if facts.is_forgotten:
        may_have_arrived = facts.submissions > 0
        return last in {None, Outcome.NOT_HELD, Outcome.UNKNOWN} or (
            may_have_arrived and last in {Outcome.CLOSED_WITHOUT_SCORE, Outcome.STILL_OPEN}
        )
    return last in {None, Outcome.STILL_OPEN, Outcome.UNKNOWN}


def _agrees_pushed(book: Book, facts: TaskFacts, found: Sequence[TaskRow]) -> bool:
    row = found[-1] if found else None
    if facts.verdict == "answered":
        return row is not None and row.generated_at is not None and row.error is None
    if facts.verdict == "no_result":
        return row is not None and row.error is not None
    if facts.verdict == "refused":
        # Before it was read, or when it was done: the policy had changed, or the miner stopped.
        return row is None or row.outcome is None
    # Unanswered: only a miner that was killed or has not started yet answers nothing.
    return book.was_down(facts.assigned_at) or (facts.closing is not None and not book.has_reached_miner(facts.closing))


def _find_excuse(book: Book, facts: TaskFacts, losses: Sequence[LedgerLoss]) -> str:
    end = facts.closing.ended if facts.closing else facts.assigned_at
    if facts.closing and not book.has_reached_miner(facts.closing):
        # It was to learn of the end later.
        end += LEARNING_SECONDS
    return next((loss.reason for loss in losses if facts.assigned_at <= loss.end and loss.begin <= end), "")


def sort_violations(
    violations: Sequence[Violation], clock_steps: Sequence[float]
) -> tuple[list[Violation], list[Violation], list[Violation]]:
    """Return the violations without an excuse, those after a step of the clock, and those nobody could know of."""
    bare, stepped, learnt = [], [], []
    for violation in violations:
        if not violation.is_known:
            learnt.append(violation)
        elif any(0 <= violation.at - step <= STEP_SECONDS for step in clock_steps):
            stepped.append(violation)
        else:
            bare.append(violation)
    return bare, stepped, learnt
