"""Best of N: which candidate is taken, what ends the search, and that a candidate is what the generator makes."""

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakSet

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import (
    STAGES,
    Asset,
    Attempt,
    Cancelled,
    EmptyForeground,
    EmptyStructure,
    FormatError,
    Generator,
    ImagePrompt,
    OnStep,
    OutOfMemory,
    PipelineError,
    Prompt,
    Request,
    SamplerParams,
    Score,
    Splats,
    TextPrompt,
    UnsupportedPrompt,
    compute_statistics,
    ply,
)
from pipeline.request import Conditioning, ignore_steps
from pipeline.scoring.best_of_n import MAX_ATTEMPTS, BestOfN, BestResult, candidate_seed, run_best_of_n
from pipeline.scoring.candidate import Candidate, CandidateMaker, FinishedCandidate, GenerationJob
from pipeline.splats.container import Container, PackedSplats
from pipeline.splats.splats import flip_up_axis
from tests.support.generated import FakeScorer

PARAMS = SamplerParams(steps=1, cfg_strength=0.0)
REQUEST = Request(ImagePrompt(Image.new("RGB", (4, 4)), b"picture"), 11, PARAMS, PARAMS)
SEEDS = tuple(candidate_seed(11, index) for index in range(5))


def cloud(seed: int, count: int = 7000) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator),
        quaternions=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), -4.0),
        opacity_logits=torch.zeros(count),
        f_dc=torch.full((count, 3), float(seed)),
    )


def pack(splats: Splats) -> PackedSplats:
    return PackedSplats(b"packed", splats)


Pack = Callable[[Splats], PackedSplats]


@dataclass(frozen=True)
class PackedBy(Container):
    """A container whose files a function of the test makes."""

    function: Pack = pack

    def pack(self, splats: Splats) -> PackedSplats:
        return self.function(splats)


@dataclass
class Search:
    """A request, with the one worker that makes its candidates."""

    maker: CandidateMaker
    job: GenerationJob
    choice: BestOfN
    seconds: list[float] = field(default_factory=list)

    def make_one(self) -> None:
        """Make another candidate if it is wanted."""
        if self.wants_another:
            finished = self.maker.make(self.job, self.choice.begin(self.maker.now(), "whole"))
            self.seconds.append(finished.candidate.seconds)
            self.choice.finish(finished)

    @property
    def wants_another(self) -> bool:
        mean = sum(self.seconds) / len(self.seconds) if self.seconds else 0.0
        return self.choice.wants(self.maker.now(), lambda _: mean) is not None

    def run(self, on_step: OnStep = ignore_steps) -> BestResult:
        return run_best_of_n(self.maker, self.job, self.choice, on_step, self.maker.now)


