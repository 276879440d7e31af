"""Best of N: generate one request with several seeds while there is time, and keep the object that scores best."""

import math
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal

from pipeline.conditioning.prompt import TextPrompt
from pipeline.errors import (
    Cancelled,
    EmptyStructure,
    FormatError,
    NonFiniteOutput,
    PipelineError,
    PromptError,
    TooManyVoxels,
    UnsupportedPrompt,
)
from pipeline.request import Asset, Backend, Conditioning, OnStep, Request, ignore_steps
from pipeline.scoring.score import Score
from pipeline.scoring.scorer import Scorer, ScoreSplats
from pipeline.splats.container import PackedSplats
from pipeline.splats.splats import Splats
from pipeline.splats.validation import invalid_reason

# Odd, so that no two candidates share a seed until all seeds are used (Knuth's multiplicative hash).
_STRIDE = 2_654_435_761
_SEEDS = 2**31
# The most candidates of a request of which none is valid yet, if there is time.
MAX_ATTEMPTS = 10
# Errors that another seed may not meet.
_SEED_DEPENDENT = (EmptyStructure, FormatError, NonFiniteOutput, TooManyVoxels)

Pack = Callable[[Splats], PackedSplats]
"""Encodes and decodes splats as they will be delivered; may raise PipelineError. See Container.pack."""

# What became of a candidate: it was sent, another one was better, validators would score it 0, or it was never made.
Fate = Literal["chosen", "beaten", "invalid", "failed"]


@dataclass(frozen=True)
class Candidate:
    """One attempt: its seed, the seconds that generation and scoring took, its score, its fate and what is wrong.

    `score` is None if it was not scored; `problem` is "" for a valid object that was scored if there is a scorer.
    """

    seed: int
    seconds: float
    score: Score | None
    problem: str = ""
    fate: Fate = "beaten"

    @property
    def is_unscored(self) -> bool:
        """Whether a valid object could not be scored."""
        return self.fate in ("chosen", "beaten") and bool(self.problem)


@dataclass(frozen=True, eq=False)
class BestResult:
    """The best object, packed for delivery, and all candidates in the order in which they were made.

    `score` is None if the object was not scored. `problem` says why validators would score it 0; it is "" if they
    would score it.
    """

    asset: Asset
    packed: PackedSplats
    score: Score | None
    problem: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, eq=False)
class _Leader:
    """The best object so far; without a scorer it is not packed."""

    asset: Asset
    packed: PackedSplats | None = None
    score: Score | None = None
    problem: str = ""

    @property
    def rank(self) -> tuple[bool, bool, float]:
        return not self.problem, self.score is not None, self.score.rank if self.score else 0.0


def candidate_seed(seed: int, index: int) -> int:
    """Return the seed of a request's candidate `index`, from 0.

    The first candidate has the request's own seed; all others differ from it and from one another.
    """
    return seed if index == 0 else (seed + index * _STRIDE) % _SEEDS


