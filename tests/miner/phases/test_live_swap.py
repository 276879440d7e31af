"""The operator changes the phase of a whole miner that pulls and generates, with the script and with signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import bittensor as bt
import pytest
import pytest_asyncio

from miner import app as node_module
from miner.app import Node
from miner.cli.phase import main as phase_script
from miner.config.phase import Phase
from miner.errors import ExitCode
from miner.ledger.reader import LedgerReader
from miner.localnet.validator import LOOPBACK, LocalValidator, free_port, write_chain_file
from miner.localnet.validator_rules import ValidatorTiming
from miner.phases import experiment_monitor as referee
from miner.pull import state_machine as validator_state
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import ImageTask
from pipeline import Asset, OnStep, Request
from tests.support.factories import loaded_at_once, make_asset

TIMEOUT = 30.0
TIMING = ValidatorTiming(throttle_period=0, task_cooldown=0, cooldown_penalty=0, validation_lock=0)


class Bench:
    """A validator with tasks and a node that pulls them; `steps` are those that each was generated with."""

    def __init__(self, wallets: dict[str, bt.Wallet], folder: Path, image: str) -> None:
        self.steps: list[int] = []
        self.begun, self.proceed = threading.Semaphore(0), threading.Semaphore(0)
        self.folder = folder
        self.validator = LocalValidator(wallets["validator"], free_port(), lambda _: True, TIMING)
        self.validator.add_tasks(ImageTask(id=name, prompt=image) for name in "abcdef")
        miner = wallets["miner"]
        neuron = Neuron(
            uid=0,
            hotkey=self.validator.hotkey,
            coldkey="c",
            stake=5000,
            validator_permit=True,
            ip=LOOPBACK,
            port=self.validator.port,
        )
        own = Neuron(uid=1, hotkey=miner.hotkey.ss58_address, coldkey="c")
        write_chain_file(folder / "chain.json", [neuron, own])
        self.config = folder / "miner.yaml"
        self.config.write_text("phase: demo\nserving: {enabled: false}\nmonitor: {enabled: false}\n")
        (folder / "phases").mkdir()
        self.write("quick", 7)
        arguments = f"--config {self.config} --wallet.path {miner.path} --wallet.name {miner.name}"
        network = f"--subtensor.network file:{folder / 'chain.json'}"
        self.node = Node(run_settings(*f"{arguments} {network}".split()))

    def write(self, name: str, steps: int) -> None:
        content = f"extends: demo\nsparse_structure_sampler_params: {{steps: {steps}}}\n"
        (self.folder / "phases" / f"{name}.yaml").write_text(content)

    def generate(self, request: Request, on_step: OnStep) -> Asset:
        self.steps.append(request.sparse_structure_sampler_params.steps)
        self.begun.release()
        assert self.proceed.acquire(timeout=TIMEOUT)
        return make_asset(request)

    async def next_task(self) -> int:
        """Wait for a generation to begin; its steps."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=TIMEOUT)
        return self.steps[-1]

    async def phase(self, *arguments: str) -> int:
        options = ["--config", str(self.config), "--state", str(self.folder), *arguments]
        return await asyncio.to_thread(phase_script, options)

    @property
    def settings(self) -> Phase:
        """Of what the next task will be generated with."""
        return self.node.phases.choice.phases[0].settings


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the node offers no event for it
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def bench(
    wallets: dict[str, bt.Wallet], tmp_path: Path, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    bench = Bench(wallets, tmp_path, image_base64)
    backend = SimpleNamespace(generate=bench.generate)
    monkeypatch.setattr(node_module, "load", loaded_at_once(backend))
    await bench.validator.start()
    yield bench
    await bench.validator.stop()


async def test_a_day_with_phases(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(referee, "INTERVAL", 0.1)
    monkeypatch.setattr(validator_state, "CLOCK_MARGIN", 0.0)
    monkeypatch.setattr(validator_state, "IDLE_DELAY", 0.1)
    running = asyncio.create_task(bench.node.run())
    assert await bench.next_task() == 12
    assert await bench.phase("apply", "quick") == 0
    await until(lambda: bench.node.status().phase == "quick")
    bench.proceed.release()
    assert await bench.next_task() == 7
    # A broken file changes nothing; one that was mended does, at once.
    bench.write("quick", 0)
    os.kill(os.getpid(), signal.SIGHUP)
    bench.proceed.release()
    assert await bench.next_task() == 7
    bench.write("quick", 8)
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: bench.settings.sparse_structure_sampler_params.steps == 8)
    bench.proceed.release()
    assert await bench.next_task() == 8
    for steps in (7, 12):
        assert await bench.phase("rollback") == 0
        await until(lambda steps=steps: bench.settings.sparse_structure_sampler_params.steps == steps)  # type: ignore[misc]
    bench.proceed.release()
    assert await bench.next_task() == 12
    assert await bench.phase("split", "demo=50", "quick=50") == 0
    await until(lambda: bench.node.status().phase == "demo=50 quick=50")
    await until(lambda: bench.node.status().experiment is not None)
    status = json.loads(json.dumps(bench.node.status().as_json()))
    assert [arm["phase"] for arm in status["experiment"]["arms"]] == ["demo", "quick"]
    assert status["experiment"]["winner"] is None
    assert status["config_hashes"] == {arm.name: arm.config_hash for arm in bench.node.phases.choice.phases}
    bench.proceed.release()
    assert await bench.next_task() in (8, 12)
    bench.proceed.release()
    await until(lambda: len(bench.validator.deliveries) == 6)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, TIMEOUT) is ExitCode.CLEAN

    assert [(d.task_id, d.verdict) for d in bench.validator.deliveries] == [(name, "valid") for name in "abcdef"]
    with LedgerReader(bench.folder / "ledger.sqlite") as reader:
        rows, phases = reader.tasks(), reader.phases()
    assert [(row.task_id, row.outcome) for row in rows] == [(name, "accepted") for name in "abcdef"]
    assert [row.phase for row in rows[:5]] == ["demo", "quick", "quick", "quick", "demo"]
    assert [row.arm is None for row in rows] == [True] * 5 + [False]
    assert len({row.config_hash for row in rows[1:4]}) == 2
    assert [(row.action, row.phase) for row in phases] == [
        *(("start", "demo"), ("apply", "quick"), ("apply", "quick")),
        *(("rollback", "quick"), ("rollback", "demo"), ("apply", "demo"), ("apply", "quick")),
    ]
    assert [row.config_hash for row in phases if row.phase == "quick"] == [
        *(rows[1].config_hash, rows[3].config_hash, rows[1].config_hash, rows[3].config_hash),
    ]
    capsys.readouterr()
    assert await bench.phase("history") == 0
    out = capsys.readouterr().out
    assert f"start     demo         {rows[0].config_hash}" in out
    assert "split     demo=50 quick=50" in out
