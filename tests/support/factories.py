"""Pieces of a miner for tests: splats, assets, a backend, a phase selector, a clock that the test moves."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from miner.cli.run import run as run_command
from miner.config.run_settings import RunOptions, RunSettings
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import LoadedModels
from miner.gpu.worker import Worker
from miner.localnet.raw_client import AxonAddress, RawRequest
from miner.runtime.clock import Clock


def run_settings(*arguments: str) -> RunSettings:
    """The settings that `sn17-miner run ARGUMENTS` would run with."""
    params = run_command.make_context("run", list(arguments)).params
    del params["debug"]
    return RunSettings.load(RunOptions(state_dir=params.pop("state"), **params))


class ManualClock:
    """A clock whose sleepers wait for the test: `next_sleep` tells how long one wants to, `wake` lets that pass."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._sleepers: asyncio.Queue[tuple[float, asyncio.Future[None]]] = asyncio.Queue()
        self._asleep: list[tuple[float, asyncio.Future[None]]] = []

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.wall, self.sleep)

    def now(self) -> float:
        return time.monotonic() + self.passed

    def wall(self) -> float:
        return time.time() + self.passed

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.put_nowait((seconds, woken))
        await woken

    async def next_sleep(self) -> float:
        async with asyncio.timeout(20):
            self._asleep.append(await self._sleepers.get())
        return self._asleep[-1][0]

    def wake(self) -> None:
        for seconds, woken in self._asleep:
            if not woken.done():
                self.passed += seconds
                woken.set_result(None)
        self._asleep.clear()

    async def pass_sleep(self) -> float:
        """Let the next sleep pass; its seconds."""
        seconds = await self.next_sleep()
        self.wake()
        return seconds


@dataclass
class TwoClocks:
    """A steady clock and a wall clock that the test sets."""

    steady: float = 5000.0
    unix: float = 1.7e9

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.steady, lambda: self.unix)

    def pass_time(self, seconds: float) -> None:
        self.steady += seconds
        self.unix += seconds


def workers_with(backend: object) -> Callable[[object], tuple[Worker, ...]]:
    """In the place of miner.gpu.build_workers: one in this process, with the test's backend, whatever the phase."""
    return lambda _settings: (LocalWorker("cpu", lambda _phase: LoadedModels(backend)),)  # type: ignore[arg-type]


def raw_headers(request: RawRequest, axon: AxonAddress) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as ASGI passes them."""
    return [(name.encode(), value.encode()) for name, value in request.headers(axon).items()]
