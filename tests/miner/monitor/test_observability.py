"""A whole miner in this process, observed over HTTP, and the log that it leaves."""

import asyncio
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import bittensor as bt
import pytest
import pytest_asyncio

from miner import app
from miner.app import mine
from miner.errors import ExitCode
from miner.localnet.validator import LOOPBACK, free_port
from miner.localnet.validator_rules import ValidatorTiming
from miner.runtime.logging import configure
from miner.runtime.supervisor import Supervisor
from miner.subnet.metagraph import read_snapshot
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import ply
from tests.support.factories import ManualClock, workers_with
from tests.support.generated import FakeBackend, make_picture, png, png_base64
from tests.support.local_subnet import LocalSubnet
from tests.support.monitor import until
from tests.support.operator_pipes import COUNTS, SCORES, SECONDS, cut

TIMING = ValidatorTiming(throttle_period=0, task_cooldown=1, cooldown_penalty=0, validation_lock=0)
FORGED = "Score=9.99, Final stats: 999K gaussians"


@pytest.fixture
def our_log() -> Iterator[None]:
    """Loggers as the miner's process has them, and as they were before."""
    loggers = [logging.getLogger(name) for name in ("miner", "pipeline")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    configure(debug=False)
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


class ObservedSubnet(LocalSubnet):
    """A subnet whose validator has two pictures and a sentence that forges numbers, and whose miner has a monitor."""

    def __init__(self, wallets: dict[str, bt.Wallet], folder: Path) -> None:
        self.port = free_port()
        settings = (
            "phase: pictures\nserving: {enabled: false}\n"
            f"monitor: {{port: {self.port}, generate: {{enabled: true, max_body_bytes: 65536}}}}\n"
        )
        super().__init__(wallets, folder, settings, TIMING, {"pictures": "extends: demo\ntext: null\n"})
        image = png_base64(make_picture())
        pictures = [ImageTask(id=name, prompt=image) for name in ("a", "b")]
        self.validator.add_tasks([pictures[0], TextTask(id="c", prompt=FORGED), pictures[1]])

    async def get(self, path: str) -> Any:
        """The JSON that is found there."""
        url = f"http://{LOOPBACK}:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            return await reply.json() if path.endswith("json") or path == "/health" else await reply.text()

    async def has_accepted(self, count: int) -> bool:
        """Whether the miner counts so many accepted results; False before it listens."""
        try:
            health = await self.get("/health")
        except aiohttp.ClientError:
            return False
        return bool(health["counters"].get("accepted") == count)


@pytest_asyncio.fixture
async def subnet(
    wallets: dict[str, bt.Wallet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, our_log: None
) -> AsyncIterator[ObservedSubnet]:
    subnet = ObservedSubnet(wallets, tmp_path)
    monkeypatch.setattr(app, "build_workers", workers_with(FakeBackend()))
    await subnet.validator.start()
    yield subnet
    await subnet.validator.stop()


@pytest.mark.slow
@pytest.mark.process
async def test_a_miner_that_is_observed(subnet: ObservedSubnet) -> None:
    running = asyncio.create_task(mine(subnet.settings))
    async with asyncio.timeout(60):
        while not await subnet.has_accepted(2):
            assert not running.done(), await running
            await asyncio.sleep(0.05)

    health = await subnet.get("/health")
    assert (health["status"], health["pipeline_loaded"], health["service"]) == ("ok", True, "sn17-miner")
    status = await subnet.get("/status.json")
    assert [view["hotkey"] for view in status["validators"]] == [subnet.validator.hotkey]
    metrics = await subnet.get("/metrics")
    assert re.search(r'outcome="accepted",phase="pictures",transport="pull",type="image",uid="0"} 2.0', metrics)
    assert re.search(r'generations_failed_total{.*phase="pictures",transport="pull",type="text",uid="0"} 1.0', metrics)
    assert 'sn17_miner_stage_seconds_count{phase="pictures",stage="structure"} 2.0' in metrics

    # What is generated for this machine shows in the gallery, too, and not in the ledger.
    form = aiohttp.FormData()
    form.add_field("prompt_image_file", png(make_picture()), filename="chair.png")
    form.add_field("seed", "5")
    url = f"http://{LOOPBACK}:{subnet.port}/generate"
    async with aiohttp.ClientSession() as session, session.post(url, data=form) as reply:
        assert reply.status == 200
        assert len(ply.from_bytes(await reply.read())) == 7000
    keys = subnet.folder / "results"
    await until(lambda: len(list(keys.glob("*.json"))) == 3)
    results = (await subnet.get("/results.json"))["results"]
    assert [(one["outcome"], one["data_format"]) for one in results] == [
        (None, "ply"),
        ("accepted", "spz"),
        ("accepted", "spz"),
    ]
    assert results[0]["seed"] == "5"
    figures = await subnet.get("/figures.json")
    assert (figures["total"]["accepted"], figures["total"]["tasks"], figures["problem"]) == (2, 3, "")

    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 60) is ExitCode.CLEAN
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(LOOPBACK, subnet.port)

    assert [neuron.uid for neuron in read_snapshot(subnet.folder / "seen-metagraph.json", 17).neurons] == [0, 1]
    log = (subnet.folder / "logs" / "miner.log").read_text()
    assert list(map(float, cut(SCORES, log))) == pytest.approx([one["score"] for one in results[1:]], abs=0.005)
    assert cut(COUNTS, log) == ["7K"] * 3
    assert len(cut(SECONDS, log)) == 3


async def test_what_only_observes_never_ends_the_miner() -> None:
    clock = ManualClock()
    supervisor = Supervisor(clock.clock)

    async def fail() -> None:
        raise ValueError("a bug")

    supervisor.start("the gallery", fail, vital=False)
    for _ in range(20):
        await clock.pass_sleep()
    assert supervisor.restarts["the gallery"] >= 20
    failure = asyncio.create_task(supervisor.wait_for_failure())
    await asyncio.sleep(0)
    assert not failure.done()
    failure.cancel()
    await supervisor.stop()
