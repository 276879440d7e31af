"""BestResult of several: the same request with other seeds, for as long as there is time, and the one that scores best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.conditioning.prompt import TextPrompt
from pipeline.errors import Cancelled, PipelineError, PromptError, UnsupportedPrompt
from pipeline.request import Asset, OnStep, Request, ignore_steps
from pipeline.splats.splats import Splats
from pipeline.splats.validation import invalid_reason

# Odd, so that the seeds of as many candidates as there are seeds all differ (Knuth's multiplicative hash).
_STRIDE = 2_654_435_761
_SEEDS = 2**31

Scorer = Callable[[Splats], float]
"""Splats -> quality in 0..1, the more the better; may raise PipelineError. `pipeline.scoring.quality.QualityScorer` is one."""


class Generates(Protocol):
    """What candidates are made with; every pipeline.backends.backend.Backend."""

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """See Generator.generate."""


@dataclass(frozen=True)
class Candidate:
    """One attempt: its seed, seconds for making and scoring it, its quality, and what is wrong with it.

    quality is None where nothing was scored; problem is "" for a valid object.
    """

    seed: int
    seconds: float
    quality: float | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class BestResult:
    """The best object, its quality (None: not scored), and all candidates in the order they were made."""

    asset: Asset
    quality: float | None
    candidates: tuple[Candidate, ...]


def candidate_seed(seed: int, index: int) -> int:
    """The seed of a request's candidate of that index, from 0: its own for the first, then others, all different."""
    return seed if index == 0 else (seed + index * _STRIDE) % _SEEDS


class BestOfN:
    """Makes one candidate at a time, so that whoever owns the device may do something else in between.

    The first candidate has the request's own seed and is always made. Another follows while there are fewer than
    `count`, and if one that takes as long as those before on average would end within `seconds` of the first one's
    beginning, and before the deadline. Not thread-safe; one call at a time.
    """

    def __init__(
        self,
        generator: Generates,
        request: Request,
        scorer: Scorer | None = None,
        *,
        count: int = 1,
        seconds: float = math.inf,
        deadline: float = math.inf,
        received: Callable[[Splats], Splats] = lambda splats: splats,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`received`: splats as whoever judges the result gets them; may raise PipelineError. `deadline` is of `now`.

        Without a scorer objects are neither checked nor scored. Raises ValueError if there is none and several
        candidates are asked for.
        """
        if count > 1 and scorer is None:
            raise ValueError(f"{count} candidates need a scorer")
        self._generator = generator
        self._request = request
        self._scorer = scorer
        self._count = count
        self._seconds = seconds
        self._end = deadline
        self._received = received
        self._now = now
        self._candidates: list[Candidate] = []
        self._best: tuple[tuple[bool, float], Asset, float | None] | None = None
        self._error: PipelineError | None = None

    @property
    def wants_another(self) -> bool:
        """Whether another candidate is allowed and would be done in time."""
        done = len(self._candidates)
        if done == 0:
            return True
        expected = sum(candidate.seconds for candidate in self._candidates) / done
        return done < self._count and not self._is_hopeless and self._now() + expected <= self._end

    @property
    def has_valid(self) -> bool:
        """Whether there is an object that can be sent."""
        return self._best is not None and self._best[0][0]

    def make_one(self, on_step: OnStep = ignore_steps) -> Candidate | None:
        """Make and score the next candidate; None, and nothing is made, if none is wanted any more after a wait.

        That an object cannot be made is a candidate with a problem, and no error. Raises what on_step raises, and what
        is no PipelineError.
        """
        if not self.wants_another:
            return None
        started = self._now()
        if not self._candidates:
            self._end = min(self._end, started + self._seconds)
        seed = candidate_seed(self._request.seed, len(self._candidates))
        quality, problem = None, ""
        try:
            asset = self._generator.generate(replace(self._request, seed=seed), on_step)
        except Cancelled:
            raise
        except PipelineError as error:
            self._error = self._error or error
            problem = f"{type(error).__name__}: {error}"
        else:
            quality, problem = self._judged(asset)
        self._candidates.append(Candidate(seed, self._now() - started, quality, problem))
        return self._candidates[-1]

    def run(self, on_step: OnStep = ignore_steps) -> BestResult:
        """Make one candidate after the other, until none is wanted any more; the best of them.

        Raises what `make_one` and `best` raise.
        """
        while self.wants_another:
            self.make_one(on_step)
        return self.best()

    def best(self) -> BestResult:
        """The best of those made. Raises PipelineError, that of the first candidate, if none could be made.

        A valid object is better than one that validators answer with 0; a scored one is better than one that could
        not be scored; of equals the first counts.
        """
        if self._best is None:
            assert self._error is not None, "no candidate was made"
            raise self._error
        _, asset, quality = self._best
        return BestResult(asset, quality, tuple(self._candidates))

    @property
    def _is_hopeless(self) -> bool:
        """Whether it is the prompt that no object can be made of, whatever the seed."""
        # What a sentence is drawn as depends on the seed.
        kinds = UnsupportedPrompt if isinstance(self._request.prompt, TextPrompt) else PromptError
        return self._best is None and isinstance(self._error, kinds)

    def _judged(self, asset: Asset) -> tuple[float | None, str]:
        """Quality and problem of an object, which is kept if it is the best so far."""
        quality, problem, is_valid = None, "", True
        if self._scorer is not None:
            try:
                splats = self._received(asset.splats)
                problem = invalid_reason(splats) or ""
                is_valid = not problem
            except PipelineError as error:
                problem, is_valid = f"{type(error).__name__}: {error}", False
            if is_valid:
                try:
                    quality = self._scorer(splats)
                except PipelineError as error:
                    problem = f"not scored, {type(error).__name__}: {error}"
        rank = is_valid, -1.0 if quality is None else quality
        if self._best is None or rank > self._best[0]:
            self._best = rank, asset, quality
        return quality, problem
