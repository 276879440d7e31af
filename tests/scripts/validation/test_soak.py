"""The small version of scripts.validation.soak, and the parts of it that could hide a fault."""

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from miner.ledger import Outcome
from miner.localnet import SubmissionVerdict
from scripts.validation.soak.accounts import (
    LedgerLoss,
    check_integrity,
    losses_of_kill,
    sort_violations,
    take_accounts,
)
from scripts.validation.soak.book import Book, Exchange, TaskFacts, Violation
from scripts.validation.soak.faults import FAULTS
from scripts.validation.soak.log_check import FaultRecord, LogEntry, find_unexplained, to_entries
from scripts.validation.soak.output import write_output
from scripts.validation.soak.plan import Plan, soak
from scripts.validation.soak.processes import Sample
from scripts.validation.soak.schedule import draw_schedule
from scripts.validation.soak.verdict import Row, Verdict, memory_growth, quantile
from tests.support.task_rows import task_row

# Loading a second checkpoint and deciding an experiment take minutes.
SHORT = tuple(name for name in FAULTS if name not in ("swap", "split"))
ACCEPTED = SubmissionVerdict.ACCEPTED.value


@pytest.mark.slow
@pytest.mark.process
def test_nothing_is_lost_while_everything_goes_wrong(tmp_path: Path) -> None:
    """A kill among the faults that go with kills, and then all faults but the longest."""
    scene, course, verdict = soak(tmp_path / "miner", Plan(minutes=0.55, seed=19, kills=1, spacing=1.6, faults=SHORT))
    write_output(tmp_path / "output", scene, course, verdict)
    assert verdict.details == ()
    assert [str(row) for row in verdict.rows if row.is_right is False] == []
    assert len(scene.book.tasks) > 8
    assert len(scene.book.kills) == course.kills_checked == 1
    ready = scene.book.starts[-1]
    assert any(fault.began < scene.book.kills[0] for fault in course.faults)
    assert len({fault.name for fault in course.faults if fault.began > ready}) > 10
    with Image.open(tmp_path / "output" / "soak.png") as picture:
        assert picture.width > 1000


def facts(verdict: str, **changes: object) -> TaskFacts:
    plain = TaskFacts("good", "5V", "1", "pull", "text", 100.0, verdict, "", Exchange(104.0, 105.0), 104.0, 1)
    return replace(plain, **changes)  # type: ignore[arg-type]


def book_of(*tasks: TaskFacts, kills: tuple[float, ...] = ()) -> Book:
    book = Book(patience=10.0, kills=list(kills))
    for task in tasks:
        book.add(task)
    return book


def is_lost(task: TaskFacts, outcome: str | None, *, kills: tuple[float, ...] = ()) -> bool:
    rows = {("5V", "1"): [task_row(1, outcome)]} if outcome != "missing" else {}
    return bool(take_accounts(book_of(task, kills=kills), rows, []).lost)


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (SubmissionVerdict.ACCEPTED, Outcome.ACCEPTED),
        (SubmissionVerdict.REJECTED, Outcome.REJECTED),
        (SubmissionVerdict.SKIPPED, Outcome.SKIPPED),
        (SubmissionVerdict.NOT_VALIDATED, Outcome.NOT_VALIDATED),
    ],
)
def test_every_verdict_must_be_in_the_ledger(verdict: SubmissionVerdict, outcome: Outcome) -> None:
    task = facts(verdict.value)
    assert not is_lost(task, outcome)
    for other in {*Outcome, None, "missing"} - {outcome}:
        assert is_lost(task, other), other
    # A verdict that the miner was never told.
    assert not is_lost(task, Outcome.CLOSED_WITHOUT_SCORE, kills=(105.2,))
    assert not is_lost(replace(task, closing=Exchange(104.0, 115.0)), Outcome.CLOSED_WITHOUT_SCORE)
    assert is_lost(task, None, kills=(105.2,))


def test_a_signature_that_is_wrong_is_never_right() -> None:
    assert is_lost(facts(SubmissionVerdict.BAD_SIGNATURE.value), Outcome.REJECTED)


def test_a_task_of_the_time_of_the_ledgers_replacement_is_excused_and_told() -> None:
    accounts = take_accounts(book_of(facts(ACCEPTED)), {}, [LedgerLoss(103.0, 110.0, "replaced")])
    assert [each.excuse for each in accounts.disagreements] == ["replaced"]
    assert take_accounts(book_of(facts(ACCEPTED)), {}, [LedgerLoss(106.0, 110.0, "replaced")]).lost