@dataclass
class ScriptedModels:
    """A backend and a scorer with a clock of their own; `outcomes` by index: a quality, or what is raised."""

    outcomes: Mapping[int, float | Exception]
    seconds: tuple[float, ...] = (1.0,)
    counts: Mapping[int, int] = field(default_factory=dict)
    refusal: Exception | None = None
    now: float = 100.0
    encoded: int = 0
    asked: list[int] = field(default_factory=list)

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        assert prompt is not None
        self.encoded += 1
        if self.refusal is not None:
            raise self.refusal
        return Conditioning(None, {"background": 0.25, "conditioning": 0.5})

    def sample(self, conditioning: Conditioning[None], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        assert isinstance(conditioning, Conditioning)
        index = len(self.asked)
        self.asked.append(request.seed)
        self.now += self.seconds[index % len(self.seconds)]
        on_step("structure", 1, 1)
        outcome = self.outcomes[index]
        if isinstance(outcome, Exception):
            raise outcome
        seconds = dict.fromkeys(STAGES, 0.1) | {"background": 0.0, "conditioning": 0.0}
        return Asset(cloud(index, self.counts.get(index, 7000)), request.seed, 1, seconds)

    def score(self, splats: Splats) -> float:
        self.now += 0.5
        outcome = self.outcomes[int(splats.f_dc[0, 0])]
        assert not isinstance(outcome, Exception)
        return outcome

    def search(
        self,
        count: int,
        request: Request = REQUEST,
        pack: Pack = pack,
        scorer: FakeScorer | Literal["own"] | None = "own",
        **limits: float,
    ) -> Search:
        scorer = FakeScorer(self.score) if scorer == "own" else scorer
        maker = CandidateMaker(self, scorer, lambda: self.now)  # type: ignore[arg-type]
        return Search(maker, GenerationJob("t", request, PackedBy(function=pack)), BestOfN(request, count, **limits))

    def best(self, count: int, request: Request = REQUEST, pack: Pack = pack, **limits: float) -> BestResult:
        return self.search(count, request, pack, **limits).run()


def test_the_best_is_taken_and_every_number_is_told() -> None:
    models = ScriptedModels({0: 0.4, 1: 0.9, 2: 0.6}, seconds=(1.0, 2.0, 3.0))
    best = models.best(3)
    assert (best.asset.seed, best.score, best.problem) == (SEEDS[1], Score(0.9), "")
    assert [c.seed for c in best.candidates] == models.asked == list(SEEDS[:3])
    assert [c.score for c in best.candidates] == [Score(0.4), Score(0.9), Score(0.6)]
    assert [c.seconds for c in best.candidates] == [1.5, 2.5, 3.5]
    assert not any(c.problem for c in best.candidates)


def test_of_equals_the_first_is_taken() -> None:
    assert ScriptedModels({0: 0.5, 1: 0.5}).best(2).asset.seed == 11


def test_seeds_follow_from_the_requests_alone_and_differ() -> None:
    for seed in (0, 11, 2**31 - 1, 2**62):
        seeds = [candidate_seed(seed, index) for index in range(64)]
        assert seeds[0] == seed
        assert len(set(seeds)) == 64
        assert all(0 <= other < 2**31 for other in seeds[1:])
    assert candidate_seed(5, 3) == candidate_seed(5, 3) != candidate_seed(6, 3)


@pytest.mark.parametrize(
    ("limits", "made"),
    [
        ({}, 5),
        # 1.5 s each: the fourth would end at 6.0.
        ({"seconds": 6.0}, 4),
        ({"seconds": 5.9}, 3),
        ({"deadline": 104.6}, 3),
        ({"deadline": 104.4}, 2),
        ({"seconds": 3.0, "deadline": 104.6}, 2),
        # Too late already: one is always made.
        ({"deadline": 99.0}, 1),
        ({"seconds": 0.1}, 1),
    ],
)
def test_no_candidate_is_begun_that_would_not_be_done_in_time(limits: dict[str, float], made: int) -> None:
    models = ScriptedModels(dict.fromkeys(range(5), 0.5))
    assert len(models.best(5, **limits).candidates) == made


def test_the_expected_time_is_the_mean_of_those_before() -> None:
    # 1.5 and 9.5 s: another 5.5 s would end at 16.5.
    for seconds, made in ((16.5, 3), (16.4, 2)):
        models = ScriptedModels(dict.fromkeys(range(3), 0.5), seconds=(1.0, 9.0, 1.0))
        assert len(models.best(3, seconds=seconds).candidates) == made


def test_the_seconds_count_from_the_first_candidates_beginning_and_a_wait_between_counts() -> None:
    models = ScriptedModels(dict.fromkeys(range(5), 0.5))
    search = models.search(5, seconds=6.0)
    models.now += 50
    search.make_one()
    assert search.wants_another
    models.now += 4.0
    # Another task had the device: there is no time left, and nothing is made.
    search.make_one()
    assert len(search.choice.best().candidates) == len(models.asked) == 1


def test_an_object_that_cannot_be_made_or_is_invalid_never_wins() -> None:
    models = ScriptedModels({0: EmptyStructure("nothing"), 1: 0.99, 2: 0.1}, counts={1: 6999})
    best = models.best(3)
    assert (best.asset.seed, best.score) == (SEEDS[2], Score(0.1))
    problems = [c.problem for c in best.candidates]
    assert problems[0] == "EmptyStructure: nothing"
    assert "6999 gaussians" in problems[1]
    assert [c.score for c in best.candidates] == [None, None, Score(0.1)]


def test_an_invalid_object_is_better_than_none_and_is_not_scored() -> None:
    best = ScriptedModels({0: EmptyStructure("nothing"), 1: 0.9}, counts={1: 6999}).best(2, seconds=2)
    assert (best.asset.seed, best.score) == (SEEDS[1], None)
    assert best.problem == best.candidates[1].problem
    assert "6999 gaussians" in best.problem


def pack_if_near(splats: Splats) -> PackedSplats:
    if splats.f_dc[0, 0] == 0:
        raise FormatError("too far out")
    return pack(splats)


def test_an_object_that_cannot_be_packed_never_wins() -> None:
    best = ScriptedModels({0: 0.9, 1: 0.1}).best(2, pack=pack_if_near)
    assert (best.asset.seed, best.candidates[0].problem) == (SEEDS[1], "FormatError: too far out")
    with pytest.raises(FormatError, match="too far out"):
        ScriptedModels({0: 0.9}).best(1, pack=pack_if_near, seconds=1)


def test_the_scorer_sees_what_the_validator_receives() -> None:
    models = ScriptedModels({0: 0.2, 1: 0.3, 2: 0.8})
    packings: list[float] = []

    def swap(splats: Splats) -> PackedSplats:
        """As if packing turned the first into the third."""
        packings.append(float(splats.f_dc[0, 0]))
        return PackedSplats(b"%d" % packings[-1], replace(splats, f_dc=2 - 2 * splats.f_dc))

    best = models.best(2, pack=swap)
    assert [c.score for c in best.candidates] == [Score(0.8), Score(0.2)]
    # Each file was made once.
    assert best.asset.data == b"0"
    assert packings == [0, 1]


@pytest.mark.parametrize(("count", "problem"), [(7000, ""), (6999, "6999 gaussians")])
def test_without_a_scorer_a_candidate_is_packed_when_the_device_may_go_on(count: int, problem: str) -> None:
    models = ScriptedModels({0: 0.5}, counts={0: count})
    packings: list[Splats] = []

    def note(splats: Splats) -> PackedSplats:
        packings.append(splats)
        return pack(splats)

    search = models.search(1, pack=note, scorer=None)
    finish = search.maker.begin(search.job, search.choice.begin(models.now, "whole"))
    assert not packings
    search.choice.finish(finish())
    assert search.choice.has_valid is not bool(problem)
    assert len(packings) == 1
    best = search.choice.best()
    assert best.score is None
    assert best.problem.startswith(problem)
    assert bool(best.problem) == bool(problem)


def test_a_file_that_cannot_be_written_is_another_seeds_chance_without_a_scorer_too() -> None:
    best = ScriptedModels({0: 0.5, 1: 0.5}).search(1, pack=pack_if_near, scorer=None).run()
    assert (best.asset.seed, best.candidates[0].problem) == (SEEDS[1], "FormatError: too far out")
    with pytest.raises(FormatError, match="too far out"):
        ScriptedModels({0: 0.5}).search(1, pack=pack_if_near, scorer=None, seconds=1).run()


def test_the_prompt_is_encoded_once_and_the_first_object_carries_its_seconds() -> None:
    models = ScriptedModels({0: 0.4, 1: 0.9})
    first = models.best(1).asset
    assert tuple(first.seconds) == STAGES
    assert (first.seconds["background"], first.seconds["conditioning"], first.seconds["latents"]) == (0.25, 0.5, 0.1)
    models = ScriptedModels({0: 0.4, 1: 0.9})
    second = models.best(2).asset
    assert (models.encoded, second.seed) == (1, SEEDS[1])
    assert (second.seconds["background"], second.seconds["conditioning"]) == (0.0, 0.0)


def test_nothing_made_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no candidate was made"):
        BestOfN(REQUEST).best()


def test_an_object_that_could_not_be_scored_is_sent_if_there_is_no_other() -> None:
    def fail(_: Splats) -> float:
        raise OutOfMemory("no room")

    models = ScriptedModels({0: 0.9, 1: 0.1})
    best = models.search(2, scorer=FakeScorer(fail)).run()
    assert (best.asset.seed, best.score, best.problem) == (11, None, "")
    assert best.candidates[0].problem == "not scored, OutOfMemory: no room"
    assert best.candidates[0].is_unscored


@pytest.mark.parametrize("stage", ["encode", "sample", "pack"])
@pytest.mark.parametrize("is_scored", [True, False])
def test_memory_that_does_not_suffice_is_told_whatever_the_stage(stage: str, is_scored: bool) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def fail(_: Splats) -> PackedSplats:
        raise error

    models = ScriptedModels({0: error if stage == "sample" else 0.9})
    if stage == "encode":
        models.refusal = error
    scorer = FakeScorer(models.score) if is_scored else None
    search = models.search(1, pack=fail if stage == "pack" else pack, scorer=scorer)
    with pytest.raises(OutOfMemory, match=r"too little memory for this task \(CUDA out of memory\): lower max_voxels"):
        search.run()


def test_a_candidate_for_which_memory_did_not_suffice_does_not_cost_the_others() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    best = ScriptedModels({0: 0.4, 1: error}).best(2)
    assert (best.asset.seed, best.break_off) == (11, None)
    assert best.candidates[1].fate == "failed"


def test_a_scorer_that_breaks_does_not_cost_the_result() -> None:
    def fail(splats: Splats) -> float:
        if splats.f_dc[0, 0] == 1:
            raise RuntimeError("no kernel image")
        return 0.3

    best = ScriptedModels({0: 0.9, 1: 0.1}).search(2, scorer=FakeScorer(fail)).run()
    assert (best.asset.seed, best.score) == (11, Score(0.3))
    assert best.candidates[1].problem == "not scored, RuntimeError: no kernel image"
    models = ScriptedModels({0: 0.9})
    assert models.search(1, scorer=FakeScorer(lambda _: 1 / 0)).run().asset.data == b"packed"


def test_a_scored_object_is_better_than_one_whose_score_is_not_a_number() -> None:
    best = ScriptedModels({0: math.nan, 1: 0.1}).best(2)
    assert best.asset.seed == SEEDS[1]


def test_every_candidate_has_a_fate() -> None:
    models = ScriptedModels({0: 0.4, 1: EmptyStructure("none"), 2: 0.8, 3: 0.9, 4: 0.1}, counts={3: 6999})
    fates = [candidate.fate for candidate in models.best(5).candidates]
    assert fates == ["beaten", "failed", "chosen", "invalid", "beaten"]
    assert [c.fate for c in ScriptedModels({0: 0.9}, counts={0: 6999}).best(1, seconds=1).candidates] == ["invalid"]


def test_a_prompt_is_encoded_once_for_all_scores() -> None:
    models = ScriptedModels({0: 0.4, 1: 0.9})
    scorer = FakeScorer(models.score)
    models.search(2, scorer=scorer).run()
    assert scorer.prompts == [REQUEST.prompt]


def test_if_none_can_be_made_the_first_error_is_told() -> None:
    models = ScriptedModels({0: EmptyStructure("first"), 1: OutOfMemory("second")})
    with pytest.raises(EmptyStructure, match="first"):
        models.best(2)
    assert len(models.asked) == 2


@pytest.mark.parametrize(
    ("prompt", "error", "candidates"),
    [
        (REQUEST.prompt, EmptyForeground("no object"), 1),
        (TextPrompt("a chair"), UnsupportedPrompt("no checkpoint"), 1),
        # Another seed draws another picture.
        (TextPrompt("a chair"), EmptyForeground("no object"), 3),
    ],
)
@pytest.mark.parametrize("encoding", [True, False])
def test_a_prompt_that_is_at_fault_is_not_tried_again(
    prompt: Prompt, error: PipelineError, candidates: int, encoding: bool
) -> None:
    models = ScriptedModels(dict.fromkeys(range(3), error), refusal=error if encoding else None)
    with pytest.raises(type(error)):
        models.best(3, replace(REQUEST, prompt=prompt))
    assert (models.encoded if encoding else len(models.asked)) == candidates


@pytest.mark.parametrize("error", [Cancelled("stopping"), RuntimeError("CUDA error")])
def test_whoever_stops_it_or_breaks_the_device_is_heard_at_once(error: Exception) -> None:
    models = ScriptedModels({0: 0.5, 1: error, 2: 0.9})
    search = models.search(3)
    search.make_one()
    with pytest.raises(type(error)):
        search.make_one()
    assert search.choice.has_valid
    assert search.choice.best().score == Score(0.5)


def test_steps_are_told() -> None:
    steps: list[str] = []
    models = ScriptedModels({0: 0.1, 1: 0.2})
    models.search(2).run(lambda stage, done, of: steps.append(stage))
    assert steps == ["structure", "structure"]


def request_of_an_egg() -> Request:
    image = Image.new("RGBA", (160, 128))
    ImageDraw.Draw(image).ellipse((66, 10, 86, 118), fill=(200, 40, 40, 255))
    few, fewer = (SamplerParams(steps=n, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0) for n in (4, 2))
    return Request(ImagePrompt(image, b"egg"), 3, few, fewer)


def same(a: Splats, b: Splats) -> bool:
    return len(a) == len(b) and all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("means", "quaternions", "f_dc"))


