"""The split that runs is judged by the ledger, and what follows from it."""

import logging
import time
from pathlib import Path

import pytest

from miner.ledger.events import ArmAssignment, PhaseAssignment, Stratum, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.ledger.reader import LedgerReader
from miner.phases.experiment_monitor import ExperimentMonitor
from tests.miner.phases.conftest import ManagedMiner
from tests.support.waiting import TIMEOUT

# Of every five results of an arm, so many are accepted; 300 tasks tell such rates apart.
CLEAR = {"a": 4, "b": 1}
ALIKE = {"a": 2, "b": 2}


async def begin(miner: ManagedMiner, **flags: bool) -> ExperimentMonitor:
    split = miner.split(a=1, b=1).model_copy(update=flags)
    miner.choose(split)
    await miner.manager.poll(at_once=True)
    return ExperimentMonitor(miner.ledger.path, miner.manager)


def fill(miner: ManagedMiner, accepted: dict[str, int], tasks: int = 300) -> None:
    """What came of so many tasks of the split that runs."""
    split = miner.manager.selector.choice
    stratum, assignment, now = Stratum("5V", "image"), split.assignment, time.time()
    of_arm = dict.fromkeys(split.arms, 0)
    for turn in range(tasks):
        arm = assignment.arm(stratum, turn)
        key, at = miner.ledger.new_key(), now - tasks + turn
        plan = PhaseAssignment(arm, "h", ArmAssignment(split.experiment, arm, turn))
        miner.ledger.record(TaskStarted(key, at, "pull", "5V", 1, str(turn), "image", plan, "v"))
        outcome = Outcome.ACCEPTED if of_arm[arm] % 5 < accepted[arm] else Outcome.REJECTED
        miner.ledger.record(SubmissionAnswered(key, at + 0.5, outcome, 0.7))
        of_arm[arm] += 1
    assert miner.ledger.flush(TIMEOUT)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Experiment")]


async def test_without_a_split_there_is_nothing_to_judge(miner: ManagedMiner) -> None:
    monitor = ExperimentMonitor(miner.ledger.path, miner.manager)
    await monitor.evaluate()
    assert monitor.status is None


async def test_arms_that_do_not_differ_are_not_told_apart(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = await begin(miner, promote=True, rollback=True)
    fill(miner, ALIKE)
    await monitor.evaluate()
    assert monitor.status is not None
    assert (monitor.status.result.winner, monitor.status.result.losers) == (None, ())
    assert [(arm.phase, arm.accepted, arm.counted) for arm in monitor.status.arms] == [("a", 60, 150), ("b", 60, 150)]
    assert told(caplog) == []
    assert miner.current == "a=1 b=1"


async def test_a_winner_is_told_once_and_nothing_else_happens_unasked(
    miner: ManagedMiner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monitor = await begin(miner)
    fill(miner, CLEAR)
    for _ in range(3):
        await monitor.evaluate()
    (line,) = told(caplog)
    assert "a has won; accepted: a 120 of 150, b 30 of 150" in line
    assert monitor.status is not None
    assert monitor.status.as_json() == {
        "experiment": "e1",
        "arms": (
            {"phase": "a", "accepted": 120, "counted": 150},
            {"phase": "b", "accepted": 30, "counted": 150},
        ),
        "winner": "a",
        "losers": ("b",),
    }
    await miner.manager.poll()
    assert miner.current == "a=1 b=1"


async def test_the_winner_is_promoted_if_wished(miner: ManagedMiner) -> None:
    monitor = await begin(miner, promote=True)
    fill(miner, {"a": 1, "b": 4})
    await monitor.evaluate()
    await miner.manager.poll(at_once=True)
    assert miner.current == miner.manager.selector.choice.short_label == "b"
    assert await miner.made_with(1) == ("embedded", 5)
    assert miner.history()[-1] == ("automatic", "b")
    with LedgerReader(miner.ledger.path) as reader:
        (experiment,) = reader.experiments()
    assert str(experiment.decision).startswith("b has won; accepted: a 30 of 150")
    # And may be gone back from.
    miner.roll_back()
    await miner.manager.poll(at_once=True)
    assert miner.current == "a"
    await monitor.evaluate()
    assert monitor.status is None


async def test_a_clearly_worse_arm_brings_back_the_phase_from_before(miner: ManagedMiner) -> None:
    monitor = await begin(miner, rollback=True)
    fill(miner, CLEAR)
    await monitor.evaluate()
    await miner.manager.poll(at_once=True)
    assert miner.current == "a"
    assert miner.history()[-1] == ("automatic", "a")


async def test_what_is_worse_is_not_gone_back_to(miner: ManagedMiner) -> None:
    monitor = await begin(miner, rollback=True)
    fill(miner, {"a": 1, "b": 4})
    await monitor.evaluate()
    await miner.manager.poll(at_once=True)
    assert miner.current == "a=1 b=1"


async def test_what_the_operator_chose_meanwhile_stays(miner: ManagedMiner) -> None:
    monitor = await begin(miner, promote=True)
    fill(miner, CLEAR)
    miner.apply("other")
    await monitor.evaluate()
    assert miner.current == "other"


async def test_a_ledger_that_cannot_be_read_decides_nothing(miner: ManagedMiner, tmp_path: Path) -> None:
    await begin(miner, promote=True)
    (tmp_path / "rubbish").write_bytes(b"no database" * 100)
    for path in (tmp_path / "rubbish", tmp_path / "absent"):
        monitor = ExperimentMonitor(path, miner.manager)
        await monitor.evaluate()
        assert monitor.status is None
