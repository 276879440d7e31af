"""The model of the chance to pass as a running miner keeps it."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from miner.analytics.pass_model import ScoreKind
from miner.config.choice_sections import Gate, GateSettings, ScorerSettings
from miner.config.phase import Phase
from miner.ledger.events import PhaseAssignment, ResultGenerated, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.tasks.calibration_monitor import HISTORY_SECONDS, CalibrationMonitor
from miner.tasks.task import Withheld
from tests.support.miner_parts import MinerParts
from tests.support.waiting import TIMEOUT


@pytest.fixture
def parts(tmp_path: Path, phase: Phase) -> Iterator[MinerParts]:
    parts = MinerParts(tmp_path, phase)
    yield parts
    parts.close()


def use_gate(parts: MinerParts, phase: Phase, gate: Gate | None) -> None:
    parts.use_phase(phase.model_copy(update={"scorer": ScorerSettings(), "gate": gate}))


def fill(parts: MinerParts, results: int, at: float, has_whole_score: bool = True) -> None:
    """Record results of which those with a score, and a quality, of 0.7 were accepted and those with 0.5 were not."""
    for number in range(results):
        key, is_good = parts.ledger.new_key(), number % 2 == 0
        assignment = PhaseAssignment("demo", "h", None)
        parts.ledger.record(TaskStarted(key, at, "pull", "5V", 1, str(number), "image", assignment, "v"))
        score = 0.7 if is_good else 0.5
        total = score if has_whole_score else None
        parts.ledger.record(
            ResultGenerated(key, at, 1, (1,), {}, {}, score, 9, estimated_score=total, threshold=0.6, gate="sent")
        )
        outcome = Outcome.ACCEPTED if is_good else Outcome.REJECTED
        parts.ledger.record(SubmissionAnswered(key, at, outcome, 0.7))
    assert parts.ledger.flush(TIMEOUT)


async def test_the_model_is_learnt_from_the_ledger(parts: MinerParts, phase: Phase) -> None:
    use_gate(parts, phase, "auto")
    monitor = CalibrationMonitor(parts.ledger.path, parts.runner.selector)
    fill(parts, 100, time.time() - 60)
    # Too old to count.
    fill(parts, 30, time.time() - HISTORY_SECONDS - 60)
    await monitor.refresh()
    assert monitor.model is not None
    calibration = monitor.model.calibrations[ScoreKind("image", "score")]
    assert calibration.outcomes == 100
    assert calibration.chance(-0.1) < 0.1 < 0.9 < calibration.chance(0.1)
    assert (monitor.model.slots.accepted, monitor.model.slots.total) == (50, 50 + 3 * 50)
    fill(parts, 20, time.time())
    await monitor.refresh()
    assert monitor.model.calibrations[ScoreKind("image", "score")].outcomes == 120


@pytest.mark.parametrize("gate", [None, GateSettings(quality=0.5)])
async def test_without_a_gate_of_auto_nothing_is_read(parts: MinerParts, phase: Phase, gate: Gate | None) -> None:
    use_gate(parts, phase, "auto")
    fill(parts, 10, time.time())
    monitor = CalibrationMonitor(parts.ledger.path, parts.runner.selector)
    await monitor.refresh()
    assert monitor.model is not None
    use_gate(parts, phase, gate)
    await monitor.refresh()
    assert monitor.model is None


async def test_a_ledger_that_cannot_be_read_any_more_leaves_nothing_to_rely_on(
    parts: MinerParts, phase: Phase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_gate(parts, phase, "auto")
    fill(parts, 10, time.time())
    monitor = CalibrationMonitor(parts.ledger.path, parts.runner.selector)
    await monitor.refresh()
    assert monitor.model is not None
    for path in (tmp_path / "rubbish", tmp_path / "absent"):
        monitor.ledger = path
        if path.name == "rubbish":
            path.write_bytes(b"no database" * 100)
        await monitor.refresh()
        assert monitor.model is None
    assert "goes on without its history" in caplog.text


async def test_columns_that_hold_something_else_leave_nothing_to_rely_on(parts: MinerParts, phase: Phase) -> None:
    use_gate(parts, phase, "auto")
    fill(parts, 10, time.time())
    monitor = CalibrationMonitor(parts.ledger.path, parts.runner.selector)
    await monitor.refresh()
    with closing(sqlite3.connect(parts.ledger.path)) as database:
        database.execute("UPDATE tasks SET estimated_score = 'much'")
        database.commit()
    with pytest.raises(TypeError):
        await monitor.refresh()
    assert monitor.model is None


async def test_tasks_are_decided_by_what_is_learnt_and_sent_once_nothing_is(
    parts: MinerParts, phase: Phase, tmp_path: Path
) -> None:
    use_gate(parts, phase, "auto")
    monitor = CalibrationMonitor(parts.ledger.path, parts.runner.selector)
    parts.runner.pass_model, parts.runner.draw = lambda: monitor.model, lambda: 0.5
    quality = 0.5
    parts.score = lambda _: quality
    # Before the first refresh.
    await parts.run(1)
    fill(parts, 100, time.time() - 60, has_whole_score=False)
    await monitor.refresh()
    with pytest.raises(Withheld, match=r"passes with a chance of [0-9] %"):
        await parts.run(2)
    quality = 0.7
    await parts.run(3)
    monitor.ledger = tmp_path / "absent"
    await monitor.refresh()
    quality = 0.5
    await parts.run(4)
    gates = {row.task_id: row.gate for row in parts.rows() if row.code_version != "v"}
    assert gates == {"1": "sent", "2": "withheld", "3": "sent", "4": "sent"}
