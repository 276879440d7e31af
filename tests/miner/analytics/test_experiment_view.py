from pathlib import Path

import pytest

from miner.analytics.experiment_view import SHOWN, read_experiments
from miner.analytics.intervals import wilson_interval
from miner.errors import OperatorError
from miner.ledger import ArmAssignment, Event, Outcome, PhaseAssignment, events
from tests.support.monitor import write_ledger

SETTINGS = """
note: {name} of the test
hypothesis: more steps help
structure: {{steps: {steps}, guidance: 7.5}}
"""


def experiment(name: str, at: float, tasks: int, arms: tuple[str, str] = ("a", "b")) -> list[Event]:
    """An experiment whose first arm always wins."""
    found: list[Event] = [events.ExperimentStarted(name, at, 7, dict.fromkeys(arms, 1))]
    for number, arm in enumerate(arms):
        settings = SETTINGS.format(name=arm, steps=20 + number)
        found.append(events.PhaseChanged(at, arm, "apply", arm * 12, settings))
    for turn in range(tasks):
        key, arm = int(at) * 1000 + turn, arms[turn % 2]
        assignment = PhaseAssignment(arm, arm * 12, ArmAssignment(name, arm, turn))
        found.append(events.TaskStarted(key, at + turn, "pull", "5V", 3, str(key), "image", assignment, "1"))
        outcome = Outcome.ACCEPTED if turn % 2 == 0 else Outcome.REJECTED
        found.append(events.SubmissionAnswered(key, at + turn + 0.5, outcome, 0.7))
    return found


def test_progress_arms_and_differences(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.sqlite", experiment("e1", 1_762_000_000.0, 60))
    (found,) = read_experiments(tmp_path / "ledger.sqlite")
    assert (found["name"], found["winner"], found["losers"], found["ended_at"]) == ("e1", "a", ("b",), None)
    first, second = found["arms"]
    assert (first["phase"], first["accepted"], first["counted"], first["rate"]) == ("a", 30, 30, 1.0)
    assert (first["interval"], second["interval"]) == (wilson_interval(30, 30), wilson_interval(0, 30))
    assert (first["note"], second["hypothesis"]) == ("a of the test", "more steps help")
    assert found["differences"] == [{"key": "structure.steps", "values": ["20", "21"]}]
    one = next(one for one in found["comparisons"] if one["better"] == "a")
    # After each of the blocks of two.
    assert len(one["path"]) == 30
    assert one["path"][0][1] < 2
    assert one["path"][-1] == (1_762_000_059.5, one["e_value"])
    assert one["highest_e_value"] == max(value for _, value in one["path"]) > found["threshold"] == 40
    assert found["forecasts"] == []


def test_the_latest_ones_and_those_without_tasks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert read_experiments(path) == []
    for number in range(SHOWN + 1):
        write_ledger(path, experiment(f"e{number}", 1_762_000_000.0 + 1000 * number, 0))
    found = read_experiments(path)
    assert [one["name"] for one in found] == ["e3", "e2", "e1"]
    # The settings of the start, though no task tells them.
    assert found[0]["differences"] == [{"key": "structure.steps", "values": ["20", "21"]}]
    assert [one["path"] for one in found[0]["comparisons"]] == [(), ()]


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    path, begun = tmp_path / "ledger.sqlite", experiment("e1", 1_762_000_000.0, 2)
    write_ledger(path, [*begun, events.PhaseChanged(1_762_000_001.0, "a", "apply", "a" * 12, "{a: [")])
    (found,) = read_experiments(path)
    assert found["arms"][0]["note"] == ""
    path.write_text("no database, but long enough to be looked at " * 100)
    with pytest.raises(OperatorError):
        read_experiments(path)