def test_a_kill_may_cost_what_a_lock_or_a_deleted_wal_held_up() -> None:
    kept = losses_of_kill(killed=106.0, locked_since=10.0, wal_deleted_at=90.0)
    assert take_accounts(book_of(facts(ACCEPTED)), {}, kept).lost
    for moments in ({"locked_since": 103.0, "wal_deleted_at": 90.0}, {"locked_since": 10.0, "wal_deleted_at": 104.0}):
        losses = losses_of_kill(killed=106.0, **moments)
        assert [loss.reason.split()[0] for loss in losses] == ["killed"]
        assert not take_accounts(book_of(facts(ACCEPTED)), {}, losses).lost


def test_pushed_tasks() -> None:
    push = {"transport": "push", "submissions": 0}
    assert is_lost(facts("answered", **push), "missing")
    assert not is_lost(facts("refused", **push), "missing")
    assert is_lost(facts("unanswered", **push), "missing")
    assert not is_lost(facts("unanswered", **push), "missing", kills=(104.5,))
    # A miner that had not started again yet.
    assert not is_lost(facts("unanswered", **push), "missing", kills=(99.0,))
    rows = {("5V", "1"): [task_row(1, Outcome.UNKNOWN, generated_at=1.0)]}
    assert not take_accounts(book_of(facts("answered", **push)), rows, []).lost


def test_violations_are_excused_by_steps_of_the_clock_and_by_lost_answers_only() -> None:
    known, unknown = Violation("good", 100.0, 5.0, True), Violation("good", 100.0, 5.0, False)
    assert sort_violations([known, unknown], []) == ([known], [], [unknown])
    assert sort_violations([known], [90.0]) == ([], [known], [])
    assert sort_violations([known], [10.0, 110.0]) == ([known], [], [])


LINE = "2026-11-28 10:00:00 | {} | {}"
FAULT = FaultRecord("disk", 10.0, 20.0, "disk full", (r"cannot be written",))


def test_errors_are_explained_by_the_faults_of_their_time_only() -> None:
    lines = [
        (5.0, LINE.format("ERROR", "the file cannot be written")),
        (15.0, LINE.format("ERROR", "the file cannot be written")),
        (16.0, LINE.format("ERROR", "something else")),
        (17.0, LINE.format("WARNING", "no more than a warning")),
        (18.0, "INJECTED scorer"),
        (60.0, LINE.format("ERROR", "the file cannot be written")),
        (61.0, LINE.format("INFO", "it goes on")),
        (62.0, "Traceback (most recent call last):"),
        (62.0, "  File x"),
        (62.0, "ValueError: y"),
        (63.0, LINE.format("INFO", "it goes on")),
        (64.0, "Fatal Python error"),
    ]
    unexplained = find_unexplained(to_entries(lines), [FAULT])
    assert [entry.at for entry in unexplained] == [5.0, 16.0, 60.0, 61.0, 64.0]
    assert unexplained[3].text.endswith("Traceback (most recent call last):\n  File x\nValueError: y")
    # An exception is never explained.
    text = f"{LINE.format('ERROR', 'cannot be written')}\nTraceback (most recent call last):\nValueError"
    assert find_unexplained([LogEntry(15.0, text)], [FAULT])


def test_a_schedule_has_rounds_of_all_faults_and_follows_from_its_seed() -> None:
    names = ["a", "b", "c", "d"]
    schedule = draw_schedule(names, 1000.0, 50.0, random.Random(1))
    assert schedule == draw_schedule(names, 1000.0, 50.0, random.Random(1))
    assert schedule != draw_schedule(names, 1000.0, 50.0, random.Random(2))
    assert [sorted(each.fault for each in schedule[index : index + 4]) for index in (0, 4, 8)] == [names] * 3
    assert all(5.0 <= each.at < 900.0 for each in schedule)
    assert draw_schedule([], 1000.0, 50.0, random.Random(1)) == []


def test_figures() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    # Half of the time, a task takes 500 more.
    memory = [1000 + (second > 1500) * 30 + second % 2 * 500 for second in range(1800)]
    samples = [Sample(float(second), kept, 1, 1, 1) for second, kept in enumerate(memory)]
    assert memory_growth(samples, 0.05) == pytest.approx(0.03)
    assert memory_growth(samples, 0.9) == pytest.approx(0.02)
    assert memory_growth(samples[:600], 0.05) is None
    assert Verdict((Row("a", "b"), Row("c", "d", True)), ()).has_passed
    assert not Verdict((Row("a", "b"), Row("c", "d", False)), ()).has_passed


def test_a_damaged_ledger_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [("y" * 1000,)] * 100)
        database.commit()
    assert check_integrity(path) == "ok"
    content = bytearray(path.read_bytes())
    content[8192:16384] = bytes(8192)
    path.write_bytes(content)
    assert check_integrity(path) != "ok"
