import asyncio
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from miner.errors import OperatorError
from miner.gpu.worker import WorkerStatus
from miner.ledger.writer import LedgerStatus, LedgerWriter
from miner.localnet.validator import LOOPBACK, free_port
from miner.monitor import Monitor, StartingMiner, Status, StatusBoard, view_validators
from miner.monitor.server import is_loopback
from miner.pull.session import ValidatorRecord
from miner.pull.validator_state import HeldTask, Stage, ValidatorState
from miner.runtime.clock import Clock
from miner.runtime.gpu_memory import GpuMemory
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import ImageTask
from tests.support.monitor import OK, FixedStatus, Site

GPU = GpuMemory("cuda:0", "NVIDIA H200", 1 << 30, 2 << 30, 140 << 30)


async def test_a_miner_that_works(site: Site) -> None:
    worker = WorkerStatus("this machine", "cuda:1", "busy", 1.5, 40, 37.5, GPU)
    ledger = LedgerStatus(5, 0, 0, 0, "")
    site.status = replace(OK, own_gpus=(GPU,), workers=(worker,), ledger=ledger, counters=Counter(generated=3))
    reply = await site.get("/health")
    assert (reply.status, reply.content_type, reply.headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert await reply.json() == {
        "status": "ok",
        "pipeline_loaded": True,
        "phase": "phase3",
        "queue": 2,
        "metagraph_age": 12.5,
        "last_success": 1_700_000_000.0,
        "uptime": 60.0,
        "counters": {"generated": 3},
        "restarts": {"the loop of validator 5F3sa2TJ": 1},
        "gpus": [
            {"device": "cuda:0", "name": "NVIDIA H200", "allocated": 1 << 30, "reserved": 2 << 30, "total": 140 << 30}
        ],
        "workers": [
            {
                "place": "this machine",
                "device": "cuda:1",
                "state": "busy",
                "busy_seconds": 1.5,
                "candidates": 40,
                "per_minute": 37.5,
                "memory": {
                    "device": "cuda:0",
                    "name": "NVIDIA H200",
                    "allocated": 1 << 30,
                    "reserved": 2 << 30,
                    "total": 140 << 30,
                },
                "problem": "",
                "left_out": [],
                "losses": 0,
                "last_loss": "",
            }
        ],
        "ledger": {"written": 5, "waiting": 0, "dropped": 0, "failures": 0, "problem": ""},
        "config_hashes": {},
        "unanswered": {},
        "experiment": None,
        "problems": [],
        "service": "sn17-miner",
        "version": "1.2.3",
    }


@pytest.mark.parametrize("status", ["starting", "stopping"])
async def test_a_miner_that_does_not(site: Site, status: Any) -> None:
    site.status = replace(OK, status=status, last_success=None, metagraph_age=None)
    reply = await site.get("/health")
    assert reply.status == 503
    content = await reply.json()
    assert (content["status"], content["last_success"]) == (status, None)


async def test_each_request_sees_the_present(site: Site) -> None:
    for queue in (0, 5):
        site.status = replace(OK, queue=queue)
        assert (await (await site.get("/health")).json())["queue"] == queue


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/health", 405), ("GET", "/nothing", 404), ("HEAD", "/health", 200), ("POST", "/generate", 404)],
)
async def test_nothing_else_is_served(site: Site, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, site.url + path) as reply:
        assert reply.status == status
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:{port}", 200), ("127.0.0.1", 200), ("[::1]:{port}", 200), ("evil.example:{port}", 403), ("", 403)],
)
async def test_a_strangers_name_for_this_machine_is_refused(site: Site, host: str, status: int) -> None:
    """A page of evil.example whose name comes to point here would otherwise read all that stands here."""
    assert (await site.get("/health", headers={"Host": host.format(port=site.port)})).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("miner.example:1", 200), ("Miner.Example", 200), ("203.0.113.7:1", 200), ("[2001:db8::1]:1", 200),
        ("evil.example:1", 403), ("evil.miner.example", 403), ("", 403),
    ],
)  # fmt: skip
async def test_a_monitor_that_others_may_reach_has_the_names_that_the_operator_gave_it(host: str, status: int) -> None:
    monitor = Monitor(FixedStatus(), "0.0.0.0", port := free_port(), allowed_hosts=["miner.EXAMPLE"])
    await monitor.start()
    url = f"http://{LOOPBACK}:{port}/health"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Host": host}) as reply:
        assert reply.status == status
        assert status == 200 or "monitor.allowed_hosts" in await reply.text()
    await monitor.stop()


async def test_a_taken_port_is_the_operators_mistake(site: Site) -> None:
    with pytest.raises(OperatorError, match=rf"{site.port}.*--monitor.port"):
        await Monitor(FixedStatus(), LOOPBACK, site.port).start()


async def test_a_host_that_is_not_ours_is_the_operators_mistake() -> None:
    with pytest.raises(OperatorError, match=r"203.0.113.7"):
        await Monitor(FixedStatus(), "203.0.113.7", free_port()).start()


async def test_a_client_that_stays_connected_does_not_keep_us_from_stopping(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.monitor.start()
    with socket.create_connection((LOOPBACK, site.port)) as client:
        client.send(b"GET /health HTTP/1.1\r\n")
        await asyncio.wait_for(site.monitor.stop(), 10)
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(LOOPBACK, site.port)


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:203.0.113.7", False),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_names_of_this_machine(name: str, is_ours: bool) -> None:
    assert is_loopback(name) is is_ours


async def test_the_board_shows_a_miner_that_starts_and_then_another_source(tmp_path: Path) -> None:
    ledger, stop = LedgerWriter(tmp_path / "ledger.sqlite"), asyncio.Event()
    board = StatusBoard(StartingMiner("phase3", ledger, stop, metagraph_age=lambda: 1.5))
    starting = board.status()
    assert (starting.status, starting.phase, starting.pipeline_loaded) == ("starting", "phase3", False)
    assert starting.ledger == ledger.status
    assert not starting.able_to_work
    assert starting.metagraph_age == 1.5
    assert starting.as_json()["uptime"] <= board.status().uptime
    stop.set()
    assert board.status().status == "stopping"
    board.source = FixedStatus()
    assert board.status() is OK
    assert ledger.close(10)


def test_views_of_validators() -> None:
    clock = Clock(now=lambda: 1000.0, wall=lambda: 5_000_000.0)
    neurons = [Neuron(uid=uid, hotkey=f"hot{uid}", coldkey="cold") for uid in (9, 3)]
    cooling = ValidatorState(Stage.WAITING, pull_after=1090.0, cooldown_end=1060.0, failed_pulls=1)
    task = ImageTask(id="t1", prompt="")
    working = ValidatorState(Stage.HOLDING, pull_after=990.0, held=HeldTask(task, 0.0, 30.0))
    first, second = view_validators([ValidatorRecord(neurons[0], cooling), ValidatorRecord(neurons[1], working)], clock)
    assert (first.uid, first.stage, first.next_pull, first.cooldown_end, first.task) == (
        3,
        "holding a task",
        None,
        None,
        "t1",
    )
    assert (second.uid, second.hotkey, second.next_pull, second.cooldown_end, second.failures, second.task) == (
        9,
        "hot9",
        5_000_090.0,
        5_000_060.0,
        1,
        None,
    )


def test_a_status_is_frozen_json() -> None:
    assert Status.as_json(OK)["validators"][0]["uid"] == 27