@pytest.mark.parametrize("scorer", [None, FakeScorer(lambda splats: 0.5)])
def test_one_candidate_is_what_the_generator_makes(generator: Generator, scorer: FakeScorer | None) -> None:
    request = request_of_an_egg()
    job = GenerationJob("egg", request, Container("ply"), copies=(Container("ply", "-y"),))
    best = run_best_of_n(CandidateMaker(generator, scorer), job, BestOfN(request))
    made = generator.generate(request)
    assert same(job.container.unpack(best.asset.data), flip_up_axis(made.splats))
    assert same(ply.from_bytes(best.asset.copies[0]), made.splats)
    assert best.asset.statistics == compute_statistics(flip_up_axis(made.splats))
    assert (best.asset.gaussians, best.asset.voxels) == (len(made.splats), made.voxels)
    assert [c.seed for c in best.candidates] == [best.asset.seed] == [3]
    assert best.score == (scorer and Score(0.5))
    assert all(seconds > 0 for seconds in best.asset.seconds.values())


def test_candidates_are_what_their_seeds_give_alone(generator: Generator) -> None:
    request = request_of_an_egg()
    scorer = FakeScorer(lambda splats: float(splats.means.std()))
    job = GenerationJob("egg", request, Container("ply"))
    best = run_best_of_n(CandidateMaker(generator, scorer), job, BestOfN(request, 3))
    alone = generator.generate(replace(request, seed=best.asset.seed))
    assert same(job.container.unpack(best.asset.data), flip_up_axis(alone.splats))


