import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.gpu.models import LoadedModels
from miner.ledger.reader import LedgerReader
from miner.phases.files import PhaseFiles
from miner.phases.manager import ModelOwner, PhaseManager
from miner.phases.state import Arm, PhaseChoice, PhaseState, StateFile
from pipeline import Asset, OnStep, Request
from tests.support.generated import FakeBackend, FakeScorer, make_asset
from tests.support.miner_parts import MinerParts
from tests.support.waiting import TIMEOUT

PHASE = """
image: {{checkpoint: {checkpoint}}}
sparse_structure_sampler_params: {{steps: {steps}, cfg_strength: 5.0}}
slat_sampler_params: {{steps: {steps}, cfg_strength: 2.5}}
background: {{model: u2netp}}
"""


class ManagedMiner(MinerParts):
    """A miner's parts with phases a, b and other, which need other models, and the manager that chooses among them.

    The test replaces `loading` and `generating`, which are called at the beginning of each. `made` maps the seed of
    each object to the checkpoint and the steps that it was made with; `backends` maps the name of each phase that was
    loaded to its backend.
    """

    manager: PhaseManager

    def __init__(self, folder: Path) -> None:
        self.config = folder / "miner.yaml"
        self.state = StateFile(folder / "state")
        self.made: dict[int, tuple[str, int]] = {}
        self.loads: list[str] = []
        self.backgrounds: list[tuple[str, ...]] = []
        self.backends: dict[str, weakref.ref[FakeBackend]] = {}
        self.loading: Callable[[], object] = lambda: None
        self.generating: Callable[[], object] = lambda: None
        self.load_problems: tuple[str, ...] = ()
        self.freed = threading.Event()
        self.refused = ""
        (folder / "phases").mkdir()
        self.write("a", 3)
        self.write("b", 5)
        self.write("other", 7, "/elsewhere")
        super().__init__(folder, self.phase("a").settings)
        # What the base class loaded is none of the manager's.
        self.loads.clear()
        self.backgrounds.clear()
        # A warm-up would wait for the generations that tests hold.
        self.worker._warm_up = lambda _: 0.0  # type: ignore[method-assign]

    async def start(self, configured: str = "a") -> None:
        """Start, or start again, with the phase that the settings name."""
        owner = ModelOwner(self.check_allowed, self.pool.load, self.unload)
        files = PhaseFiles(self.config, self.state)
        self.manager = await PhaseManager.open(files, self.phase(configured), owner, self.ledger)
        await asyncio.to_thread(self.restart, self.manager.selector)

    async def restarted(self, configured: str = "a") -> tuple[str, int]:
        """Start again; return what the next task is made with."""
        await self.start(configured)
        return await self.made_with(len(self.made) + 100)

    def write(self, name: str, steps: int, checkpoint: str = "embedded") -> None:
        path = self.config.parent / "phases" / f"{name}.yaml"
        path.write_text(PHASE.format(checkpoint=checkpoint, steps=steps))

    def phase(self, name: str) -> NamedPhase:
        return load_phase(name, self.config)

    def check_allowed(self, phase: NamedPhase) -> None:
        if phase.name == self.refused:
            raise OperatorError(f"phase {phase.name} is a toy")

    def unload(self, models: str) -> None:
        self.pool.unload(models)
        self.freed.set()

    def load_models(self, phase: NamedPhase) -> LoadedModels:
        self.loads.append(phase.name)
        self.backgrounds.append(phase.settings.background.names)
        self.loading()
        assert phase.settings.image is not None
        checkpoint = phase.settings.image.checkpoint

        def generate(request: Request, on_step: OnStep) -> Asset:
            self.generating()
            self.made[request.seed] = checkpoint, request.sparse_structure_sampler_params.steps
            return make_asset(request)

        backend = FakeBackend(generate)
        self.backends[phase.name] = weakref.ref(backend)
        return LoadedModels(backend, FakeScorer(lambda _: 0.5) if phase.settings.scorer else None, self.load_problems)

    def split(self, **weights: int) -> PhaseChoice:
        arms = {name: Arm(weight=weight, settings=self.phase(name).settings) for name, weight in weights.items()}
        return PhaseChoice(experiment="e1", seed=7, arms=arms)

    def change(self, change: Callable[[PhaseState], PhaseState]) -> None:
        """Change the state file, as `sn17-miner phase` does."""

        def change_existing(state: PhaseState | None) -> PhaseState:
            assert state is not None
            return change(state)

        self.state.change(change_existing)

    def choose(self, choice: PhaseChoice) -> None:
        self.change(lambda state: state.apply(choice, "apply", "for the test"))

    def apply(self, name: str) -> None:
        self.choose(PhaseChoice.single(self.phase(name)))

    def roll_back(self) -> None:
        self.change(lambda state: state.roll_back(self.manager.files.choose, "rollback", "rolled back"))

    async def made_with(self, seed: int) -> tuple[str, int]:
        """Run a task; return the checkpoint and the steps that its object was made with."""
        await self.run(seed)
        return self.made[seed]

    def history(self) -> list[tuple[str, str]]:
        """Return the changes of phase in the ledger."""
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return [(row.action, row.phase) for row in reader.phases()]

    @property
    def current(self) -> str:
        """The choice in the state file."""
        state = self.state.read()
        assert state is not None
        return state.current.short_label


@pytest_asyncio.fixture
async def miner(tmp_path: Path) -> AsyncIterator[ManagedMiner]:
    miner = ManagedMiner(tmp_path)
    await miner.start()
    yield miner
    await asyncio.to_thread(miner.close)
