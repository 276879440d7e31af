import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from miner.analytics import task_figures
from miner.cli.status import duration, monitor_url
from miner.gpu.worker import WorkerStatus
from miner.ledger.writer import LedgerStatus
from miner.localnet.validator import free_port
from miner.monitor.status import ValidatorView
from miner.runtime.gpu_memory import GpuMemory
from tests.support.cli import run
from tests.support.fake_monitor import GIB, HOTKEY, NOW, OK, FakeMonitor, changed
from tests.support.task_rows import task_row


@pytest.fixture
def monitor() -> Iterator[FakeMonitor]:
    monitor = FakeMonitor()
    monitor.show(OK)
    yield monitor
    monitor.close()


def config(folder: Path, **monitor: object) -> Path:
    path = folder / "miner.yaml"
    path.write_text(f"phase: phase3\nmonitor: {json.dumps(monitor)}\n")
    return path


def test_one_screen_of_a_miner_that_works(monitor: FakeMonitor, tmp_path: Path) -> None:
    result = run("status", "--config", config(tmp_path, port=monitor.port))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"sn17-miner 0.1.0 at http://127.0.0.1:{monitor.port}: working",
        "  phase       phase3 (cda3fa4a4448)",
        "  uptime      3 h 12 min; last success 40 s ago",
        "  queue       2 tasks waiting",
        "  counters    12 pulled, 11 generated, 9 accepted",
        "  cuda:0      H100: 5.0 GiB in use, 8.0 of 80.0 GiB reserved",
        "  ledger      36 records written, 0 waiting, 0 lost",
        "  metagraph   13 s old",
        "",
        "  uid  validator     state           next pull  cooldown   failures",
        "   27  5F3sa2TJ      waiting         2 min      1 min 30 s        0",
        "   49  XQjYE5op      idle            now        -                 0",
        "",
        "No task yet.",
        "",
        "No problems.",
    ]


def test_each_worker_has_a_line_and_a_lost_one_is_a_problem(monitor: FakeMonitor) -> None:
    memory = GpuMemory("cuda:0", "H100", 5 * GIB, 8 * GIB, 80 * GIB)
    first = WorkerStatus("this machine", "cuda:0", "busy", 1.5, 340, 37.5, memory)
    killed = "its process was ended by SIGKILL"
    second = WorkerStatus("this machine", "cuda:1", "restarting", problem=killed, losses=1, last_loss=killed)
    monitor.show(changed(own_gpus=(memory,), workers=(first, second)))
    lines = run("status", "--monitor.port", monitor.port).stdout.splitlines()
    assert [line for line in lines if line.startswith("  cuda")] == [
        "  cuda:0      this machine, busy for 2 s; 37.5 candidates a minute, 340 in all; "
        "H100: 5.0 GiB in use, 8.0 of 80.0 GiB reserved",
        "  cuda:1      this machine, restarting; 0.0 candidates a minute, 0 in all",
    ]
    assert lines[-1] == ("  the worker on cuda:1 was lost: its process was ended by SIGKILL; it is started again")


@pytest.mark.parametrize(
    ("changes", "shown", "code"),
    [
        (
            {"state": "unreachable", "problem": "no cluster"},
            ["Problems:", "  the worker on ray:0 is out of reach: no cluster; it is tried again until it is there"],
            1,
        ),
        (
            {"state": "idle", "left_out": ("phase b: no weights",)},
            ["Problems:", "  the worker on ray:0 is left out of phase b: no weights"],
            1,
        ),
        ({"state": "lost", "problem": "killed"}, ["Problems:", "  the worker on ray:0 was lost: killed"], 1),
        # What is over is told, and is no problem.
        (
            {"state": "idle", "losses": 2, "last_loss": "killed"},
            ["No problems.", "Since the start:", "  the worker on ray:0 was lost 2 times, the last time: killed"],
            0,
        ),
    ],
)
def test_what_a_worker_suffers_from_at_present_is_a_problem(
    monitor: FakeMonitor, changes: dict[str, Any], shown: list[str], code: int
) -> None:
    monitor.show(changed(workers=(WorkerStatus("10.0.0.2", "ray:0", **changes),)))
    result = run("status", "--strict", "--monitor.port", monitor.port)
    assert result.stdout.splitlines()[-len(shown) :] == shown
    assert result.exit_code == code
    words = {"unreachable": "out of reach"}.get(changes["state"], changes["state"])
    assert f"ray:0       10.0.0.2, {words}; " in result.stdout


def test_a_miner_of_another_version_is_named(monitor: FakeMonitor) -> None:
    """An update is installed, and the miner was not restarted yet."""
    monitor.show(changed(workers=(WorkerStatus("this machine", "cuda:0", "idle"),)))
    content = json.loads(monitor.content)
    del content["workers"][0]["problem"]
    monitor.content = json.dumps(content).encode()
    result = run("status", "--monitor.port", monitor.port)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is of another version than this program, 0.1.0: restart it with this one" in result.stderr
    result = run("status", "--json", "--monitor.port", monitor.port)
    assert json.loads(result.stdout)["version"] == "0.1.0"


def test_problems_are_listed(monitor: FakeMonitor) -> None:
    monitor.show(
        changed(
            pipeline_loaded=False,
            restarts={"the loop of validator 5F3sa2TJ": 3},
            ledger=LedgerStatus(written=1, waiting=2, dropped=4, failures=5, problem="disk full"),
            validators=(ValidatorView(27, HOTKEY, "idle", None, None, 6, None),),
            own_gpus=(),
            last_success=None,
            metagraph_age=None,
            counters={},
            problems=("the file of phase a has changed",),
        )
    )
    out = run("status", "--monitor.port", monitor.port).stdout
    assert out.split("Problems:\n")[1].splitlines() == [
        "  the models are not loaded yet",
        "  the file of phase a has changed",
        "  ledger: disk full",
        "  validator 5F3sa2TJ (uid 27): 6 failures in a row",
        "Since the start:",
        "  the loop of validator 5F3sa2TJ was restarted 3 times; the log says why",
        "  4 records of the ledger lost",
    ]
    assert "last success not yet" in out
    assert "counters    nothing yet" in out