# With several workers.


def finished(seed: int, quality: float) -> FinishedCandidate:
    models = ScriptedModels({0: quality})
    return replace(models.search(1).maker.make(GenerationJob("t", REQUEST, PackedBy()), Attempt(seed)))


def begin(choice: BestOfN, now: float = 0.0) -> int:
    return choice.begin(now, "whole").seed


def wants_another(choice: BestOfN, now: float, seconds: float) -> bool:
    return choice.wants(now, lambda _: seconds) is not None


def test_those_in_the_making_count() -> None:
    choice = BestOfN(REQUEST, 3, seconds=10.0)
    assert [begin(choice, 100.0), begin(choice, 101.0)] == list(SEEDS[:2])
    assert wants_another(choice, 104.0, 6.0)
    assert not wants_another(choice, 104.0, 6.1)
    assert begin(choice, 104.0) == SEEDS[2]
    assert not wants_another(choice, 104.0, 0.1)
    for seed in (SEEDS[2], SEEDS[0], SEEDS[1]):
        choice.finish(finished(seed, 0.5))
    # Of equals the first, in whatever order they were done.
    assert choice.best().asset.seed == SEEDS[0]
    assert [candidate.seed for candidate in choice.best().candidates] == list(SEEDS[:3])


def test_of_all_files_only_those_of_the_best_are_kept() -> None:
    """Hundreds of candidates may be made of one task, of some megabytes each."""
    choice = BestOfN(REQUEST, 4)
    seeds, alive = [begin(choice) for _ in range(4)], WeakSet()
    for index, quality in ((2, 0.5), (0, 0.2), (3, 0.9), (1, 0.4)):
        made = finished(seeds[index], quality)
        alive.add(made.asset)
        choice.finish(made)
        del made
    assert list(alive) == [choice.best().asset]
    assert choice.best().asset.seed == seeds[3]
    assert [candidate.score for candidate in choice.best().candidates] == [Score(q) for q in (0.2, 0.4, 0.5, 0.9)]


