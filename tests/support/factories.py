"""Pieces of a miner for tests: splats, assets, a backend, a phase selector, a clock that the test moves."""

import asyncio
import base64
import io
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image

from miner.cli.run import run as run_command
from miner.config.phase_files import NamedPhase
from miner.config.run_settings import RunOptions, RunSettings
from miner.gpu.models import LoadedModels
from miner.localnet.raw_client import AxonAddress, RawRequest
from miner.runtime.clock import Clock
from pipeline import (
    STAGES,
    Asset,
    Conditioning,
    ImagePrompt,
    OnStep,
    Prompt,
    Request,
    Splats,
    decode_image_prompt,
)


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


class FakeBackend:
    """A backend whose objects are a function of the request."""

    supports_image = supports_text = True

    def __init__(self, generate: Callable[[Request, OnStep], Asset] = instant_generate) -> None:
        self._generate = generate
        self.encoded: list[Prompt] = []

    def warm_up_steps(self) -> Iterator[None]:
        yield

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        self.encoded.append(prompt)
        return Conditioning(None, {})

    def sample(self, conditioning: object, request: Request, on_step: OnStep = lambda *_: None) -> Asset:
        return self._generate(request, on_step)

    def generate(self, request: Request, on_step: OnStep = lambda *_: None) -> Asset:
        return self.sample(self.encode(request.prompt), request, on_step)


def loaded_at_once(backend: object) -> Callable[..., Awaitable[LoadedModels]]:
    """In the place of miner.gpu.models.load_and_warm_up: the test's backend, whatever the phase."""

    async def load(phase: NamedPhase, *_: object) -> LoadedModels:
        return LoadedModels(backend, phase.settings.models_key)  # type: ignore[arg-type]

    return load


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_base64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def make_picture() -> Image.Image:
    """A red box on a transparent ground."""
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (27, 4, 37, 60))
    return image


def image_prompt() -> ImagePrompt:
    return decode_image_prompt(png(make_picture()))


def raw_headers(request: RawRequest, axon: AxonAddress) -> list[tuple[bytes, bytes]]:
    """Return a request's headers as ASGI passes them."""
    return [(name.encode(), value.encode()) for name, value in request.headers(axon).items()]
