"""Best of N: which seeds a request is tried with while there is time, and which candidate is taken."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.conditioning.prompt import TextPrompt
from pipeline.errors import (
    EmptyStructure,
    FormatError,
    NonFiniteOutput,
    PipelineError,
    PromptError,
    TooManyVoxels,
    UnsupportedPrompt,
)
from pipeline.request import OnStep, Request, ignore_steps
from pipeline.scoring.candidate import Candidate, CandidateMaker, FinishedCandidate, GenerationJob, PackedAsset
from pipeline.scoring.score import Score

# Odd, so that no two candidates share a seed until all seeds are used (Knuth's multiplicative hash).
_STRIDE = 2_654_435_761
_SEEDS = 2**31
# The most candidates of a request of which none is valid yet, if there is time.
MAX_ATTEMPTS = 10
# Errors that another seed may not meet.
_SEED_DEPENDENT = (EmptyStructure, FormatError, NonFiniteOutput, TooManyVoxels)


@dataclass(frozen=True, eq=False)
class BestResult:
    """The best object, packed for delivery, and all candidates in the order of their seeds.

    `score` is None if the object was not scored. `problem` says why validators would score it 0; it is "" if they
    would score it. `break_off` is the unexpected error that ended the search, None if there was none.
    """

    asset: PackedAsset
    score: Score | None
    problem: str
    candidates: tuple[Candidate, ...]
    break_off: Exception | None = None


def candidate_seed(seed: int, index: int) -> int:
    """Return the seed of a request's candidate `index`, from 0.

    The first candidate has the request's own seed; all others differ from it and from one another.
    """
    return seed if index == 0 else (seed + index * _STRIDE) % _SEEDS


@dataclass(eq=False)
class BestOfN:
    """Decides which candidates of a request are made, by any number of workers, and which is the best.

    The first candidate has the request's own seed and is always made. Another one is begun while there are fewer than
    `count`, those in the making included, and only if it would be done within `seconds` of the start of the first one
    and before `deadline`; all moments are on one clock. While none is valid and another seed may help, there are up to
    MAX_ATTEMPTS, one after the other. It makes nothing itself: `begin` tells the next seed, and `finish`, `lose` or
    `break_off` what became of it.
    """

    request: Request
    count: int = 1
    seconds: float = math.inf
    deadline: float = math.inf
    # The index of each seed that is being made, and of those that were begun, lost, and are to be made again.
    _running: dict[int, int] = field(default_factory=dict, init=False)
    _lost: list[int] = field(default_factory=list, init=False)
    _begun: int = field(default=0, init=False)
    _finished: dict[int, FinishedCandidate] = field(default_factory=dict, init=False)
    _break_off: Exception | None = field(default=None, init=False)
    # Whether the last candidate was bad luck, and not what any other seed would end in.
    _may_be_mended: bool = field(default=False, init=False)

    @property
    def has_begun(self) -> bool:
        """Whether a candidate was made or is being made."""
        return bool(self._finished or self._running)

    @property
    def is_running(self) -> bool:
        """Whether a candidate is being made."""
        return bool(self._running)

    @property
    def has_valid(self) -> bool:
        """Whether there is an object that can be sent."""
        leader = self._leader
        return leader is not None and leader.candidate.fate != "invalid"

    @property
    def mean_seconds(self) -> float:
        """The mean seconds of the candidates so far; 0.0 if there are none."""
        seconds = [finished.candidate.seconds for finished in self._finished.values()]
        return sum(seconds) / len(seconds) if seconds else 0.0

    def wants_another(self, now: float, expected_seconds: float) -> bool:
        """Return whether another candidate is allowed and would be done in time if it took that long."""
        if self._break_off is not None:
            return False
        if not self.has_begun:
            return True
        made = len(self._finished) + len(self._running)
        wanted = self.count
        if not self._running and not self.has_valid and self._may_be_mended:
            wanted = max(wanted, MAX_ATTEMPTS)
        return made < wanted and not self._is_hopeless and now + expected_seconds <= self.deadline

    def begin(self, now: float) -> int:
        """Return the seed to make next; it counts as being made from now on."""
        if not self._begun:
            self.deadline = min(self.deadline, now + self.seconds)
        if self._lost:
            index = min(self._lost)
            self._lost.remove(index)
        else:
            index = self._begun
            self._begun += 1
        seed = candidate_seed(self.request.seed, index)
        self._running[seed] = index
        return seed

    def finish(self, finished: FinishedCandidate) -> None:
        """Take a candidate that was begun."""
        self._finished[self._running.pop(finished.candidate.seed)] = finished
        if finished.error is not None:
            self._may_be_mended = isinstance(finished.error, _SEED_DEPENDENT)
        else:
            self._may_be_mended = finished.candidate.fate == "invalid"

    def lose(self, seed: int) -> None:
        """Note that whoever made a candidate was lost with it; its seed is the next to be made."""
        self._lost.append(self._running.pop(seed))

    def break_off(self, seed: int, error: Exception) -> None:
        """Begin no further candidates after an unexpected error in making one."""
        self._running.pop(seed)
        self._break_off = self._break_off or error

    def best(self) -> BestResult:
        """Return the best candidate.

        A valid object is better than one that validators score 0, and a scored one is better than one that could not
        be scored; the first of equals, in the order of seeds, wins. Raises the unexpected error if there was one and no
        object is valid, else the PipelineError of the first candidate if no object could be made or packed.
        """
        leader = self._leader
        if self._break_off is not None and not self.has_valid:
            raise self._break_off
        if leader is None or leader.asset is None:
            raise self._first_error or RuntimeError("no candidate was made")
        best, is_valid = leader.candidate, self.has_valid
        candidates = tuple(
            replace(finished.candidate, fate="chosen") if finished is leader and is_valid else finished.candidate
            for _, finished in sorted(self._finished.items())
        )
        problem = "" if is_valid else best.problem
        return BestResult(leader.asset, best.score, problem, candidates, self._break_off)

    @property
    def _leader(self) -> FinishedCandidate | None:
        """The best object so far."""
        made = [finished for _, finished in sorted(self._finished.items()) if finished.asset is not None]
        return max(made, key=_rank) if made else None

    @property
    def _first_error(self) -> PipelineError | None:
        errors = (finished.error for _, finished in sorted(self._finished.items()))
        return next((error for error in errors if error is not None), None)

    @property
    def _is_hopeless(self) -> bool:
        """Whether no seed can help, because the prompt itself is at fault."""
        # The picture that is drawn for a sentence depends on the seed.
        kinds = UnsupportedPrompt if isinstance(self.request.prompt, TextPrompt) else PromptError
        return self._leader is None and isinstance(self._first_error, kinds)


def run_best_of_n(
    maker: CandidateMaker, job: GenerationJob, choice: BestOfN, on_step: OnStep = ignore_steps,
    now: Callable[[], float] = time.monotonic,
) -> BestResult:  # fmt: skip
    """Make candidates one after the other until no other is wanted, and return the best.

    Another one is expected to take as long as the average so far. Raises the errors of `CandidateMaker.make` and
    `BestOfN.best`.
    """
    while choice.wants_another(now(), choice.mean_seconds):
        choice.finish(maker.make(job, choice.begin(now()), on_step))
    return choice.best()


def _rank(finished: FinishedCandidate) -> tuple[bool, bool, float]:
    candidate = finished.candidate
    return candidate.fate != "invalid", candidate.score is not None, candidate.score.rank if candidate.score else 0.0