def test_what_is_lost_is_made_again_before_anything_new() -> None:
    choice = BestOfN(REQUEST, 3)
    first, second = begin(choice), begin(choice)
    choice.lose(second)
    choice.lose(first)
    assert [begin(choice, 1.0), begin(choice, 1.0), begin(choice, 1.0)] == [first, second, SEEDS[2]]


def test_the_first_that_is_lost_is_made_again_whatever_the_time() -> None:
    choice = BestOfN(REQUEST, 1, deadline=1.0)
    choice.lose(begin(choice))
    assert wants_another(choice, 9.0, 5.0)


def test_attempts_beyond_the_count_are_made_one_after_the_other() -> None:
    choice = BestOfN(REQUEST)
    for _ in range(MAX_ATTEMPTS):
        assert wants_another(choice, 0.0, 1.0)
        seed = begin(choice)
        assert not wants_another(choice, 0.0, 1.0)
        choice.finish(FinishedCandidate.failed(seed, 1.0, EmptyStructure("none")))
    assert not wants_another(choice, 0.0, 1.0)


def test_an_unexpected_error_ends_the_search_and_costs_no_valid_object() -> None:
    choice = BestOfN(REQUEST, 5)
    first, second = begin(choice), begin(choice)
    choice.break_off(second, RuntimeError("a bug"))
    assert not wants_another(choice, 0.0, 0.0)
    with pytest.raises(RuntimeError, match="a bug"):
        choice.best()
    choice.finish(finished(first, 0.5))
    assert str(choice.best().break_off) == "a bug"


def test_a_candidate_travels_between_processes() -> None:
    made = finished(SEEDS[1], 0.5)
    came = pickle.loads(pickle.dumps(made))
    assert isinstance(came.candidate, Candidate)
    assert (came.candidate, vars(came.asset)) == (made.candidate, vars(made.asset))
    try:
        raise EmptyStructure("nothing")
    except EmptyStructure as error:
        failed = FinishedCandidate.failed(5, 1.0, error)
    came = pickle.loads(pickle.dumps(failed))
    assert (came.candidate, repr(came.error)) == (failed.candidate, "EmptyStructure('nothing')")
