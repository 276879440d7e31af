"""The split that runs is judged by the ledger, and what follows from it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from miner.ledger.events import ArmAssignment, Stratum, SubmissionAnswered, TaskStarted
from miner.ledger.reader import LedgerReader
from miner.phases.experiment_monitor import ExperimentMonitor
from miner.phases.state import PhaseChoice
from tests.miner.phases.conftest import TIMEOUT, Bench

# Of every five results of an arm, so many are accepted; 300 tasks tell such rates apart.
CLEAR = {"a": 4, "b": 1}
ALIKE = {"a": 2, "b": 2}


async def begin(bench: Bench, **flags: bool) -> ExperimentMonitor:
    split = bench.split(a=1, b=1).model_copy(update=flags)
    bench.choose(split)
    await bench.manager.look(at_once=True)
    return ExperimentMonitor(bench.ledger.path, bench.manager)


def fill(bench: Bench, accepted: dict[str, int], tasks: int = 300) -> None:
    """What came of so many tasks of the split that runs."""
    split = bench.manager.selector.choice
    assert isinstance(split, PhaseChoice)
    stratum, drawing, now = Stratum("5V", "image"), split.drawing, time.time()
    of_arm = dict.fromkeys(split.arms, 0)
    for turn in range(tasks):
        arm = drawing.arm(stratum, turn)
        key, at = bench.ledger.new_key(), now - tasks + turn
        draw = ArmAssignment(split.experiment, arm, turn)
        bench.ledger.record(TaskStarted(key, at, "pull", "5V", 1, str(turn), "image", arm, "h", "v", draw))
        outcome = "accepted" if of_arm[arm] % 5 < accepted[arm] else "rejected"
        bench.ledger.record(SubmissionAnswered(key, at + 0.5, outcome, 0.7))
        of_arm[arm] += 1
    assert bench.ledger.flush(TIMEOUT)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Experiment")]


async def test_without_a_split_there_is_nothing_to_judge(bench: Bench) -> None:
    referee = ExperimentMonitor(bench.ledger.path, bench.manager)
    await referee.look()
    assert referee.standing is None


async def test_arms_that_do_not_differ_are_not_told_apart(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    referee = await begin(bench, promote=True, rollback=True)
    fill(bench, ALIKE)
    await referee.look()
    assert referee.standing is not None
    assert (referee.standing.winner, referee.standing.losers) == (None, ())
    assert [(arm.phase, arm.accepted, arm.counted) for arm in referee.standing.arms] == [("a", 60, 150), ("b", 60, 150)]
    assert told(caplog) == []
    assert bench.current == "a=1 b=1"


async def test_a_winner_is_told_once_and_nothing_else_happens_unasked(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    referee = await begin(bench)
    fill(bench, CLEAR)
    for _ in range(3):
        await referee.look()
    (line,) = told(caplog)
    assert "a has won; accepted: a 120 of 150, b 30 of 150" in line
    assert referee.standing is not None
    assert referee.standing.as_json() == {
        "experiment": "e1",
        "arms": (
            {"phase": "a", "accepted": 120, "counted": 150},
            {"phase": "b", "accepted": 30, "counted": 150},
        ),
        "winner": "a",
        "losers": ("b",),
    }
    await bench.manager.look()
    assert bench.current == "a=1 b=1"


async def test_the_winner_is_promoted_if_wished(bench: Bench) -> None:
    referee = await begin(bench, promote=True)
    fill(bench, {"a": 1, "b": 4})
    await referee.look()
    await bench.manager.look(at_once=True)
    assert bench.current == bench.manager.selector.choice.short == "b"
    assert await bench.made_with(1) == ("embedded", 5)
    assert bench.history()[-1] == ("automatic", "b")
    with LedgerReader(bench.ledger.path) as reader:
        (experiment,) = reader.experiments()
    assert str(experiment.decision).startswith("b has won; accepted: a 30 of 150")
    # And may be gone back from.
    bench.roll_back()
    await bench.manager.look(at_once=True)
    assert bench.current == "a"
    await referee.look()
    assert referee.standing is None


async def test_a_clearly_worse_arm_brings_back_the_phase_from_before(bench: Bench) -> None:
    referee = await begin(bench, rollback=True)
    fill(bench, CLEAR)
    await referee.look()
    await bench.manager.look(at_once=True)
    assert bench.current == "a"
    assert bench.history()[-1] == ("automatic", "a")


async def test_what_is_worse_is_not_gone_back_to(bench: Bench) -> None:
    referee = await begin(bench, rollback=True)
    fill(bench, {"a": 1, "b": 4})
    await referee.look()
    await bench.manager.look(at_once=True)
    assert bench.current == "a=1 b=1"


async def test_what_the_operator_chose_meanwhile_stays(bench: Bench) -> None:
    referee = await begin(bench, promote=True)
    fill(bench, CLEAR)
    bench.apply("other")
    await referee.look()
    assert bench.current == "other"


async def test_a_ledger_that_cannot_be_read_decides_nothing(bench: Bench, tmp_path: Path) -> None:
    await begin(bench, promote=True)
    (tmp_path / "rubbish").write_bytes(b"no database" * 100)
    for path in (tmp_path / "rubbish", tmp_path / "absent"):
        referee = ExperimentMonitor(path, bench.manager)
        await referee.look()
        assert referee.standing is None
