"""The models of a phase: loaded into memory, and freed again."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from miner.config import MinerSettings
from miner.config.phase import ModelsKey, Phase
from miner.config.phase_files import NamedPhase
from miner.runtime import trim_heap
from pipeline import (
    Backend,
    ComputeConfig,
    Scorer,
    ValidatorScorer,
    choose_compute,
    load_backend,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModels:
    """Models in memory, freed with this object.

    `problems` say which parts of the score cannot be computed, and what to do about it.
    """

    backend: Backend
    scorer: Scorer | None = None
    problems: tuple[str, ...] = ()

    def warm_up_steps(self) -> Iterator[None]:
        """Use everything once, so that the first candidate is as fast as any other; yield after each part."""
        yield from self.backend.warm_up_steps()
        if self.scorer is not None:
            self.scorer.warm_up()
            yield
        # The first runs take more than later ones.
        free_memory()


@dataclass(frozen=True, eq=False)
class PhaseModels:
    """Models that workers have loaded, under an id, for the phases with this `Phase.models_key`; held by their tasks.

    can_score, problems: see LoadedPhase.
    """

    id: str
    key: ModelsKey
    can_score: bool = False
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
        background_models=phase.background.names,
        background_provider=phase.background.provider,
        text_to_image=phase.text_to_image.model if phase.text_to_image else None,
    )
    if phase.scorer is None:
        return LoadedModels(backend)
    sources = phase.scorer.sources()
    scorer = ValidatorScorer.load(sources, compute.device, text=phase.takes_text, image=phase.image is not None)
    problems = tuple(f"results are not scored by {missing}" for missing in scorer.missing)
    for problem in problems:
        log.warning("%s", problem[:1].upper() + problem[1:])
    return LoadedModels(backend, None if scorer.is_empty else scorer, problems)


def choose_phase_compute(phase: Phase, settings: MinerSettings, device: str | None = None) -> ComputeConfig:
    """Return where and how the models of a phase run, by default on the settings' device.

    Raises PipelineError if the device cannot run them.
    """
    fp8 = phase.acceleration.fp8
    return choose_compute(device or settings.device, settings.precision, settings.kernels, fp8=fp8)


def load_phase_models(phase: NamedPhase, settings: MinerSettings, device: str) -> LoadedModels:
    """Load the models of a phase onto a device. Blocks. Raises PipelineError or torch.OutOfMemoryError."""
    compute = choose_phase_compute(phase.settings, settings, device)
    log.info("Models run on %s", compute.reason)
    return load_models(phase.settings, compute)


def free_memory() -> None:
    """Return memory that nothing refers to any more to the GPU and to the system."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@dataclass(eq=False)
class RetiredModels:
    """Models that no new task gets; `unload` has the workers drop them after their last task, by their id."""

    unload: Callable[[str], object]
    _labels: dict[weakref.ref[PhaseModels], tuple[str, str]] = field(default_factory=dict)

    def add(self, models: PhaseModels, label: str) -> None:
        """Watch models from now on; `label` names their phase in the log."""
        self._labels[weakref.ref(models)] = models.id, label

    def free_unused(self) -> None:
        """Have those dropped that no task needs any more."""
        for reference in [reference for reference in self._labels if reference() is None]:
            models, label = self._labels.pop(reference)
            log.info("The models of %s are no longer in use, their memory is freed", label)
            self.unload(models)
