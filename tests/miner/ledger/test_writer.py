"""What the ledger records of tasks, phases and experiments, and what is read from it."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from miner.ledger.events import (
    ArmAssignment,
    ExperimentEnded,
    ExperimentStarted,
    GenerationFailed,
    PhaseChanged,
    SubmissionAnswered,
    TasksDeleted,
    TaskStarted,
)
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import ExperimentRow, LedgerReader, PhaseRow
from miner.ledger.schema import SPLAT_COLUMNS, splat_columns
from miner.ledger.writer import LedgerWriter
from pipeline.splats.splats import Splats
from pipeline.splats.statistics import Statistics, compute_statistics
from tests.miner.ledger.conftest import read_tasks, result_generated, task_started
from tests.support.paths import ROOT
from tests.support.task_rows import seeds_of


def test_a_task_from_assignment_to_feedback(ledger: LedgerWriter, path: Path) -> None:
    stats = {name: float(number) for number, name in enumerate(SPLAT_COLUMNS, 1)}
    task = task_started(ledger, arm=ArmAssignment("e1", "phase3", 4))
    ledger.record(task)
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    assert (row.experiment, row.arm, row.turn) == ("e1", "phase3", 4)
    assert (row.outcome, row.seed, row.answered_at, row.submissions, seeds_of(row), row.seconds) == (
        *(None, None, None, 0),
        *((), {}),
    )
    ledger.record(result_generated(task.key, stats))
    ledger.record(SubmissionAnswered(task.key, 1010.0, Outcome.ACCEPTED, score=0.71, cooldown_until=1300))
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    for field in fields(TaskStarted):
        if field.name not in ("at", "assignment"):
            assert getattr(row, field.name) == getattr(task, field.name)
    assert (row.phase, row.config_hash) == (task.assignment.phase, task.assignment.config_hash)
    assert {name: getattr(row, name) for name in SPLAT_COLUMNS} == stats
    assert (row.assigned_at, row.generated_at, row.answered_at) == (1000, 1004, 1010)
    assert (row.seed, seeds_of(row), row.seconds) == (7, (6, 7), {"structure": 1.5, "latents": 2.0})
    assert (row.generation_seconds, row.quality, row.submission_bytes) == (3.5, 0.64, 4_812_331)
    assert (row.outcome, row.score, row.cooldown_until, row.submissions) == ("accepted", 0.71, 1300, 1)
    with LedgerReader(path) as reader:
        assert reader.tasks(without=("seeds", "error", "volume")) == [row._replace(seeds=None, volume=None)]
    assert ledger.status.written == 3


def test_outcomes_are_in_snake_case_and_never_renamed() -> None:
    """Ledgers, reports and metrics of operators hold them."""
    assert [str(outcome) for outcome in Outcome] == [
        *("accepted", "rejected", "skipped", "not_validated", "closed_without_a_score"),
        *("still_open", "not_held", "unknown"),
    ]
    assert [outcome for outcome in Outcome if outcome.closes] == list(Outcome)[:5]


@pytest.mark.parametrize("outcome", Outcome)
def test_only_an_accepted_result_has_a_score(ledger: LedgerWriter, path: Path, outcome: Outcome) -> None:
    for task_id, score in (("zero", 0.0), ("some", 0.66), ("none", None)):
        task = task_started(ledger, task_id)
        ledger.record(task)
        ledger.record(SubmissionAnswered(task.key, 1010.0, outcome, score=score, cooldown_until=0))
    assert ledger.flush(10)
    assert [row.score for row in read_tasks(path)] == [None, 0.66 if outcome is Outcome.ACCEPTED else None, None]
    assert {(row.outcome, row.cooldown_until) for row in read_tasks(path)} == {(outcome, None)}


def test_the_first_verdict_stays_and_open_answers_wait_for_it(ledger: LedgerWriter, path: Path) -> None:
    task = task_started(ledger)
    ledger.record(task)
    for outcome, score in (
        *((Outcome.UNKNOWN, None), (Outcome.STILL_OPEN, 0.0)),
        *((Outcome.ACCEPTED, 0.7), (Outcome.NOT_HELD, None)),
    ):
        ledger.record(SubmissionAnswered(task.key, 1010.0, outcome, score=score))
    ledger.record(SubmissionAnswered(task.key, 2000.0, Outcome.REJECTED, score=0.0))
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    assert (row.outcome, row.score, row.answered_at, row.submissions) == ("accepted", 0.7, 1010.0, 3)


def test_a_failed_generation(ledger: LedgerWriter, path: Path) -> None:
    task = task_started(ledger)
    ledger.record(task)
    ledger.record(GenerationFailed(task.key, 1002.0, "InvalidResult: 12 gaussians " + "x" * 1000))
    ledger.record(SubmissionAnswered(task.key, 1003.0, Outcome.SKIPPED, score=0.0))
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    assert (row.generated_at, row.seed, row.outcome, row.score) == (1002.0, None, "skipped", None)
    assert row.error is not None
    assert row.error.startswith("InvalidResult: 12 gaussians xxx")
    assert len(row.error) == 500


def test_the_columns_are_the_splats_statistics() -> None:
    names = set(splat_columns(vars(Statistics(*[(1.0, 2.0, 3.0)] * len(fields(Statistics))))))  # type: ignore[arg-type]
    assert "box_min_y" in names
    described = compute_statistics(_cloud())
    flat = splat_columns(vars(described))
    assert set(flat) == set(SPLAT_COLUMNS)
    assert (flat["gaussians"], flat["box_max_z"], flat["volume"]) == (5, described.box_max[2], described.volume)


def _cloud() -> Splats:
    generator = torch.Generator().manual_seed(0)
    means, log_scales, colour = (torch.randn(5, 3, generator=generator) for _ in range(3))
    return Splats(means, torch.randn(5, 4, generator=generator), log_scales, torch.zeros(5), colour)


def test_figures_that_are_no_numbers_are_unknown(ledger: LedgerWriter, path: Path) -> None:
    task = task_started(ledger)
    ledger.record(task)
    ledger.record(result_generated(task.key, {"gaussians": 0, "volume": float("nan"), "unheard_of": 3.0}))
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    assert (row.gaussians, row.volume, row.density_max) == (0, None, None)


def test_phases_and_experiments(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(PhaseChanged(10.0, "baseline", "start", "h1", "note: é\n"))
    ledger.record(PhaseChanged(20.0, "phase3", "apply", "h2", "steps: 50\n"))
    ledger.record(PhaseChanged(30.0, "baseline", "rollback", "h1", "note: é\n"))
    ledger.record(ExperimentStarted("e1", 40.0, 123, {"phase3": 50, "baseline": 50}))
    for turn, kind in ((0, "image"), (1, "image"), (0, "text"), (2, "image")):
        ledger.record(task_started(ledger, str(turn), task_type=kind, arm=ArmAssignment("e1", "phase3", turn)))
    ledger.record(task_started(ledger, "other"))
    ledger.record(ExperimentEnded("e1", 90.0, "phase3 won"))
    assert ledger.flush(10)
    with LedgerReader(path) as reader:
        assert reader.phases() == [
            PhaseRow(10.0, "baseline", "start", "h1", "note: é\n"),
            PhaseRow(20.0, "phase3", "apply", "h2", "steps: 50\n"),
            PhaseRow(30.0, "baseline", "rollback", "h1", "note: é\n"),
        ]
        (experiment,) = reader.experiments()
        assert experiment == ExperimentRow(
            "e1", 40.0, 123, '{"phase3": 50, "baseline": 50}', ended_at=90.0, decision="phase3 won"
        )
        assert experiment.weights == {"phase3": 50, "baseline": 50}
        assert reader.next_turns("e1") == {("5V", "image"): 3, ("5V", "text"): 1}
        assert reader.next_turns("e2") == {}
        assert len(reader.tasks(experiment="e1")) == 4


def test_selections(ledger: LedgerWriter, path: Path) -> None:
    for number, outcome in enumerate([Outcome.ACCEPTED, Outcome.UNKNOWN, None, Outcome.SKIPPED]):
        task = task_started(ledger, str(number), at=1000.0 + number)
        ledger.record(task)
        if outcome:
            ledger.record(SubmissionAnswered(task.key, 1010.0, outcome, score=0.7))
    ledger.record(task_started(ledger, "pushed", at=1004.0, transport="push"))
    assert ledger.flush(10)
    with LedgerReader(path) as reader:
        assert [row.task_id for row in reader.tasks(since=1002.0)] == ["2", "3", "pushed"]
        assert [row.task_id for row in reader.open_tasks(since=0.0)] == ["1", "2"]
        assert [row.task_id for row in reader.open_tasks(since=1001.5)] == ["2"]


def test_outcomes_of_each_validator(ledger: LedgerWriter, path: Path) -> None:
    """The view that `sn17-miner blacklist` reads."""
    for number, outcome in enumerate(["accepted", "rejected", "rejected", "skipped", "unknown"]):
        task = task_started(ledger, str(number), validator="5V" if number else "5W")
        ledger.record(task)
        ledger.record(SubmissionAnswered(task.key, 1010.0, Outcome(outcome), score=0.7))
    assert ledger.flush(10)
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT hotkey, accepted, rejected FROM validator_outcomes ORDER BY hotkey").fetchall()
    assert rows == [("5V", 0, 2), ("5W", 1, 0)]


def test_old_tasks_are_forgotten_and_the_file_shrinks(ledger: LedgerWriter, path: Path) -> None:
    for number in range(300):
        ledger.record(task_started(ledger, str(number), at=float(number), code_version="x" * 1000))
    assert ledger.flush(30)

    def pages() -> int:
        with closing(sqlite3.connect(path)) as database:
            return int(database.execute("PRAGMA page_count").fetchone()[0])

    before = pages()
    ledger.record(TasksDeleted(before=290.0))
    assert ledger.flush(10)
    assert [row.task_id for row in read_tasks(path)] == [str(number) for number in range(290, 300)]
    assert pages() < before / 4


def test_keys_are_distinct_and_in_order(ledger: LedgerWriter) -> None:
    keys = [ledger.new_key() for _ in range(1000)]
    assert keys == sorted(set(keys))
    assert keys[0] <= time.time_ns()


def test_strangers_strings_do_no_harm(ledger: LedgerWriter, path: Path) -> None:
    ledger.record(task_started(ledger, "\ud800'; DROP TABLE tasks; --\0" + "y" * 10_000))
    assert ledger.flush(10)
    (row,) = read_tasks(path)
    assert row.task_id.startswith("?'; DROP TABLE tasks; --\0yyy")
    assert len(row.task_id) == 500


@pytest.mark.process
def test_importing_the_ledger_imports_no_models() -> None:
    heavy = "[m for m in ('torch', 'bittensor', 'numpy', 'pipeline') if m in sys.modules]"
    command = f"import sys, miner.ledger.writer, miner.ledger.reader; print({heavy})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
