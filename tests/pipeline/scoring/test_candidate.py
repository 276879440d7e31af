"""How a candidate is made: packed, scored, and the same as the generator makes it."""

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import (
    STAGES,
    FormatError,
    Generator,
    ImagePrompt,
    Request,
    SamplerParams,
    Score,
    Splats,
    compute_statistics,
    ply,
)
from pipeline.scoring.best_of_n import BestOfN, run_best_of_n
from pipeline.scoring.candidate import CandidateMaker, GenerationJob
from pipeline.splats.container import Container, PackedSplats
from pipeline.splats.splats import flip_up_axis
from tests.support.generated import FakeScorer
from tests.support.searching import REQUEST, SEEDS, ScriptedModels, pack, pack_if_near


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


def test_a_prompt_is_encoded_once_for_all_scores() -> None:
    models = ScriptedModels({0: 0.4, 1: 0.9})
    scorer = FakeScorer(models.score)
    models.search(2, scorer=scorer).run()
    assert scorer.prompts == [REQUEST.prompt]


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
