"""Models are loaded while others generate; the warm-up, which needs the device to itself, waits its turn."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
import torch

from miner.config.phase import Phase, ScorerSettings, TextToImageSettings
from miner.config.phase_files import NamedPhase
from miner.config.settings import MinerSettings
from miner.errors import OperatorError
from miner.gpu import models
from miner.gpu.scheduler import Scheduler
from pipeline import BackgroundModelError, CheckpointError, OutOfMemory, TextPrompt, TextToImageError, ValidatorScorer
from tests.support.generated import make_splats
from tests.support.scorers import write_scorer
from tests.support.waiting import TIMEOUT

WARM = SimpleNamespace(warm_up_steps=lambda: iter(()))
SETTINGS = MinerSettings(phase="demo", device="cpu")


@pytest_asyncio.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    assert await asyncio.to_thread(scheduler.stop, TIMEOUT)


@pytest.fixture
def named(phase: Phase) -> NamedPhase:
    return NamedPhase("demo", phase)


async def test_the_warm_up_never_runs_beside_a_generation(
    scheduler: Scheduler, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of the device are recorded in it, and a generation waits for the device meanwhile."""
    order: list[str] = []
    loaded, release, begun = threading.Event(), threading.Event(), threading.Event()

    def warm_up_steps() -> Iterator[None]:
        for number in (1, 2, 3):
            order.append(f"warm {number}")
            if number == 2:
                urgent.append(scheduler.submit(lambda _: order.append("urgent"), 5.0, deadline=0.0))
            yield

    urgent: list[Future[None]] = []
    backend = SimpleNamespace(warm_up_steps=warm_up_steps)

    def load_backend(*_: object, **__: object) -> object:
        order.append("loaded")
        loaded.set()
        return backend

    def generate(_: object) -> None:
        begun.set()
        assert release.wait(TIMEOUT)
        order.append("generated")

    monkeypatch.setattr(models, "load_backend", load_backend)
    task = scheduler.submit(generate, 0.0)
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    loads = asyncio.create_task(models.load_and_warm_up(named, SETTINGS, scheduler))
    assert await asyncio.to_thread(loaded.wait, TIMEOUT)
    later = scheduler.submit(generate, 5.0, deadline=0.0)
    release.set()
    found = await asyncio.wait_for(loads, TIMEOUT)
    assert found.backend is backend
    assert found.key == named.settings.models_key
    await asyncio.wrap_future(task)
    await asyncio.wrap_future(later)
    # A task that is late comes first, also between the steps.
    assert order == ["loaded", "generated", "generated", "warm 1", "warm 2", "urgent", "warm 3"]


@pytest.mark.parametrize("where", ["load_backend", "warm_up"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            CheckpointError("run sn17-miner weights download x"),
            "phase demo cannot be loaded: run sn17-miner weights download x",
        ),
        (BackgroundModelError("u2net is missing"), "phase demo cannot be loaded: u2net is missing"),
        (TextToImageError("pip install it"), "phase demo cannot be loaded: pip install it"),
        (OutOfMemory("the GPU's memory does not suffice"), "memory does not suffice"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words"),
            r"phase demo cannot be loaded, the GPU has too little memory \(CUDA out of memory\).*start the miner with",
        ),
    ],
)
async def test_what_is_missing_is_the_operators_to_mend(
    scheduler: Scheduler,
    named: NamedPhase,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise error

    backend = SimpleNamespace(warm_up_steps=fail if where == "warm_up" else lambda: iter(()))
    monkeypatch.setattr(models, "load_backend", fail if where == "load_backend" else lambda *_, **__: backend)
    with pytest.raises(OperatorError, match=message):
        await models.load_and_warm_up(named, SETTINGS, scheduler)
    # Nothing of it keeps the scheduler from going on.
    assert scheduler.submit(lambda _: 3, 0.0).result(TIMEOUT) == 3


async def test_what_a_phase_needs_for_choosing_and_for_sentences_is_loaded_and_warm(
    scheduler: Scheduler, named: NamedPhase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(models, "load_backend", lambda *_, **options: asked.update(options) or WARM)
    warmed: list[object] = []
    monkeypatch.setattr(ValidatorScorer, "warm_up", lambda scorer: warmed.append(scorer))
    plain = await models.load_and_warm_up(named, SETTINGS, scheduler)
    assert (plain.scorer, asked["text_to_image"], warmed) == (None, None, [])
    scorer = ScorerSettings(weights=str(write_scorer(tmp_path)))
    changes = {"scorer": scorer, "text_to_image": TextToImageSettings(model="org/turbo")}
    more = NamedPhase("more", named.settings.model_copy(update=changes))
    loaded = await models.load_and_warm_up(more, SETTINGS, scheduler)
    assert isinstance(loaded.scorer, ValidatorScorer)
    assert (asked["text_to_image"], warmed) == ("org/turbo", [loaded.scorer])
    score = loaded.scorer.for_prompt(TextPrompt("a chair"))(make_splats(100))
    assert score.parts == ("quality",)
    assert loaded.problems == ()


async def test_a_scorer_that_is_not_here_is_left_out_and_named_with_the_command(
    scheduler: Scheduler,
    named: NamedPhase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(models, "load_backend", lambda *_, **__: WARM)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = named.settings.model_copy(update={"scorer": ScorerSettings()})
    loaded = await models.load_and_warm_up(NamedPhase("demo", settings), SETTINGS, scheduler)
    assert loaded.scorer is None
    (problem,) = loaded.problems
    assert problem.startswith("results are not scored by quality: ")
    assert "sn17-miner weights download 404-Gen/validation@948" in problem
    assert caplog.text.count("Results are not scored by quality") == 1


async def test_an_unknown_device_is_the_operators_mistake(scheduler: Scheduler, named: NamedPhase) -> None:
    with pytest.raises(OperatorError, match="unknown device 'cpuu'"):
        await models.load_and_warm_up(named, MinerSettings(phase="demo", device="cpuu"), scheduler)
