"""The models of a phase: loaded into memory, warmed up, and freed again."""

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from miner.config import MinerSettings
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.gpu.scheduler import Scheduler
from miner.runtime import run_in_daemon
from pipeline import Backend, ComputeConfig, OnStep, PipelineError, QualityScorer, Scorer, choose_compute, load_backend

log = logging.getLogger(__name__)

# A warm-up first waits, so many seconds, for a moment without tasks; then it goes before all of them.
WARM_UP_DELAY = 60.0
WARM_UP_PRIORITY = 1e12


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """Models in memory, freed with this object, and the `Phase.models_key` of the phases that run with them."""

    backend: Backend
    key: str
    scorer: Scorer | None = None


def load_models(phase: Phase, compute: ComputeConfig) -> LoadedModels:
    """Load what generates with a phase, without a warm-up. Blocks. Raises PipelineError or torch.OutOfMemoryError."""
    backend = load_backend(
        phase.backend,
        compute,
        image=phase.image.source() if phase.image else None,
        text=phase.text.source() if phase.text else None,
        background_model=phase.background.model,
        background_provider=phase.background.provider,
        text_to_image=phase.text_to_image.model if phase.text_to_image else None,
    )
    scorer = QualityScorer.load(phase.scorer.weights, compute.device) if phase.scorer else None
    return LoadedModels(backend, phase.models_key, scorer)


def choose_phase_compute(phase: Phase, settings: MinerSettings) -> ComputeConfig:
    """Return where and how the models of a phase run. Raise PipelineError if the device cannot run them."""
    return choose_compute(settings.device, settings.precision, settings.kernels, fp8=phase.acceleration.fp8)


async def load_and_warm_up(phase: NamedPhase, settings: MinerSettings, scheduler: Scheduler) -> LoadedModels:
    """Load the models of a phase and warm them up. Raise OperatorError if weights, devices or memory are missing.

    Models are loaded while others generate. The warm-up, which must have the device to itself since it records graphs,
    waits for its turn in the scheduler.
    """

    def load() -> LoadedModels:
        compute = choose_phase_compute(phase.settings, settings)
        log.info("Models run on %s", compute.reason)
        return load_models(phase.settings, compute)

    try:
        models = await run_in_daemon(load, "loading")
        deadline = time.monotonic() + WARM_UP_DELAY
        warm_up = scheduler.submit(partial(_warm_up, models), WARM_UP_PRIORITY, deadline)
        seconds = await asyncio.wrap_future(warm_up)
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


def _warm_up(models: LoadedModels, _on_step: OnStep) -> float:
    """Warm up the models; return the seconds it took."""
    started = time.monotonic()
    models.backend.warm_up()
    if isinstance(models.scorer, QualityScorer):
        models.scorer.warm_up()
    # The first runs take more than later ones.
    free_memory()
    return time.monotonic() - started


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
