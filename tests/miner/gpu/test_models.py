"""Models are loaded while others generate; the warm-up, which needs the device to itself, waits its turn."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from miner.config.choice_sections import ScorerSettings
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.config.phase_sections import TextToImageSettings
from miner.config.settings import MinerSettings
from miner.errors import OperatorError
from miner.gpu import models
from miner.gpu.local_worker import LocalWorker
from miner.gpu.models import load_phase_models
from pipeline import (
    Asset,
    Attempt,
    BackgroundModelError,
    CheckpointError,
    Container,
    GenerationJob,
    OnStep,
    OutOfMemory,
    PackedSplats,
    Request,
    Score,
    Splats,
    TextPrompt,
    TextToImageError,
    ValidatorScorer,
    WorkerLost,
)
from tests.support.generated import FakeBackend, FakeScorer, make_asset, make_splats
from tests.support.scorers import write_scorer
from tests.support.waiting import TIMEOUT

WARM = SimpleNamespace(warm_up_steps=lambda: iter(()))
SETTINGS = MinerSettings(phase="demo", device="cpu")


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    worker = LocalWorker("cpu", partial(load_phase_models, settings=SETTINGS, device="cpu"))
    yield worker
    assert worker.stop(TIMEOUT)


@pytest.fixture
def named(phase: Phase) -> NamedPhase:
    return NamedPhase("demo", phase)


def test_the_warm_up_never_runs_beside_a_generation(
    worker: LocalWorker, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of the device are recorded in it, and a generation waits for the device meanwhile."""
    order: list[str] = []
    loaded, release, begun = threading.Event(), threading.Event(), threading.Event()
    job = GenerationJob("t", Request(TextPrompt("x"), 0, None, None))  # type: ignore[arg-type]

    class Warming(FakeBackend):
        def warm_up_steps(self) -> Iterator[None]:
            for number in (1, 2, 3):
                order.append(f"warm {number}")
                if number == 2:
                    urgent.append(worker.make("first", job, Attempt(2)))
                yield

    def generate(request: Request, _: OnStep) -> object:
        begun.set()
        assert release.wait(TIMEOUT)
        order.append(f"generated {request.seed}")
        return make_asset(request)

    urgent: list[object] = []
    backends = iter([FakeBackend(generate), Warming()])  # type: ignore[arg-type]

    def load_backend(*_: object, **__: object) -> object:
        backend = next(backends)
        if isinstance(backend, Warming):
            order.append("loaded")
            loaded.set()
        return backend

    monkeypatch.setattr(models, "load_backend", load_backend)
    worker.load("first", named).result(TIMEOUT)
    generation = worker.make("first", job, Attempt(1))
    assert begun.wait(TIMEOUT)
    loads = worker.load("second", named)
    assert loaded.wait(TIMEOUT)
    assert not worker.has("second")
    release.set()
    loads.result(TIMEOUT)
    generation.result(TIMEOUT)
    assert worker.has("second")
    # A candidate comes first, also between the steps.
    assert order == ["loaded", "generated 1", "warm 1", "warm 2", "generated 2", "warm 3"]


