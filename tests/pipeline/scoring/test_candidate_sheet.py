"""The small pictures of candidates, of which all but the best one lose their files."""

import io
import pickle
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline import (
    Asset,
    BestOfN,
    CandidateMaker,
    GenerationJob,
    OnStep,
    Request,
    SamplerParams,
    Score,
    ScoredViews,
    Splats,
    TextPrompt,
    run_best_of_n,
)
from pipeline.scoring.best_of_n import candidate_seed
from pipeline.scoring.candidate_sheet import SIDE, VIEWS, draw_candidate_sheet
from tests.support.generated import FakeBackend, FakeScorer, make_asset
from tests.support.score_views import golden_views

PARAMS = SamplerParams(steps=2, cfg_strength=0.0)
JOB = GenerationJob("t", Request(TextPrompt("a red chair"), 5, PARAMS, PARAMS), has_sheets=True)
SEEDS = tuple(candidate_seed(5, index) for index in range(3))


def pixels(sheet: bytes) -> npt.NDArray[np.float32]:
    with Image.open(io.BytesIO(sheet)) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def generate(request: Request, _on_step: OnStep) -> Asset:
    """A gaussian more for each further candidate."""
    return make_asset(request, 7000 + SEEDS.index(request.seed))


def quality_of(splats: Splats) -> float:
    return 0.2 + 0.3 * (len(splats) - 7000)


def test_a_sheet_shows_four_of_the_views_that_were_scored() -> None:
    views = golden_views("hamburger")
    shown = pixels(draw_candidate_sheet(views))
    assert shown.shape == (2 * SIDE, 2 * SIDE, 3)
    for place, view in enumerate(VIEWS):
        top, left = place // 2 * SIDE, place % 2 * SIDE
        with Image.fromarray(views[view].numpy()) as whole:
            small = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
        # But for what JPEG loses.
        assert np.abs(shown[top : top + SIDE, left : left + SIDE] - small).mean() < 4


@pytest.mark.parametrize("noise", [False, True])
def test_a_sheet_takes_a_bounded_number_of_bytes(noise: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    # Noise that is left when pixels are averaged.
    coarse = torch.randint(0, 2, (16, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8) * 255
    index = torch.arange(518) * SIDE // 518
    views = coarse[:, index][:, :, index] if noise else golden_views("robocop")
    assert 2_000 < len(draw_candidate_sheet(views)) < (100_000 if noise else 30_000)


def test_every_candidate_has_one_and_only_the_best_its_files() -> None:
    maker = CandidateMaker(FakeBackend(generate), FakeScorer(quality_of))
    best = run_best_of_n(maker, JOB, BestOfN(JOB.request, 3))
    assert [candidate.fate for candidate in best.candidates] == ["beaten", "beaten", "chosen"]
    assert tuple(best.sheets) == SEEDS
    shades = [float(pixels(sheet).mean()) for sheet in best.sheets.values()]
    assert shades == pytest.approx([255 * 0.2, 255 * 0.5, 255 * 0.8], abs=1)
    # It comes from other processes and machines with the candidate.
    made = maker.make(JOB, BestOfN(JOB.request).begin(0.0, "whole"))
    assert pickle.loads(pickle.dumps(replace(made, asset=None))).sheet == made.sheet == best.sheets[5]


def test_candidates_without_a_score_or_of_other_jobs_have_none() -> None:
    for job, scorer in ((replace(JOB, has_sheets=False), FakeScorer(quality_of)), (JOB, None)):
        best = run_best_of_n(CandidateMaker(FakeBackend(generate), scorer), job, BestOfN(JOB.request, 3))
        assert best.sheets == {}


def test_a_picture_that_fails_costs_no_score() -> None:
    class BrokenViews(FakeScorer):
        def for_prompt(self, prompt):  # type: ignore[no-untyped-def]
            return lambda _: ScoredViews(Score(quality=0.5), torch.zeros(0))

    best = run_best_of_n(CandidateMaker(FakeBackend(generate), BrokenViews(quality_of)), JOB, BestOfN(JOB.request))
    assert best.score == Score(quality=0.5)
    assert best.sheets == {}
