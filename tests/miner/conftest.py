from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import bittensor as bt
import pytest
import torch
from PIL import Image

from miner.config.loader import shipped_config
from miner.config.phase import ExportSettings, Phase
from miner.config.phase_files import NamedPhase, load_phase
from miner.config.settings import SpzSettings
from miner.gpu.models import LoadedModels
from miner.localnet.validator import make_wallet
from miner.phases.selector import PhaseSelector
from miner.phases.state import Chosen
from miner.runtime.clock import Clock
from miner.subnet.metagraph import Neuron, Snapshot
from pipeline import STAGES, Asset, OnStep, Request, Scorer, Splats


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


def make_splats(count: int = 7000, seed: int = 0) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator) - 0.5,
        quaternions=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator)),
        log_scales=torch.full((count, 3), -4.5),
        opacity_logits=torch.randn(count, generator=generator),
        f_dc=torch.randn(count, 3, generator=generator),
    )


def make_asset(request: Request, count: int = 7000) -> Asset:
    return Asset(make_splats(count, request.seed), request.seed, count // 32, dict.fromkeys(STAGES, 0.25))


def instant_generate(request: Request, on_step: OnStep) -> Asset:
    return make_asset(request)


def phases_with(
    phase: Phase, generate: Callable[[Request, OnStep], Asset] = instant_generate, scorer: Scorer | None = None
) -> PhaseSelector:
    """One phase, with a generator and a scorer of the test's."""
    loaded = LoadedModels(SimpleNamespace(generate=generate), phase.loaded, scorer)  # type: ignore[arg-type]
    return PhaseSelector(Chosen(phase="demo", settings=phase), loaded)


def loaded_at_once(backend: object) -> Callable[..., Awaitable[LoadedModels]]:
    """In the place of miner.gpu.models.load: the test's backend, whatever the phase."""

    async def load(phase: NamedPhase, *_: object) -> LoadedModels:
        return LoadedModels(backend, phase.settings.loaded)  # type: ignore[arg-type]

    return load


def png_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def image_base64() -> str:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (27, 4, 37, 60))
    return png_base64(image)


@pytest.fixture(scope="session")
def wallets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bt.Wallet]:
    folder = tmp_path_factory.mktemp("wallets")
    return {name: make_wallet(folder, name) for name in ("validator", "miner", "stranger")}


@pytest.fixture
def snapshot(wallets: dict[str, bt.Wallet]) -> Snapshot:
    validator = Neuron(
        uid=0,
        hotkey=wallets["validator"].hotkey.ss58_address,
        coldkey="cold-validator",
        stake=5000.0,
        validator_permit=True,
    )
    return Snapshot(
        17, 1000, (validator, Neuron(uid=1, hotkey=wallets["miner"].hotkey.ss58_address, coldkey="cold-miner"))
    )


@pytest.fixture(scope="session")
def phase() -> Phase:
    """The demo's, for pictures alone, whose results leave as they were generated."""
    demo = load_phase("demo", shipped_config() / "miner.yaml").settings
    return demo.model_copy(update={"text": None, "export": ExportSettings()})


@pytest.fixture(scope="session")
def container() -> SpzSettings:
    return SpzSettings()


@pytest.fixture
def config_folder(tmp_path: Path) -> Path:
    """A copy of the shipped settings to spoil."""
    import shutil

    return Path(shutil.copytree(shipped_config(), tmp_path / "config"))
