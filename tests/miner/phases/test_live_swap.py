"""The operator changes the phase of a whole miner that pulls and generates, with the program and with signals."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import bittensor as bt
import pytest
import pytest_asyncio

from miner.app import mine
from miner.config.phase_files import load_phase
from miner.errors import ExitCode
from miner.ledger.reader import LedgerReader
from miner.localnet.validator import LOOPBACK, free_port
from miner.localnet.validator_rules import ValidatorTiming
from miner.phases import experiment_monitor
from miner.pull import state_machine
from miner.subnet.protocol import ImageTask
from pipeline import Asset, OnStep, Request
from tests.support.cli import run
from tests.support.factories import workers_with
from tests.support.generated import FakeBackend, make_asset
from tests.support.local_subnet import LocalSubnet
from tests.support.waiting import TIMEOUT, until

TIMING = ValidatorTiming(throttle_period=0, task_cooldown=0, cooldown_penalty=0, validation_lock=0)


class LiveMiner(LocalSubnet):
    """A whole miner, and a validator with tasks for it; `steps` are those that each object was generated with."""

    def __init__(self, wallets: dict[str, bt.Wallet], folder: Path, image: str) -> None:
        self._monitor_port = free_port()
        monitor = f"monitor: {{port: {self._monitor_port}, gallery: false}}"
        super().__init__(wallets, folder, f"phase: demo\nserving: {{enabled: false}}\n{monitor}\n", TIMING)
        self.steps: list[int] = []
        self.backend = FakeBackend(self._generate)
        self._begun, self._proceed = threading.Semaphore(0), threading.Semaphore(0)
        self.validator.add_tasks(ImageTask(id=name, prompt=image) for name in "abcdef")
        self.write("quick", 7)

    def write(self, name: str, steps: int) -> None:
        self.write_phase(name, f"extends: demo\nsparse_structure_sampler_params: {{steps: {steps}}}\n")

    def _generate(self, request: Request, on_step: OnStep) -> Asset:
        self.steps.append(request.sparse_structure_sampler_params.steps)
        self._begun.release()
        assert self._proceed.acquire(timeout=TIMEOUT)
        return make_asset(request)

    async def next_task(self) -> int:
        """Wait until a generation has begun, and return its steps."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=TIMEOUT)
        return self.steps[-1]

    def finish_task(self) -> None:
        self._proceed.release()

    async def phase(self, *arguments: str) -> str:
        """Run `sn17-miner phase ARGUMENTS` and return its output."""
        options = ("--config", self.config, "--state", self.folder)
        result = await asyncio.to_thread(run, "phase", *options, *arguments)
        assert result.exit_code == 0, result.output
        return result.output

    async def status_with(self, is_reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the miner's status once it is as wanted."""
        async with asyncio.timeout(TIMEOUT), aiohttp.ClientSession() as client:
            while True:
                try:
                    async with client.get(f"http://{LOOPBACK}:{self._monitor_port}/health") as reply:
                        status: dict[str, Any] = await reply.json()
                        if is_reached(status):
                            return status
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.02)

    async def reaches(self, **phases: str) -> dict[str, Any]:
        """Return the miner's status once the next task gets one of these phases, by name and hash."""
        return await self.status_with(lambda status: status["config_hashes"] == phases)

    def config_hash(self, name: str) -> str:
        return load_phase(name, self.config).config_hash

    @property
    def ledger(self) -> Path:
        return self.settings.files.ledger


@pytest_asyncio.fixture
async def miner(
    wallets: dict[str, bt.Wallet], tmp_path: Path, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LiveMiner]:
    miner = LiveMiner(wallets, tmp_path, image_base64)
    monkeypatch.setattr("miner.app.build_workers", workers_with(miner.backend))
    monkeypatch.setattr(experiment_monitor, "INTERVAL", 0.1)
    monkeypatch.setattr(state_machine, "CLOCK_MARGIN", 0.0)
    monkeypatch.setattr(state_machine, "IDLE_DELAY", 0.1)
    await miner.validator.start()
    yield miner
    await miner.validator.stop()


@pytest.mark.slow
async def test_a_day_with_phases(miner: LiveMiner) -> None:
    running = asyncio.create_task(mine(miner.settings))
    assert await miner.next_task() == 12
    demo, quick = miner.config_hash("demo"), miner.config_hash("quick")
    await miner.phase("apply", "quick")
    await miner.reaches(quick=quick)
    miner.finish_task()
    assert await miner.next_task() == 7
    # A broken file changes nothing; one that was mended does, at once.
    miner.write("quick", 0)
    os.kill(os.getpid(), signal.SIGHUP)
    miner.finish_task()
    assert await miner.next_task() == 7
    miner.write("quick", 8)
    os.kill(os.getpid(), signal.SIGHUP)
    mended = miner.config_hash("quick")
    await miner.reaches(quick=mended)
    miner.finish_task()
    assert await miner.next_task() == 8
    await miner.phase("rollback")
    await miner.reaches(quick=quick)
    await miner.phase("rollback")
    await miner.reaches(demo=demo)
    miner.finish_task()
    assert await miner.next_task() == 12
    await miner.phase("split", "demo=50", "quick=50")
    await miner.reaches(demo=demo, quick=mended)
    status = await miner.status_with(lambda status: status["experiment"] is not None)
    assert status["phase"] == "demo=50 quick=50"
    assert [arm["phase"] for arm in status["experiment"]["arms"]] == ["demo", "quick"]
    assert status["experiment"]["winner"] is None
    miner.finish_task()
    assert await miner.next_task() in (8, 12)
    miner.finish_task()
    await until(lambda: len(miner.validator.deliveries) == 6)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, TIMEOUT) is ExitCode.CLEAN

    assert [(d.task_id, d.verdict) for d in miner.validator.deliveries] == [(name, "valid") for name in "abcdef"]
    with LedgerReader(miner.ledger) as reader:
        rows, phases = reader.tasks(), reader.phases()
    assert [(row.task_id, row.outcome) for row in rows] == [(name, "accepted") for name in "abcdef"]
    assert [row.config_hash for row in rows[:5]] == [demo, quick, quick, mended, demo]
    assert [row.arm is None for row in rows] == [True] * 5 + [False]
    assert [(row.action, row.phase, row.config_hash) for row in phases] == [
        *(("start", "demo", demo), ("apply", "quick", quick), ("apply", "quick", mended)),
        *(("rollback", "quick", quick), ("rollback", "demo", demo)),
        *(("apply", "demo", demo), ("apply", "quick", mended)),
    ]
    history = await miner.phase("history")
    assert f"start     demo         {demo}" in history
    assert "split     demo=50 quick=50" in history