def test_an_experiment_is_shown(monitor: FakeMonitor) -> None:
    arms = [{"phase": "a", "accepted": 5, "counted": 9}, {"phase": "b", "accepted": 1, "counted": 9}]
    experiment = {"experiment": "e1", "arms": arms, "winner": None, "losers": []}
    for changes, words in (
        ({}, "no arm is better yet"),
        ({"losers": ["b"]}, "b clearly worse"),
        ({"winner": "a"}, "a has won"),
    ):
        monitor.show(changed(experiment=experiment | changes, phase="a=50 b=50", config_hashes={"a": "1", "b": "2"}))
        out = run("status", "--monitor.port", monitor.port).stdout
        assert f"experiment  e1: {words}; accepted: a 5 of 9, b 1 of 9" in out
        assert "phase       a=50 b=50, a (1), b (2)" in out


def test_the_latest_tasks_are_shown(monitor: FakeMonitor) -> None:
    rows = [
        task_row(1, "accepted", uid=27, validator=HOTKEY, score=0.713, assigned_at=NOW),
        task_row(2, "skipped", uid=None, validator=HOTKEY, assigned_at=NOW, gate="withheld", generation_seconds=None),
        task_row(3, None, validator=HOTKEY, assigned_at=NOW, error="InvalidResult: \x1b[31mtoo few"),
    ]
    monitor.tasks = [task_figures(row) for row in rows]
    lines = run("status", "--monitor.port", monitor.port).stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if "answered, UTC" in line)
    assert [" ".join(line.split()) for line in lines[first + 1 : first + 4]] == [
        "2025-11-04 10:00:20 5F3sa2TJ uid 27 phase3 1a2b3c4d image accepted 0.713 1.0",
        "2025-11-04 10:00:20 5F3sa2TJ phase3 1a2b3c4d image skipped, withheld - -",
        "2025-11-04 10:00:00 5F3sa2TJ uid 27 phase3 1a2b3c4d image open - 3.0 InvalidResult: ?[31mtoo few",
    ]
    assert json.loads(run("status", "--json", "--monitor.port", monitor.port).stdout)["tasks"] == monitor.tasks


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"problems": ("the file of phase a has changed",)}, 1),
        ({"ledger": LedgerStatus(written=1, waiting=0, dropped=4, failures=5, problem="disk full")}, 1),
        ({"ledger": LedgerStatus(written=1, waiting=0, dropped=4, failures=5, problem="")}, 0),
    ],
)
def test_scripts_may_ask_for_no_problems(monitor: FakeMonitor, changes: dict[str, Any], code: int) -> None:
    monitor.show(changed(**changes))
    assert run("status", "--strict", "--monitor.port", monitor.port).exit_code == code
    assert run("status", "--monitor.port", monitor.port).exit_code == 0


@pytest.mark.process
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_it_watches_until_it_is_interrupted(monitor: FakeMonitor, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "miner", "status", "--watch=0.1", "--monitor.port", str(monitor.port), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        # A miner that goes away and comes back.
        monitor.content = b"[]"
        for line in process.stdout:
            if "is not a miner" in line:
                break
        monitor.show(changed(status="stopping"))
        for line in process.stdout:
            if "stopping" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.stdout.read(), process.stderr.read()
    assert (process.returncode, errors) == (1, "")
    assert "Traceback" not in rest
    if arguments:
        assert json.loads(first)["able_to_work"] is True
        assert json.loads(line)["status"] == "stopping"
    else:
        assert first.endswith(": working\n")


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_a_miner_that_does_not_work_ends_with_1(monitor: FakeMonitor, state: str) -> None:
    monitor.show(changed(status=state))
    result = run("status", "--monitor.port", monitor.port)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith(f": {state}")


def test_json(monitor: FakeMonitor) -> None:
    result = run("status", "--json", "--monitor.port", monitor.port)
    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (content["phase"], content["able_to_work"]) == ("phase3", True)
    assert content["validators"][0] == asdict(OK.validators[0])


def test_no_miner_says_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    result = run("status", "--config", config(tmp_path, port=port))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"ERROR: no miner answers at http://127.0.0.1:{port} (")
    assert "start it with `sn17-miner run`" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"status": "ok"}', b"\xff"])
def test_another_server_is_not_a_miner(monitor: FakeMonitor, content: bytes) -> None:
    monitor.content = content
    result = run("status", "--monitor.port", monitor.port)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--monitor.port" in result.stderr


def test_a_monitor_that_is_switched_off(monitor: FakeMonitor, tmp_path: Path) -> None:
    path = config(tmp_path, enabled=False)
    result = run("status", "--config", path)
    assert result.exit_code == 2
    assert "switched off" in result.stderr
    assert run("status", "--config", path, "--monitor.port", monitor.port).exit_code == 0


def test_a_proxy_for_the_internet_is_not_asked(monitor: FakeMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert run("status", "--monitor.port", monitor.port).exit_code == 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("10.0.0.7", "http://10.0.0.7:1"),
    ],
)
def test_the_address_of_the_monitor(host: str, url: str) -> None:
    assert monitor_url(host, 1) == url


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0, "0 s"), (59.2, "1 min"), (3600, "1 h"), (90_061, "1 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
