"""The models of a phase: loaded into memory, warmed up, and freed again."""

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from miner.config import MinerSettings
from miner.config.phase import ModelsKey, Phase
from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.gpu.scheduler import Scheduler
from miner.runtime import run_in_daemon
from pipeline import (
    Backend,
    ComputeConfig,
    OnStep,
    PipelineError,
    Scorer,
    ValidatorScorer,
    choose_compute,
    load_backend,
)

log = logging.getLogger(__name__)

# Each step of a warm-up first waits, so many seconds, for a moment without tasks; then it goes before all of them.
# Pulled tasks have less time than that, and so go first.
WARM_UP_DELAY = 30.0
WARM_UP_PRIORITY = 1e12
_DONE = object()


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """Models in memory, freed with this object, and the `Phase.models_key` that they were loaded for.

    `problems` say which parts of the score cannot be computed, and what to do about it.
    """

    backend: Backend
    key: ModelsKey
    scorer: Scorer | None = None
    problems: tuple[str, ...] = ()


def load_models(phase: Phase, compute: ComputeConfig) -> LoadedModels:
    """Load what generates with a phase, without a warm-up. Blocks. Raises PipelineError or torch.OutOfMemoryError.

    Parts of the score without weights are left out and logged, since results are better sent unscored than not at all.
    """
    backend = load_backend(
        phase.backend,
        compute,
        image=phase.image.source() if phase.image else None,
        text=phase.text.source() if phase.text else None,
        background_model=phase.background.model,
        background_provider=phase.background.provider,
        text_to_image=phase.text_to_image.model if phase.text_to_image else None,
    )
    if phase.scorer is None:
        return LoadedModels(backend, phase.models_key)
    sources = phase.scorer.sources()
    scorer = ValidatorScorer.load(sources, compute.device, text=phase.takes_text, image=phase.image is not None)
    problems = tuple(f"results are not scored by {missing}" for missing in scorer.missing)
    for problem in problems:
        log.warning("%s", problem[:1].upper() + problem[1:])
    return LoadedModels(backend, phase.models_key, None if scorer.is_empty else scorer, problems)


def choose_phase_compute(phase: Phase, settings: MinerSettings) -> ComputeConfig:
    """Return where and how the models of a phase run. Raise PipelineError if the device cannot run them."""
    return choose_compute(settings.device, settings.precision, settings.kernels, fp8=phase.acceleration.fp8)


async def load_and_warm_up(phase: NamedPhase, settings: MinerSettings, scheduler: Scheduler) -> LoadedModels:
    """Load the models of a phase and warm them up. Raise OperatorError if weights, devices or memory are missing.

    Models are loaded while others generate. The steps of the warm-up wait for their turns in the scheduler, since they
    record graphs and so must have the device to themselves; a task waits for one of them at most.
    """

    def load() -> LoadedModels:
        compute = choose_phase_compute(phase.settings, settings)
        log.info("Models run on %s", compute.reason)
        return load_models(phase.settings, compute)

    try:
        models = await run_in_daemon(load, "loading")
        seconds = await _warm_up(models, scheduler)
    except PipelineError as error:
        raise OperatorError(f"phase {phase.name} cannot be loaded: {error}") from None
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
    else:
        log.info("Loaded %s and warmed up in %.1f s", " and ".join(phase.settings.checkpoints), seconds)
        return models
    # Outside the handler, since the error holds on to the tensors of every frame that it passed through.
    free_memory()
    raise OperatorError(
        f"phase {phase.name} cannot be loaded, the GPU has too little memory ({reason}): while a miner runs, the "
        "models of its present phase stay in memory; start the miner with this phase instead, or free the GPU"
    )


async def _warm_up(models: LoadedModels, scheduler: Scheduler) -> float:
    """Warm up the models step by step; return the seconds it took without those in which others used the device."""
    steps = _warm_up_steps(models)

    def take_step(_on_step: OnStep) -> tuple[bool, float]:
        started = time.monotonic()
        is_done = next(steps, _DONE) is _DONE
        return is_done, time.monotonic() - started

    total, is_done = 0.0, False
    while not is_done:
        step = scheduler.submit(take_step, WARM_UP_PRIORITY, time.monotonic() + WARM_UP_DELAY)
        is_done, seconds = await asyncio.wrap_future(step)
        total += seconds
    return total


def _warm_up_steps(models: LoadedModels) -> Iterator[None]:
    yield from models.backend.warm_up_steps()
    if models.scorer is not None:
        models.scorer.warm_up()
        yield
    # The first runs take more than later ones.
    free_memory()


def free_memory() -> None:
    """Return memory that nothing refers to any more to the GPU."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(eq=False)
class RetiredModels:
    """Models that no new task gets; `schedule_free` has their memory freed by the scheduler after their last task."""

    schedule_free: Callable[[], object]
    _labels: dict[weakref.ref[LoadedModels], str] = field(default_factory=dict)

    def add(self, models: LoadedModels, label: str) -> None:
        """Watch models from now on; `label` names their phase in the log."""
        self._labels[weakref.ref(models)] = label

    def free_unused(self) -> None:
        """Return the memory of those that no task needs any more."""
        unused = [reference for reference in self._labels if reference() is None]
        for reference in unused:
            log.info("The models of %s are no longer in use, their memory is freed", self._labels.pop(reference))
        if unused:
            self.schedule_free()
