"""Models that make objects of full size at once, for workers in other processes and on other machines."""

from collections.abc import Iterator
from functools import partial

import torch

from miner.config.phase_files import NamedPhase
from miner.gpu import LoadedModels, LoadModels
from pipeline import Asset, Backend, Conditioning, OnStep, Prompt, Request, Score, Scorer, Splats
from pipeline.request import STAGES, ignore_steps
from pipeline.scoring.scorer import ScoredViews, ScoreSplats
from scripts.benchmarks.formats import random_splats


class ReadyBackend(Backend):
    """A backend whose only object is there already."""

    supports_image = supports_text = True

    def __init__(self, gaussians: int) -> None:
        """Draw an object of so many gaussians."""
        self._splats = random_splats(gaussians)

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return False: it samples on nothing."""
        return False

    def warm_up_steps(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        """Encode nothing."""
        return Conditioning(None, {})

    def sample(self, conditioning: object, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Return the object."""
        return Asset(self._splats, request.seed, 0, dict.fromkeys(STAGES, 0.0))


class ConstantScorer(Scorer):
    """A scorer that finds all results equally good."""

    def for_prompt(self, prompt: Prompt) -> ScoreSplats:
        """Return the function that scores."""
        return _score

    def warm_up(self) -> None:
        """Do nothing."""


def load_large_results(device: str, gaussians: int) -> LoadModels:
    """Return the function that loads the models of any phase: a backend of one object of so many gaussians."""
    return partial(_load, gaussians=gaussians)


def _load(phase: NamedPhase, gaussians: int) -> LoadedModels:
    return LoadedModels(ReadyBackend(gaussians), ConstantScorer())


def _score(splats: Splats) -> ScoredViews:
    return ScoredViews(Score(quality=0.5), torch.full((16, 518, 518, 3), 255, dtype=torch.uint8))
