import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miner.analytics import TaskFilter
from miner.cli.tail import Follower
from miner.ledger.events import SubmissionAnswered
from miner.ledger.outcomes import Outcome
from miner.localnet.synthetic_ledger import fill_ledger
from tests.support.cli import run
from tests.support.monitor import HOTKEYS, one_task, write_ledger


def test_the_latest_tasks(tmp_path: Path) -> None:
    fill_ledger(tmp_path / "ledger.sqlite", 50)
    result = run("tail", "--state", tmp_path, "-n", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["answered,", "UTC", "validator", "phase", "type", "answer", "score", "seconds"]
    assert len(lines) == 3
    assert all((line.startswith("2025-11-01 ") and " 1a2b3c4d " in line) or "9f0c5a1b" in line for line in lines)


def test_json_and_filters(tmp_path: Path) -> None:
    fill_ledger(tmp_path / "ledger.sqlite", 200)
    options = ("--state", tmp_path, "--json", "-n", 500)
    tasks = [json.loads(line) for line in run("tail", *options).stdout.splitlines()]
    assert [task["task_id"] for task in tasks] == [f"task-{number}" for number in range(200)]
    chosen = [task for task in tasks if (task["uid"], task["phase"], task["type"]) == (142, "phase3", "image")]
    assert chosen
    options = (*options, "--validator", "142", "--phase", "phase3", "--type", "image")
    assert [json.loads(line) for line in run("tail", *options).stdout.splitlines()] == chosen
    assert run("tail", *options, "-n", 0).stdout == ""
    result = run("tail", "--state", tmp_path, "--phase", "phase4")
    assert (result.exit_code, "it has baseline, phase3" in result.stderr) == (2, True)


def test_without_a_ledger(tmp_path: Path) -> None:
    result = run("tail", "--state", tmp_path)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "There is no ledger" in result.stderr


def test_each_answer_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    follower = Follower(path, TaskFilter(last=2))
    assert follower.begin() == follower.look() == []
    now = time.time_ns()
    first, second, third = (one_task(now - number) for number in (3, 2, 1))
    write_ledger(path, [*first, *second, *third[:2]])
    assert [task["key"] for task in follower.begin()] == [str(now - 2), str(now - 1)]
    # The first one had its answer already, though it was not shown.
    assert follower.look() == []
    write_ledger(path, [SubmissionAnswered(now - 1, now / 1e9 + 5, Outcome.STILL_OPEN)])
    assert [task["answer"] for task in follower.look()] == ["still_open"]
    write_ledger(path, [third[2]])
    assert [(task["answer"], task["score"]) for task in follower.look()] == [("accepted", 0.71)]
    assert follower.look() == []


def test_only_the_answers_that_were_chosen(tmp_path: Path) -> None:
    path, now = tmp_path / "ledger.sqlite", time.time_ns()
    write_ledger(path, [*one_task(now - 2), *one_task(now - 1, validator=HOTKEYS[1])[:2]])
    follower = Follower(path, TaskFilter(validators=(HOTKEYS[1],)))
    assert [task["answer"] for task in follower.begin()] == [None]
    write_ledger(path, [*one_task(now), *one_task(now - 1, validator=HOTKEYS[1])[2:]])
    assert [task["validator"] for task in follower.look()] == [HOTKEYS[1]]


@pytest.mark.process
def test_it_follows_until_it_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-m", "miner", "tail", "-f", "--json", "--state", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "There is no ledger" in process.stderr.readline()
        write_ledger(path, one_task(time.time_ns()))
        assert json.loads(process.stdout.readline())["answer"] == "accepted"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == process.stderr.read() == ""
    assert process.returncode == 0
