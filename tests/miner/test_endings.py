"""How a miner ends: a whole one in this process, with a generator of the test's."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import bittensor as bt
import pytest
import pytest_asyncio

from miner import app
from miner.app import mine
from miner.errors import ExitCode, MinerError
from miner.localnet.validator import write_chain_file
from miner.runtime import find_owner
from miner.subnet.protocol import ImageTask
from pipeline import Asset, OnStep, Request
from tests.support.factories import workers_with
from tests.support.generated import FakeBackend, make_asset
from tests.support.local_subnet import LocalSubnet

TIMEOUT = 30.0
SETTINGS = "phase: demo\nchain: {sync_interval: 0.2}\nserving: {enabled: false}\nmonitor: {enabled: false}\n"


class PullingSubnet(LocalSubnet):
    """A subnet whose validator has two tasks for the miner; the test replaces `generate`."""

    def __init__(self, wallets: dict[str, bt.Wallet], folder: Path, image: str) -> None:
        super().__init__(wallets, folder, SETTINGS)
        self.generate: Callable[[Request, OnStep], Asset] = lambda request, _: make_asset(request)
        self.begun = threading.Event()
        self.validator.add_tasks(ImageTask(id=name, prompt=image) for name in ("a", "b"))

    def work(self, request: Request, on_step: OnStep) -> Asset:
        self.begun.set()
        return self.generate(request, on_step)

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(delivery.task_id, delivery.verdict) for delivery in self.validator.deliveries]


@pytest_asyncio.fixture
async def subnet(
    wallets: dict[str, bt.Wallet], tmp_path: Path, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PullingSubnet]:
    subnet = PullingSubnet(wallets, tmp_path, image_base64)
    monkeypatch.setattr(app, "build_workers", workers_with(FakeBackend(subnet.work)))
    await subnet.validator.start()
    yield subnet
    await subnet.validator.stop()


async def test_a_broken_device_ends_the_process_after_the_task_was_answered(
    subnet: PullingSubnet, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit 1, which a process manager answers with a restart; the task that broke it does not come back."""

    def break_device(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    subnet.generate = break_device
    with pytest.raises(MinerError, match="cannot go on in this process: RuntimeError: CUDA error") as caught:
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)
    assert caught.value.exit_code is ExitCode.FAILURE
    assert subnet.verdicts == [("a", "skipped")]
    assert "Task a: no result" in caplog.text


async def test_a_dead_generator_thread_ends_the_process(subnet: PullingSubnet) -> None:
    def die(request: Request, on_step: OnStep) -> Asset:
        raise SystemExit

    subnet.generate = die
    with pytest.raises(MinerError, match="SystemExit"):
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)


async def test_a_generation_that_hangs_ends_the_process(subnet: PullingSubnet, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(request: Request, on_step: OnStep) -> Asset:
        release.wait(TIMEOUT)
        return make_asset(request)

    subnet.generate = hang
    for name, seconds in (("GENERATION_LIMIT", 0.2), ("DRAIN_TIMEOUT", 0.2), ("STOP_TIMEOUT", 0.2)):
        monkeypatch.setattr(app, name, seconds)
    with pytest.raises(MinerError, match="hung"):
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)
    release.set()


async def test_a_background_task_that_keeps_dying_ends_the_process(
    subnet: PullingSubnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(app, "watch_workers", die)
    monkeypatch.setattr("miner.runtime.supervisor.FIRST_RESTART_DELAY", 0.001)
    with pytest.raises(MinerError, match="the workers' watch failed 8 times in a row") as caught:
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)
    assert caught.value.exit_code is ExitCode.FAILURE


async def test_a_signal_lets_the_task_in_hand_be_finished_and_takes_no_other(subnet: PullingSubnet) -> None:
    release = threading.Event()

    def wait(request: Request, on_step: OnStep) -> Asset:
        release.wait(TIMEOUT)
        return make_asset(request)

    subnet.generate = wait
    running = asyncio.create_task(mine(subnet.settings))
    assert await asyncio.to_thread(subnet.begun.wait, TIMEOUT)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.wait_for(running, TIMEOUT) is ExitCode.CLEAN
    assert subnet.verdicts == [("a", "valid")]


async def test_a_task_that_does_not_end_in_time_is_named_and_left_with_its_validator(
    subnet: PullingSubnet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_on(request: Request, on_step: OnStep) -> Asset:
        while True:
            on_step("structure", 1, 2)

    subnet.generate = run_on
    caplog.set_level(logging.INFO, "miner")
    monkeypatch.setattr(app, "DRAIN_TIMEOUT", 0.1)
    running = asyncio.create_task(mine(subnet.settings))
    assert await asyncio.to_thread(subnet.begun.wait, TIMEOUT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, TIMEOUT) is ExitCode.CLEAN
    assert subnet.verdicts == []
    assert "Task a: holding a task when we stopped; validator 0" in caplog.text
    assert caplog.messages[-1] == "Stopped. Totals: pulled 1"


async def test_a_second_miner_on_the_same_state_folder_ends_and_names_the_first(subnet: PullingSubnet) -> None:
    running = asyncio.create_task(mine(subnet.settings))
    assert await asyncio.to_thread(subnet.begun.wait, TIMEOUT)
    with pytest.raises(MinerError, match=f"process {os.getpid()} works on {subnet.folder} already") as caught:
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)
    assert caught.value.exit_code is ExitCode.OPERATOR_MISTAKE
    running.cancel()
    await asyncio.wait([running])
    assert find_owner(subnet.folder) is None


async def test_deregistered_with_a_task_in_hand(subnet: PullingSubnet) -> None:
    def leave(request: Request, on_step: OnStep) -> Asset:
        write_chain_file(subnet.chain_file, subnet.neurons[:1])
        return make_asset(request)

    subnet.generate = leave
    with pytest.raises(MinerError, match="no longer registered") as caught:
        await asyncio.wait_for(mine(subnet.settings), TIMEOUT)
    assert caught.value.exit_code is ExitCode.NOT_REGISTERED
