"""The parts of a miner that work on tasks, without a process and a network around them."""

import asyncio
import itertools
import math
import threading
from collections.abc import Callable
from pathlib import Path

from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.config.settings import SpzSettings
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import LoadedModels, PhaseModels
from miner.gpu.pool import WorkerPool
from miner.ledger.reader import LedgerReader, TaskRow, read_open_tasks
from miner.ledger.recorder import TaskRecorder, Transport
from miner.ledger.writer import LedgerWriter
from miner.phases.selector import PhaseSelector
from miner.phases.state import PhaseChoice
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Result, Task
from pipeline import Asset, OnStep, Request, Splats
from tests.support.generated import FakeBackend, FakeScorer, image_prompt, instant_generate, make_asset
from tests.support.waiting import TIMEOUT

UID = 7
"""The uid of every validator in the ledger."""


class MinerParts:
    """A worker, a ledger, a phase selector, a recorder and a runner.

    The test replaces `generate`, which makes the objects, and `score`, which phases with a scorer judge them with.
    `requests` lists what the backend was asked for.
    """

    def __init__(self, folder: Path, phase: Phase) -> None:
        self.generate: Callable[[Request, OnStep], Asset] = instant_generate
        self.score: Callable[[Splats], float] = lambda _: 0.5
        self.requests: list[Request] = []
        self.backend = FakeBackend(self._generate)
        self.worker = LocalWorker("cpu", self.load_models)
        self.pool = WorkerPool((self.worker,))
        self._loads = itertools.count()
        self.ledger = LedgerWriter(folder / "ledger.sqlite")
        self.restart(PhaseSelector(*self._choose(phase)))

    def restart(self, selector: PhaseSelector) -> None:
        """Work like a miner that has just started: with this selector and what is in the ledger."""
        self.selector = selector
        self.runner = TaskRunner(self.pool, selector, SpzSettings())
        self.recorder = TaskRecorder(self.ledger, "1.0", lambda _hotkey: UID, read_open_tasks(self.ledger.path))

    def use_phase(self, phase: Phase) -> None:
        """Give this phase to every task from the next one on."""
        self.selector.swap(*self._choose(phase))

    def make_task(
        self, seed: int, validator: str | None = "5V", transport: Transport = "pull", deadline: float = math.inf
    ) -> Task:
        """Make a task whose id is its seed; without a validator it is not recorded."""
        record = self.recorder.open(transport, validator, str(seed), "image") if validator else None
        return Task(str(seed), image_prompt(), 1.0, seed=seed, deadline=deadline, record=record)

    async def run(
        self, seed: int, validator: str | None = "5V", transport: Transport = "pull", deadline: float = math.inf
    ) -> Result:
        """Run a task, see `make_task`."""
        return await self.runner.run(self.make_task(seed, validator, transport, deadline))

    def rows(self) -> list[TaskRow]:
        """Return the tasks in the ledger."""
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return reader.tasks()

    def close(self) -> None:
        """Stop the threads."""
        assert self.worker.stop(TIMEOUT)
        assert self.ledger.close(TIMEOUT)

    def load_models(self, phase: NamedPhase) -> LoadedModels:
        """Return what the worker makes candidates with."""
        scorer = FakeScorer(lambda splats: self.score(splats)) if phase.settings.scorer else None
        return LoadedModels(self.backend, scorer)

    def _choose(self, phase: Phase) -> tuple[PhaseChoice, PhaseModels]:
        named, models = NamedPhase("demo", phase), f"test {next(self._loads)}"
        loaded = self.worker.load(models, named).result(TIMEOUT)
        return PhaseChoice.single(named), PhaseModels(models, phase.models_key, loaded.can_score)

    def _generate(self, request: Request, on_step: OnStep) -> Asset:
        self.requests.append(request)
        return self.generate(request, on_step)


class HeldGeneration:
    """A generation that, once begun, lasts until it is released."""

    def __init__(self) -> None:
        self._has_begun = threading.Event()
        self._release = threading.Event()

    def __call__(self, request: Request, on_step: OnStep) -> Asset:
        self._has_begun.set()
        assert self._release.wait(TIMEOUT)
        return make_asset(request)

    async def begins(self) -> None:
        """Return once the generation has begun."""
        assert await asyncio.to_thread(self._has_begun.wait, TIMEOUT)

    def release(self) -> None:
        """Let the generation end."""
        self._release.set()