def test_a_candidate_is_packed_while_the_next_one_is_sampled_and_then_scored(
    worker: LocalWorker, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing, sampled = threading.Event(), threading.Event()
    order: list[str] = []
    freed: list[threading.Event] = []

    class SlowlyPacked(Container):
        def pack(self, splats: Splats) -> PackedSplats:
            packing.set()
            # Would never end if the next candidate waited for this file.
            assert sampled.wait(TIMEOUT)
            return super().pack(splats)

    def generate(request: Request, _: OnStep) -> Asset:
        if request.seed == 2:
            assert packing.wait(TIMEOUT)
            sampled.set()
        order.append(f"sampled {request.seed}")
        return make_asset(request)

    def quality(_: Splats) -> float:
        order.append("scored")
        return 0.5

    loaded = models.LoadedModels(FakeBackend(generate), FakeScorer(quality), ())
    monkeypatch.setattr(worker, "_load_models", lambda _phase: loaded)
    worker.load("models", named).result(TIMEOUT)
    worker.listen(lambda: [event.set() for event in freed if worker.is_free])
    job = GenerationJob("t", Request(TextPrompt("x"), 0, None, None), SlowlyPacked("ply"))  # type: ignore[arg-type]
    freed.append(threading.Event())
    first = worker.make("models", job, Attempt(1))
    assert freed[0].wait(TIMEOUT)
    assert not first.done()
    second = worker.make("models", job, Attempt(2))
    results = [future.result(TIMEOUT).candidate for future in (first, second)]
    assert [(candidate.seed, candidate.score) for candidate in results] == [(1, Score(0.5)), (2, Score(0.5))]
    assert order == ["sampled 1", "sampled 2", "scored", "scored"]


def test_a_score_that_hangs_ends_the_worker(
    worker: LocalWorker, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring, release = threading.Event(), threading.Event()

    def quality(_: Splats) -> float:
        scoring.set()
        assert release.wait(TIMEOUT)
        return 0.5

    loaded = models.LoadedModels(FakeBackend(), FakeScorer(quality), ())
    monkeypatch.setattr(worker, "_load_models", lambda _phase: loaded)
    worker.load("models", named).result(TIMEOUT)
    job = GenerationJob("t", Request(TextPrompt("x"), 0, None, None), Container("ply"))  # type: ignore[arg-type]
    made = worker.make("models", job, Attempt(1))
    assert scoring.wait(TIMEOUT)
    worker.check(TIMEOUT)
    assert worker.is_up
    worker.check(0.0)
    assert not worker.is_up
    with pytest.raises(WorkerLost, match="has hung"):
        made.result(TIMEOUT)
    release.set()


def test_models_that_are_dropped_while_they_load_do_not_stay(
    worker: LocalWorker, named: NamedPhase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another GPU refuses them first."""
    loading, release = threading.Event(), threading.Event()

    def load_backend(*_: object, **__: object) -> object:
        loading.set()
        assert release.wait(TIMEOUT)
        return FakeBackend()

    monkeypatch.setattr(models, "load_backend", load_backend)
    loads = worker.load("dropped", named)
    assert loading.wait(TIMEOUT)
    worker.unload("dropped")
    release.set()
    loads.result(TIMEOUT)
    assert not worker.has("dropped")


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
def test_what_is_missing_is_the_operators_to_mend(
    worker: LocalWorker,
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
        worker.load("1", named).result(TIMEOUT)
    # Nothing of it keeps the worker from going on.
    monkeypatch.setattr(models, "load_backend", lambda *_, **__: WARM)
    worker.load("2", named).result(TIMEOUT)
    assert [worker.has("1"), worker.has("2"), worker.is_free] == [False, True, True]


def test_what_a_phase_needs_for_choosing_and_for_sentences_is_loaded_and_warm(
    worker: LocalWorker, named: NamedPhase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(models, "load_backend", lambda *_, **options: asked.update(options) or WARM)
    warmed: list[ValidatorScorer] = []
    monkeypatch.setattr(ValidatorScorer, "warm_up", lambda scorer: warmed.append(scorer))
    plain = worker.load("1", named).result(TIMEOUT)
    assert (plain.can_score, asked["text_to_image"], warmed) == (False, None, [])
    scorer = ScorerSettings(weights=str(write_scorer(tmp_path)))
    changes = {"scorer": scorer, "text_to_image": TextToImageSettings(model="org/turbo")}
    more = NamedPhase("more", named.settings.model_copy(update=changes))
    loaded = worker.load("2", more).result(TIMEOUT)
    assert (loaded.can_score, loaded.problems, asked["text_to_image"]) == (True, (), "org/turbo")
    (warm,) = warmed
    assert warm.for_prompt(TextPrompt("a chair"))(make_splats(100)).score.parts == ("quality",)


def test_a_scorer_that_is_not_here_is_left_out_and_named_with_the_command(
    worker: LocalWorker,
    named: NamedPhase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(models, "load_backend", lambda *_, **__: WARM)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = named.settings.model_copy(update={"scorer": ScorerSettings()})
    loaded = worker.load("1", NamedPhase("demo", settings)).result(TIMEOUT)
    assert not loaded.can_score
    (problem,) = loaded.problems
    assert problem.startswith("results are not scored by quality: ")
    assert "sn17-miner weights download 404-Gen/validation@948" in problem
    assert caplog.text.count("Results are not scored by quality") == 1


async def test_an_unknown_device_is_the_operators_mistake(named: NamedPhase) -> None:
    load: Callable[[NamedPhase], models.LoadedModels] = partial(load_phase_models, settings=SETTINGS, device="cpuu")
    worker = LocalWorker("cpuu", load)
    with pytest.raises(OperatorError, match="unknown device 'cpuu'"):
        await asyncio.wrap_future(worker.load("1", named))
    assert worker.stop(TIMEOUT)
