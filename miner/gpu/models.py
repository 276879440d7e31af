"""Networks into memory: those of a phase, warmed up, and out of it again."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from miner.config.phase_files import NamedPhase
from miner.config.settings import MinerSettings
from miner.errors import OperatorError
from miner.gpu.scheduler import Scheduler
from miner.runtime.threads import run_in_daemon
from pipeline import (
    Backend,
    BackgroundModelError,
    CheckpointError,
    OnStep,
    PipelineError,
    QualityScorer,
    Scorer,
    TextToImageError,
    choose_compute,
    load_backend,
)

log = logging.getLogger(__name__)

# A warm-up waits for a moment without tasks, so many seconds; then it matters more than any of them.
WARM_UP_WITHIN = 60.0
WARM_UP_PRIORITY = 1e12


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """Networks in memory, and what phases need to be able to run with them. They go when nothing refers to this."""

    backend: Backend
    what: str
    scorer: Scorer | None = None


async def load(phase: NamedPhase, settings: MinerSettings, scheduler: Scheduler) -> LoadedModels:
    """What generates with a phase, warmed up. Raises OperatorError if weights, devices or memory are missing.

    Networks come into memory while others generate. What only one may do at a time with a device, such as to record
    graphs of it, has its turn in the scheduler.
    """
    try:
        loaded = await run_in_daemon(lambda: _load(phase, settings), "loading")
        turn = time.monotonic() + WARM_UP_WITHIN
        warming = scheduler.submit(partial(_warm_up, loaded), WARM_UP_PRIORITY, turn)
        seconds = await asyncio.wrap_future(warming)
    except (CheckpointError, BackgroundModelError, TextToImageError) as error:
        raise OperatorError(f"phase {phase.name} cannot be loaded: {error}") from None
    except PipelineError as error:
        raise OperatorError(str(error)) from None
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
    else:
        log.info("LoadedModels %s and warmed up in %.1f s", " and ".join(phase.settings.checkpoints), seconds)
        return loaded
    # Outside the handler, since the error holds on to the tensors of every frame it came through.
    release()
    raise OperatorError(
        f"phase {phase.name} cannot be loaded, the GPU's memory does not suffice ({reason}): while a miner runs, the "
        "networks of its phase are in memory, too; start it with the other phase instead, or free the GPU"
    )


def _load(phase: NamedPhase, settings: MinerSettings) -> LoadedModels:
    wanted = phase.settings
    compute = choose_compute(settings.device, settings.precision, settings.kernels, fp8=wanted.acceleration.fp8)
    log.info("Networks on %s", compute.reason)
    backend = load_backend(
        wanted.backend,
        compute,
        image=wanted.image.source() if wanted.image else None,
        text=wanted.text.source() if wanted.text else None,
        background_model=wanted.background.model,
        background_provider=wanted.background.provider,
        text_to_image=wanted.text_to_image.model if wanted.text_to_image else None,
    )
    scorer = QualityScorer.load(wanted.scorer.weights, compute.device) if wanted.scorer else None
    return LoadedModels(backend, wanted.loaded, scorer)


def _warm_up(loaded: LoadedModels, _: OnStep) -> float:
    """The seconds it took."""
    started = time.monotonic()
    loaded.backend.warm_up()
    if isinstance(loaded.scorer, QualityScorer):
        loaded.scorer.warm_up()
    return time.monotonic() - started


def release() -> None:
    """Give memory back to the GPU that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class RetiredModels:
    """Networks that no new task gets; their memory goes once the last task that has them is done."""

    def __init__(self, release: Callable[[], object]) -> None:
        """`release` gives memory back in its turn, see `release` of this module."""
        self._release = release
        self._waiting: dict[weakref.ref[LoadedModels], str] = {}

    def add(self, loaded: LoadedModels, label: str) -> None:
        """`label` says for the log whose they were."""
        self._waiting[weakref.ref(loaded)] = label

    def look(self) -> None:
        """Give back the memory of those that nothing needs any more."""
        gone = [reference for reference in self._waiting if reference() is None]
        for reference in gone:
            log.info("Nothing needs the networks of %s any more, their memory is given back", self._waiting[reference])
            del self._waiting[reference]
        if gone:
            self._release()