@dataclass(eq=False)
class BestOfN:
    """Generates one candidate at a time, so that the owner of the device may do other work in between.

    The first candidate has the request's own seed and is always made. Another one is started while there are fewer
    than `count`, or fewer than MAX_ATTEMPTS of which none is valid, and only if, taking as long as the average
    candidate so far, it would end within `seconds` of the start of the first one and before the deadline, a time of the
    clock `now`. With a scorer, every candidate is packed, checked and scored when it is made. Without one, it is only
    checked, and packed in `best`.

    Raises ValueError if several candidates are requested without a scorer. Not thread-safe; one call at a time.
    """

    backend: Backend
    request: Request
    pack: Pack
    scorer: Scorer | None = None
    _: KW_ONLY
    count: int = 1
    seconds: float = math.inf
    deadline: float = math.inf
    now: Callable[[], float] = time.monotonic
    _conditioning: Conditioning[Any] | None = field(default=None, init=False)
    _score_splats: ScoreSplats | None = field(default=None, init=False)
    _candidates: list[Candidate] = field(default_factory=list, init=False)
    _leader: _Leader | None = field(default=None, init=False)
    _first_error: PipelineError | None = field(default=None, init=False)
    # Whether the last candidate was bad luck, and not what any other seed would end in.
    _may_be_mended: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Check that several candidates can be told apart."""
        if self.count > 1 and self.scorer is None:
            raise ValueError(f"{self.count} candidates need a scorer")

    @property
    def wants_another(self) -> bool:
        """Whether another candidate is allowed and would be finished in time."""
        made = len(self._candidates)
        if made == 0:
            return True
        expected = sum(candidate.seconds for candidate in self._candidates) / made
        wanted = MAX_ATTEMPTS if not self.has_valid and self._may_be_mended else self.count
        return made < max(wanted, self.count) and not self._is_hopeless and self.now() + expected <= self.deadline

    @property
    def has_valid(self) -> bool:
        """Whether there is an object that can be sent."""
        return self._leader is not None and not self._leader.problem

    def make_one(self, on_step: OnStep = ignore_steps) -> Candidate | None:
        """Make and score the next candidate; return None without making one if no other is wanted any more.

        An object that cannot be made becomes a candidate with a problem instead of an error. Raises whatever `on_step`
        raises, and errors other than PipelineError.
        """
        if not self.wants_another:
            return None
        started = self.now()
        if not self._candidates:
            self.deadline = min(self.deadline, started + self.seconds)
        seed = candidate_seed(self.request.seed, len(self._candidates))
        try:
            result, problem = self._evaluate(self._sample(seed, on_step))
        except Cancelled:
            raise
        except PipelineError as error:
            # No more than one, since its traceback keeps the tensors of the failed candidate.
            self._first_error = self._first_error or error
            self._may_be_mended = isinstance(error, _SEED_DEPENDENT)
            candidate = Candidate(seed, self.now() - started, None, f"{type(error).__name__}: {error}", "failed")
        else:
            fate: Fate = "invalid" if result.problem else "beaten"
            candidate = Candidate(seed, self.now() - started, result.score, problem, fate)
            self._may_be_mended = bool(result.problem)
            if self._leader is None or result.rank > self._leader.rank:
                self._leader = result
        self._candidates.append(candidate)
        return candidate

    def run(self, on_step: OnStep = ignore_steps) -> BestResult:
        """Make candidates until no other is wanted, and return the best.

        Raises the errors of `make_one` and `best`.
        """
        while self.wants_another:
            self.make_one(on_step)
        return self.best()

    def best(self) -> BestResult:
        """Return the best candidate, packed.

        A valid object is better than one that validators score 0, and a scored one is better than one that could not
        be scored; the first of equals wins. Raises the PipelineError of the first candidate that failed if no object
        could be made or packed.
        """
        leader = self._leader
        if leader is None:
            raise self._first_error or RuntimeError("no candidate was made: call make_one first")
        packed, problem = leader.packed, leader.problem
        if packed is None:
            packed = self.pack(leader.asset.splats)
            problem = invalid_reason(packed.splats) or ""
        candidates = (
            replace(candidate, fate="chosen") if candidate.seed == leader.asset.seed and not problem else candidate
            for candidate in self._candidates
        )
        return BestResult(leader.asset, packed, leader.score, problem, tuple(candidates))

    @property
    def _is_hopeless(self) -> bool:
        """Whether no seed can help, because the prompt itself is at fault."""
        # The picture that is drawn for a sentence depends on the seed.
        kinds = UnsupportedPrompt if isinstance(self.request.prompt, TextPrompt) else PromptError
        return self._leader is None and isinstance(self._first_error, kinds)

    def _sample(self, seed: int, on_step: OnStep) -> Asset:
        """Generate an object; the first one's seconds include those of encoding the prompt."""
        request = replace(self.request, seed=seed)
        if self._conditioning is not None:
            return self.backend.sample(self._conditioning, request, on_step)
        self._conditioning = self.backend.encode(request.prompt)
        asset = self.backend.sample(self._conditioning, request, on_step)
        return asset.with_added_seconds(self._conditioning.seconds)

    def _evaluate(self, asset: Asset) -> tuple[_Leader, str]:
        """Pack, check and score an object; also return what is wrong with it. Raises PipelineError if packing fails."""
        if self.scorer is None:
            problem = invalid_reason(asset.splats) or ""
            return _Leader(asset, problem=problem), problem
        packed = self.pack(asset.splats)
        if problem := invalid_reason(packed.splats) or "":
            return _Leader(asset, packed, problem=problem), problem
        try:
            return _Leader(asset, packed, self._score(packed.splats, self.scorer)), ""
        except Cancelled:
            raise
        except Exception as error:  # a scorer that fails in any way does not cost the result
            return _Leader(asset, packed), f"not scored, {type(error).__name__}: {error}"

    def _score(self, splats: Splats, scorer: Scorer) -> Score:
        if self._score_splats is None:
            self._score_splats = scorer.for_prompt(self.request.prompt)
        return self._score_splats(splats)
