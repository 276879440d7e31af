"""One candidate of a request, from its seed to the file, its statistics and its score; splats do not outlive it."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from pipeline.conditioning.mattings import CutOutRecord
from pipeline.conditioning.preprocessing import PreparedPicture
from pipeline.errors import Cancelled, NoCutOut, PipelineError
from pipeline.request import Asset, Backend, Conditioning, OnStep, Request, ignore_steps
from pipeline.scoring.candidate_sheet import draw_candidate_sheet
from pipeline.scoring.memory import within_memory
from pipeline.scoring.score import Score
from pipeline.scoring.scorer import ScoredViews, Scorer, ScoreSplats
from pipeline.splats.container import Container
from pipeline.splats.splats import Splats, flip_up_axis
from pipeline.splats.statistics import Statistics, compute_statistics
from pipeline.splats.validation import invalid_reason

# What became of a candidate: it was sent, another one was better, its preview was no better than those that were
# finished, validators would score it 0, or it was never made.
Fate = Literal["chosen", "beaten", "dropped", "invalid", "failed"]
# A candidate is made at once, or its structure is sampled with a few steps of latents, which show what it promises, and
# all steps of latents are sampled on that structure later.
Stage = Literal["whole", "preview", "finish"]


@dataclass(frozen=True)
class GenerationJob:
    """What all candidates of one task have in common.

    task: a name that no other task has. container: the file that validators would receive, which is scored. copies:
    further files of the same object. is_scored: whether to score results, if there is a scorer. preview_steps: those of
    the latents of a preview. is_explained: whether results keep the pictures and the structure they were made from.
    has_sheets: whether scored candidates have a sheet, since all but the best one lose their files.
    """

    task: str
    request: Request
    container: Container = field(default_factory=Container)
    copies: tuple[Container, ...] = ()
    is_scored: bool = True
    preview_steps: int = 0
    is_explained: bool = False
    has_sheets: bool = False


@dataclass(frozen=True, eq=False)
class Attempt:
    """A stage of a candidate that is to be made.

    structure, seconds: of the preview that is to be finished, the voxels [N, 3] uint8 and the seconds of each stage.
    """

    seed: int
    stage: Stage = "whole"
    structure: Tensor | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """One attempt: its seed, the seconds that generation and scoring took, its score, its fate and what is wrong.

    `score` is None if it was not scored; `problem` is "" for a valid object that was scored if there is a scorer.
    `voxels` is the size of its structure, None if it has none.
    """

    seed: int
    seconds: float
    score: Score | None
    problem: str = ""
    fate: Fate = "beaten"
    voxels: int | None = None

    @property
    def is_unscored(self) -> bool:
        """Whether a valid object could not be scored."""
        return self.fate in ("chosen", "beaten", "dropped") and bool(self.problem)


@dataclass(frozen=True, eq=False)
class PackedAsset:
    """A generated object as files, and what is told of it.

    data, copies: the files of the job's container and of its copies. statistics: those of the splats with +y up,
    before any file rounds them. seconds: of each stage, see Asset. cut_outs: how models cut out each picture.
    pictures, structure: see Asset; only of a job that is explained.
    """

    data: bytes
    copies: tuple[bytes, ...]
    seed: int
    voxels: int
    statistics: Statistics
    seconds: dict[str, float]
    cut_outs: tuple[CutOutRecord, ...] = ()
    pictures: tuple[PreparedPicture, ...] = ()
    structure: Tensor | None = None

    @property
    def gaussians(self) -> int:
        """The number of gaussians."""
        return self.statistics.count

    @property
    def total_seconds(self) -> float:
        """Time of all stages together."""
        return sum(self.seconds.values())


@dataclass(frozen=True, eq=False)
class FinishedCandidate:
    """A candidate and its files: plain values, which may come from another process.

    asset: None if no object could be made or packed, where `error` says why, and for a preview, of which there are the
    structure [N, 3] uint8 and the seconds of each stage instead. sheet: see pipeline.scoring.candidate_sheet; b"" if
    it has none.
    """

    candidate: Candidate
    asset: PackedAsset | None = None
    error: PipelineError | None = None
    structure: Tensor | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    sheet: bytes = b""

    @staticmethod
    def failed(seed: int, seconds: float, error: PipelineError) -> "FinishedCandidate":
        """Return a candidate that could not be made."""
        # The traceback would keep the tensors of every frame that it passed.
        error = error.with_traceback(None)
        error.__context__ = error.__cause__ = None
        return FinishedCandidate(
            Candidate(seed, seconds, None, f"{type(error).__name__}: {error}", "failed"), error=error
        )


@dataclass(eq=False)
class _TaskState:
    """What the candidates of one task share on one device."""

    conditioning: Conditioning[Any] | None = None
    score_splats: ScoreSplats | None = None


# Scores what was packed.
ScorePacked = Callable[[], FinishedCandidate]
# Packs and checks what was sampled; returns the function that scores it if something does.
PackSampled = Callable[[], FinishedCandidate | ScorePacked]


@dataclass(eq=False)
class CandidateMaker:
    """Makes candidates with one phase's models; a prompt is encoded once for all candidates of its task.

    What `begin` returns leaves the device alone, and so may be called in another thread while the next candidate is
    begun in this one; what that returns may not. Not thread-safe otherwise.
    """

    backend: Backend
    scorer: Scorer | None = None
    now: Callable[[], float] = time.monotonic
    _tasks: dict[str, _TaskState] = field(default_factory=dict, init=False)

    def make(self, job: GenerationJob, attempt: Attempt, on_step: OnStep = ignore_steps) -> FinishedCandidate:
        """Make a candidate, or a preview of it where the backend samples on structures.

        An object that cannot be made becomes a candidate with a problem instead of an error. Raises whatever `on_step`
        raises, and errors other than PipelineError.
        """
        begun = self.begin(job, attempt, on_step)
        packed = begun if isinstance(begun, FinishedCandidate) else begun()
        return packed if isinstance(packed, FinishedCandidate) else packed()

    def begin(
        self, job: GenerationJob, attempt: Attempt, on_step: OnStep = ignore_steps
    ) -> FinishedCandidate | PackSampled:
        """Sample a candidate; return the function that packs it, or what is finished. Raises what `make` raises."""
        started = self.now()
        scorer = self.scorer if job.is_scored else None
        state = self._tasks.setdefault(job.task, _TaskState())
        request = job.request
        is_preview = (
            attempt.stage == "preview" and scorer is not None and self.backend.samples_on_structures(request.prompt)
        )
        if is_preview:
            latents = replace(request.slat_sampler_params, steps=job.preview_steps)
            request = replace(request, slat_sampler_params=latents)
        try:
            asset = within_memory(lambda: self._sample(request, attempt, state, on_step), "this task")
            if is_preview:
                return within_memory(lambda: self._preview(job, state, asset, started), "this task")
        except Cancelled:
            raise
        except PipelineError as error:
            if isinstance(error, NoCutOut) and not job.is_explained:
                error.mattings = ()
            return FinishedCandidate.failed(attempt.seed, self.now() - started, error)
        kept = replace(asset, splats=asset.splats.to("cpu"))
        seconds = self.now() - started
        return lambda: self._pack(job, state, kept, seconds)

    def forget(self, task: str) -> None:
        """Drop what is kept of a task."""
        self._tasks.pop(task, None)

    def _sample(self, request: Request, attempt: Attempt, state: _TaskState, on_step: OnStep) -> Asset:
        """Generate an object; its seconds include those of its preview, and of the prompt if that is encoded for it."""
        encoding: Mapping[str, float] = {}
        if state.conditioning is None:
            state.conditioning = self.backend.encode(request.prompt)
            encoding = state.conditioning.seconds
        request = replace(request, seed=attempt.seed, structure=attempt.structure)
        asset = self.backend.sample(state.conditioning, request, on_step)
        return asset.with_added_seconds(attempt.seconds).with_added_seconds(encoding)

    def _preview(self, job: GenerationJob, state: _TaskState, asset: Asset, started: float) -> FinishedCandidate:
        """Score an object of few steps of latents, without files."""
        splats = flip_up_axis(job.container.place(asset.splats))
        if problem := invalid_reason(splats) or "":
            candidate = Candidate(asset.seed, self.now() - started, None, problem, "invalid", asset.voxels)
            return FinishedCandidate(candidate)
        scored, note = self._try_to_score(job, state, splats)
        score = scored.score if scored else None
        candidate = Candidate(asset.seed, self.now() - started, score, note, "dropped", asset.voxels)
        sheet = _draw_sheet(job, scored)
        return FinishedCandidate(candidate, structure=asset.structure, seconds=asset.seconds, sheet=sheet)

    def _pack(
        self, job: GenerationJob, state: _TaskState, asset: Asset, seconds: float
    ) -> FinishedCandidate | ScorePacked:
        """Pack and check an object whose sampling took `seconds`; return the function that scores it."""
        started = self.now()
        try:
            packed, splats = within_memory(lambda: _pack(job, asset), "this task")
        except PipelineError as error:
            return FinishedCandidate.failed(asset.seed, seconds + self.now() - started, error)
        problem = invalid_reason(splats) or ""
        fate: Fate = "invalid" if problem else "beaten"
        candidate = Candidate(asset.seed, seconds + self.now() - started, None, problem, fate, asset.voxels)
        finished = FinishedCandidate(candidate, packed)
        if problem or self.scorer is None or not job.is_scored:
            return finished
        return lambda: self._score(job, state, finished, splats)

    def _score(
        self, job: GenerationJob, state: _TaskState, packed: FinishedCandidate, splats: Splats
    ) -> FinishedCandidate:
        """Score what validators get from a packed object. Raises Cancelled."""
        started = self.now()
        scored, note = self._try_to_score(job, state, splats)
        sheet = _draw_sheet(job, scored)
        seconds = packed.candidate.seconds + self.now() - started
        candidate = replace(packed.candidate, seconds=seconds, score=scored.score if scored else None, problem=note)
        return replace(packed, candidate=candidate, sheet=sheet)

    def _try_to_score(self, job: GenerationJob, state: _TaskState, splats: Splats) -> tuple[ScoredViews | None, str]:
        """Return the score of splats with their views, or None and why there is none; "" without a scorer."""
        scorer = self.scorer
        if scorer is None:
            return None, ""

        try:
            if state.score_splats is None:
                state.score_splats = scorer.for_prompt(job.request.prompt)
            return state.score_splats(splats), ""
        except Cancelled:
            raise
        except Exception as error:  # a scorer that fails in any way does not cost the result
            return None, f"not scored, {type(error).__name__}: {error}"


def _pack(job: GenerationJob, asset: Asset) -> tuple[PackedAsset, Splats]:
    """Return an object's files, and the splats that validators get from the first. Raises PipelineError."""
    packed = job.container.pack(asset.splats)
    copies = tuple(container.pack(asset.splats).data for container in job.copies)
    statistics = compute_statistics(flip_up_axis(job.container.place(asset.splats)))
    cut_outs = tuple(picture.cut_out.record() for picture in asset.pictures if picture.cut_out.mattings)
    kept = (asset.pictures, asset.structure) if job.is_explained else ()
    whole = PackedAsset(packed.data, copies, asset.seed, asset.voxels, statistics, asset.seconds, cut_outs, *kept)
    return whole, packed.splats


def _draw_sheet(job: GenerationJob, scored: ScoredViews | None) -> bytes:
    """Return the sheet of a candidate, b"" if the job has none."""
    if scored is None or not job.has_sheets:
        return b""
    with suppress(Exception):  # whatever a picture may cost, it is not the result
        return draw_candidate_sheet(scored.views)
    return b""
