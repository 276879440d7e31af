"""Best of N: which seeds a request is tried with while there is time, and which candidate is taken."""

import math
import time
from collections.abc import Callable, Mapping
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
from pipeline.scoring.candidate import (
    Attempt,
    Candidate,
    CandidateMaker,
    FinishedCandidate,
    GenerationJob,
    PackedAsset,
    Stage,
)
from pipeline.scoring.score import Score

# Odd, so that no two candidates share a seed until all seeds are used (Knuth's multiplicative hash).
_STRIDE = 2_654_435_761
_SEEDS = 2**31
# The most candidates of a request of which none is valid yet, if there is time.
MAX_ATTEMPTS = 10
# Errors that another seed may not meet.
_SEED_DEPENDENT = (EmptyStructure, FormatError, NonFiniteOutput, TooManyVoxels)

Expect = Callable[[Stage], float]
"""Returns the seconds that a stage of a candidate is expected to take, 0.0 if nothing tells."""


@dataclass(frozen=True, eq=False)
class BestResult:
    """The best object, packed for delivery, and all candidates in the order of their seeds.

    `score` is None if the object was not scored. `problem` says why validators would score it 0; it is "" if they
    would score it. `break_off` is the unexpected error that ended the search, None if there was none. `sheets` are the
    small pictures of the candidates that have one, by seed.
    """

    asset: PackedAsset
    score: Score | None
    problem: str
    candidates: tuple[Candidate, ...]
    break_off: Exception | None = None
    sheets: Mapping[int, bytes] = field(default_factory=dict)


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
    MAX_ATTEMPTS, one after the other. It makes nothing itself: `begin` tells the next attempt, and `finish`, `lose` or
    `break_off` what became of it.

    With previews, all candidates after the first one are previewed, as long as one can be finished afterwards; then
    those whose previews score best are finished, one after the other, while there is time. Candidates whose previews
    were not finished are dropped. scripts/validation/candidates.md has what that gains.
    """

    request: Request
    count: int = 1
    seconds: float = math.inf
    deadline: float = math.inf
    has_previews: bool = False
    # The attempt of each candidate that is being made, by index, and those that were begun, lost, and are to be made
    # again.
    _running: dict[int, Attempt] = field(default_factory=dict, init=False)
    _lost: dict[int, Attempt] = field(default_factory=dict, init=False)
    _begun: int = field(default=0, init=False)
    # The latest of each candidate, which is its preview until it is finished; the best one alone has its files.
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

    def wants(self, now: float, expect: Expect) -> Stage | None:
        """Return the stage of the attempt that is wanted next, if it would be done in time; None if none is.

        expect: the seconds that whoever asks takes for a stage.
        """
        if self._break_off is not None:
            return None
        if not self.has_begun:
            return "whole"
        if self._is_hopeless:
            return None
        for stage in self._lost_stages:
            if now + expect(stage) <= self.deadline:
                return stage
        made = len(self._finished) + len(self._running)
        if not self._running and not self.has_valid and self._may_be_mended and made < MAX_ATTEMPTS:
            return "whole" if now + expect("whole") <= self.deadline else None
        if made < self.count:
            if not self.has_previews and now + expect("whole") <= self.deadline:
                return "whole"
            if self.has_previews and now + expect("preview") + expect("finish") <= self.deadline:
                return "preview"
        return "finish" if self._previews and now + expect("finish") <= self.deadline else None

    def begin(self, now: float, stage: Stage) -> Attempt:
        """Return the attempt to make next; it counts as being made from now on."""
        if not self._begun:
            self.deadline = min(self.deadline, now + self.seconds)
        if stage in self._lost_stages:
            index = min(index for index, lost in self._lost.items() if lost.stage == stage)
            attempt = self._lost.pop(index)
        elif stage == "finish":
            index = max(self._previews, key=lambda index: _rank(self._finished[index]))
            preview = self._finished[index]
            attempt = Attempt(preview.candidate.seed, "finish", preview.structure, preview.seconds)
        else:
            index = self._begun
            self._begun += 1
            attempt = Attempt(candidate_seed(self.request.seed, index), stage)
        self._running[index] = attempt
        return attempt

    def finish(self, finished: FinishedCandidate) -> None:
        """Take a candidate that was begun, or its preview; the seconds of a preview count for its candidate, too."""
        index = self._index_of(finished.candidate.seed)
        self._running.pop(index)
        if (preview := self._finished.get(index)) is not None:
            candidate = finished.candidate
            seconds = preview.candidate.seconds + candidate.seconds
            finished = replace(finished, candidate=replace(candidate, seconds=seconds))
        self._finished[index] = finished
        leader = self._leader
        for other, beaten in self._finished.items():
            if beaten is not leader:
                # Hundreds of candidates of some megabytes each may follow.
                self._finished[other] = replace(beaten, asset=None)
        if finished.error is not None:
            self._may_be_mended = isinstance(finished.error, _SEED_DEPENDENT)
        else:
            self._may_be_mended = finished.candidate.fate == "invalid"

    def lose(self, seed: int) -> None:
        """Note that whoever made a candidate was lost with it; its attempt is the next to be made."""
        index = self._index_of(seed)
        self._lost[index] = self._running.pop(index)

    def break_off(self, seed: int, error: Exception) -> None:
        """Begin no further candidates after an unexpected error in making one."""
        self._running.pop(self._index_of(seed))
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
        made = (finished for _, finished in sorted(self._finished.items()))
        sheets = {finished.candidate.seed: finished.sheet for finished in made if finished.sheet}
        return BestResult(leader.asset, best.score, problem, candidates, self._break_off, sheets)

    def _index_of(self, seed: int) -> int:
        return next(index for index, attempt in self._running.items() if attempt.seed == seed)

    @property
    def _lost_stages(self) -> list[Stage]:
        """The stages that were lost and are to be made again, the first candidate's first."""
        return [attempt.stage for _, attempt in sorted(self._lost.items())]

    @property
    def _previews(self) -> list[int]:
        """The candidates whose previews wait to be finished."""
        waiting = (index for index, finished in self._finished.items() if finished.structure is not None)
        return [index for index in waiting if index not in self._running and index not in self._lost]

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
    now: Callable[[], float] = time.monotonic, on_begin: Callable[[Attempt], object] = lambda _attempt: None,
) -> BestResult:  # fmt: skip
    """Make candidates one after the other until no other is wanted, and return the best.

    A stage is expected to take as long as the average so far, or as a whole candidate. `on_begin` gets each attempt
    before it is made. Raises the errors of `CandidateMaker.make` and `BestOfN.best`.
    """
    taken: dict[Stage, list[float]] = {}

    def expect(stage: Stage) -> float:
        seconds = taken.get(stage) or taken.get("whole") or [0.0]
        return sum(seconds) / len(seconds)

    while (stage := choice.wants(now(), expect)) is not None:
        attempt = choice.begin(now(), stage)
        on_begin(attempt)
        finished = maker.make(job, attempt, on_step)
        taken.setdefault(stage, []).append(finished.candidate.seconds)
        choice.finish(finished)
    return choice.best()


def _rank(finished: FinishedCandidate) -> tuple[bool, bool, float]:
    candidate = finished.candidate
    return candidate.fate != "invalid", candidate.score is not None, candidate.score.rank if candidate.score else 0.0
