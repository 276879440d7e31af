from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from miner.config.phase_files import NamedPhase, load_phase
from miner.config.settings import SpzSettings
from miner.errors import OperatorError
from miner.gpu.models import LoadedModels
from miner.gpu.scheduler import Scheduler
from miner.ledger.reader import LedgerReader, TaskRow, read_open_tasks
from miner.ledger.recorder import TaskRecorder
from miner.ledger.writer import LedgerWriter
from miner.phases.manager import ModelOwner, PhaseFiles, PhaseManager
from miner.phases.state import Arm, PhaseChoice, PhaseState, StateFile
from miner.tasks.runner import TaskRunner
from miner.tasks.task import Result, Task
from pipeline import Asset, OnStep, Request
from tests.support.factories import FakeBackend, image_prompt, make_asset

TIMEOUT = 30.0
PHASE = """
image: {{checkpoint: {checkpoint}}}
sparse_structure_sampler_params: {{steps: {steps}, cfg_strength: 5.0}}
slat_sampler_params: {{steps: {steps}, cfg_strength: 2.5}}
background: {{model: u2netp}}
"""


class Backend(FakeBackend):
    """Makes objects at once; remembers by whom and with how many steps."""

    def __init__(self, bench: Bench, phase: NamedPhase) -> None:
        assert phase.settings.image is not None
        self.checkpoint = phase.settings.image.checkpoint
        super().__init__(self.make)
        self._bench = bench

    def make(self, request: Request, on_step: OnStep) -> Asset:
        self._bench.generating()
        self._bench.made[request.seed] = self.checkpoint, request.sparse_structure_sampler_params.steps
        return make_asset(request)


class Bench:
    """A miner's phases, its tasks and its ledger, without a network around them."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "miner.yaml"
        self.state = StateFile(folder / "state")
        self.ledger = LedgerWriter(folder / "ledger.sqlite")
        self.made: dict[int, tuple[str, int]] = {}
        self.loads: list[str] = []
        self.released = threading.Event()
        self.alive: dict[str, weakref.ref[Backend]] = {}
        self.loading: Callable[[], object] = lambda: None
        self.generating: Callable[[], object] = lambda: None
        self.refused = ""
        self.scheduler = Scheduler()
        (folder / "phases").mkdir()
        self.write("a", 3)
        self.write("b", 5)
        self.write("other", 7, "/elsewhere")

    def write(self, name: str, steps: int, checkpoint: str = "embedded") -> None:
        path = self.config.parent / "phases" / f"{name}.yaml"
        path.write_text(PHASE.format(checkpoint=checkpoint, steps=steps))

    def phase(self, name: str) -> NamedPhase:
        return load_phase(name, self.config)

    async def start(self, configured: str = "a") -> None:
        owner = ModelOwner(self.check_allowed, self.load, self.released.set)
        files = PhaseFiles(self.config, self.state)
        self.manager = await PhaseManager.open(files, self.phase(configured), owner, self.ledger)
        self.runner = TaskRunner(self.scheduler, self.manager.selector, SpzSettings())
        open_tasks = await asyncio.to_thread(read_open_tasks, self.ledger.path)
        self.recorder = TaskRecorder(self.ledger, "test", open_tasks=open_tasks)

    def check_allowed(self, phase: NamedPhase) -> None:
        if phase.name == self.refused:
            raise OperatorError(f"phase {phase.name} is a toy")

    async def load(self, phase: NamedPhase) -> LoadedModels:
        self.loads.append(phase.name)
        await asyncio.to_thread(self.loading)
        backend = Backend(self, phase)
        self.alive[phase.name] = weakref.ref(backend)
        return LoadedModels(backend, phase.settings.models_key)  # type: ignore[arg-type]

    def apply(self, name: str) -> None:
        self.choose(PhaseChoice.single(self.phase(name)))

    def choose(self, choice: PhaseChoice) -> None:
        def change(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return state.apply(choice, "apply", "for the test")

        self.state.change(change)

    def roll_back(self) -> None:
        def change(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return state.roll_back(self.manager.files.find, "rollback", "rolled back")

        self.state.change(change)

    def split(self, **weights: int) -> PhaseChoice:
        arms = {name: Arm(weight=weight, settings=self.phase(name).settings) for name, weight in weights.items()}
        return PhaseChoice(experiment="e1", seed=7, arms=arms)

    async def do(self, seed: int, validator: str = "5V", kind: str = "pull") -> Result:
        record = self.recorder.open(kind, validator, str(seed), "image")  # type: ignore[arg-type]
        return await self.runner.run(Task(str(seed), image_prompt(), 0.0, seed=seed, record=record))

    async def made_with(self, seed: int) -> tuple[str, int]:
        await self.do(seed)
        return self.made[seed]

    def rows(self) -> list[TaskRow]:
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return reader.tasks()

    def history(self) -> list[tuple[str, str]]:
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return [(row.action, row.phase) for row in reader.phases()]

    @property
    def current(self) -> str:
        state = self.state.read()
        assert state is not None
        return state.current.short_label


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.start()
    yield bench
    assert await asyncio.to_thread(bench.scheduler.stop, TIMEOUT)
    assert await asyncio.to_thread(bench.ledger.close, TIMEOUT)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on other threads
            await asyncio.sleep(0.01)


async def restarted(bench: Bench, configured: str = "a") -> tuple[str, int]:
    await bench.start(configured)
    return await bench.made_with(len(bench.made) + 100)
