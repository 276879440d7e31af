"""Networks into memory: those of a phase, warmed up, and out of it again."""

from __future__ import annotations

import gc
import logging
import weakref

import torch

from miner.errors import OperatorError
from miner.phases import NamedPhase
from miner.running import Loaded
from miner.settings import MinerSettings
from pipeline import BackgroundModelError, CheckpointError, PipelineError, choose, load_backend, warm_up

log = logging.getLogger(__name__)


def load(phase: NamedPhase, settings: MinerSettings) -> Loaded:
    """What generates with a phase, ready to. Raises OperatorError if weights, devices or memory are missing."""
    try:
        return _load(phase, settings)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
    # Outside the handler, since the error holds on to the tensors of every frame it came through.
    release()
    raise OperatorError(
        f"phase {phase.name} cannot be loaded, the GPU's memory does not suffice ({reason}): while a miner runs, the "
        "networks of its phase are in memory, too; start it with the other phase instead, or free the GPU"
    )


def _load(phase: NamedPhase, settings: MinerSettings) -> Loaded:
    wanted = phase.settings
    try:
        compute = choose(settings.device, settings.precision, settings.kernels, fp8=wanted.acceleration.fp8)
        log.info("Networks on %s", compute.reason)
        backend = load_backend(
            wanted.backend,
            compute,
            image=wanted.image.source() if wanted.image else None,
            text=wanted.text.source() if wanted.text else None,
            background_model=wanted.background.model,
            background_provider=wanted.background.provider,
        )
    except (CheckpointError, BackgroundModelError) as error:
        raise OperatorError(f"phase {phase.name} cannot be loaded: {error}") from error
    except PipelineError as error:
        raise OperatorError(str(error)) from error
    seconds = warm_up(backend, *wanted.samplers)
    log.info("Loaded %s and warmed up in %.1f s", " and ".join(wanted.checkpoints), seconds)
    return Loaded(backend, wanted.loaded)


def release() -> None:
    """Give memory back to the GPU that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Retired:
    """Networks that no new task gets; their memory goes once the last task that has them is done."""

    def __init__(self) -> None:
        self._waiting: dict[weakref.ref[Loaded], str] = {}

    def add(self, loaded: Loaded, label: str) -> None:
        """`label` says for the log whose they were."""
        self._waiting[weakref.ref(loaded)] = label

    def __len__(self) -> int:
        return len(self._waiting)

    def look(self) -> None:
        """Give back the memory of those that nothing needs any more."""
        gone = [reference for reference in self._waiting if reference() is None]
        if not gone:
            return
        release()
        for reference in gone:
            log.info("The networks of %s are out of memory", self._waiting.pop(reference))
