"""The whole score of golden views against the validator's own entry points, and what becomes of missing parts."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import ImagePrompt, ImagesPrompt, OutOfMemory, Prompt, Score, ScorerSources, TextPrompt, ValidatorScorer
from pipeline.scoring import scorer as scorer_module
from tests.support.alignment_checkpoints import write_image_alignment, write_text_alignment
from tests.support.formula_weights import SCORE_DATA, formula_weights, golden_shapes
from tests.support.generated import make_splats
from tests.support.score_views import OBJECTS, golden_scores, golden_views

CPU = torch.device("cpu")
ENGINE = [
    pytest.param(name, result, id=f"{name}-{result['kind']}-{number}")
    for name in OBJECTS
    for number, result in enumerate(golden_scores(name)["engine"])
    if result["variant"] == "f32"
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> ScorerSources:
    folder = tmp_path_factory.mktemp("scorer")
    text, image, quality = (folder / name for name in ("text", "image", "quality"))
    for directory in (text, image, quality):
        directory.mkdir()
    save_file(formula_weights(golden_shapes("quality")), quality / "quality_scorer.safetensors")
    config = json.loads((SCORE_DATA / "networks.json").read_text())["quality"]["config"]
    (quality / "config.json").write_text(json.dumps({"model_type": "dinov2", **config}))
    alexnet = folder / "alexnet.safetensors"
    save_file(formula_weights(golden_shapes("lpips")), alexnet)
    return ScorerSources(
        ("quality", "alignment", "similarity"),
        str(quality), str(write_text_alignment(text)), str(write_image_alignment(image)), str(alexnet),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scorer(sources: ScorerSources) -> ValidatorScorer:
    scorer = ValidatorScorer.load(sources, CPU, text=True, image=True)
    assert scorer.missing == ()
    return scorer


def prompt_of(name: str, result: dict[str, Any]) -> Prompt:
    if result["kind"] == "text":
        return TextPrompt(result["prompt"])
    assert result["prompt_image"] == "view1"
    picture = Image.fromarray(golden_views(name)[1].numpy())
    return ImagePrompt(picture, b"view 1")


@pytest.mark.parametrize(("name", "result"), ENGINE)
def test_the_score_is_that_of_the_validation_service(
    scorer: ValidatorScorer, monkeypatch: pytest.MonkeyPatch, name: str, result: dict[str, Any]
) -> None:
    monkeypatch.setattr(scorer_module, "render_validator_views", lambda _: golden_views(name))
    score = scorer.for_prompt(prompt_of(name, result))(make_splats(10)).score
    assert score.parts == ("quality", "alignment", "similarity")
    expected = {
        part: result[key] for part, key in (("quality", "iqa"), ("alignment",) * 2, ("ssim",) * 2, ("lpips",) * 2)
    }
    assert vars(score) == pytest.approx(expected, abs=1e-5, rel=0)
    assert score.total == pytest.approx(result["score"], abs=1e-5, rel=0)
    assert (score.total == 0) == (result["score"] == 0)


def test_several_pictures_are_compared_by_the_first(scorer: ValidatorScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "render_validator_views", lambda _: golden_views("robocop"))
    first, second = (ImagePrompt(Image.fromarray(golden_views("robocop")[i].numpy()), b"") for i in (1, 9))
    image_only = replace(scorer, quality=None, text_alignment=None, similarity=None)

    def score(prompt: Prompt) -> Score:
        return image_only.for_prompt(prompt)(make_splats(10)).score

    assert score(ImagesPrompt((first, second))) == score(first)
    assert score(second) != score(first)
    # A network for pictures says nothing about a sentence.
    assert score(TextPrompt("robocop")) == Score()


def test_a_part_whose_weights_are_missing_is_left_out_and_named(sources: ScorerSources, tmp_path: Path) -> None:
    lost = replace(sources, text_alignment="org/lost", lpips=str(tmp_path / "alexnet.safetensors"))
    scorer = ValidatorScorer.load(lost, CPU, text=True, image=True)
    assert [problem.partition(":")[0] for problem in scorer.missing] == ["alignment", "similarity"]
    assert "sn17-miner weights download org/lost" in scorer.missing[0]
    assert scorer.quality is not None
    assert scorer.image_alignment is not None
    assert not scorer.is_empty
    # Sentences are not scored where there are none.
    assert ValidatorScorer.load(lost, CPU, text=False, image=True).missing == scorer.missing[1:]
    nothing = replace(lost, parts=("similarity",))
    assert ValidatorScorer.load(nothing, CPU, text=True, image=True).is_empty


def test_encoding_without_memory_is_told_as_that(scorer: ValidatorScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(type(scorer.text_alignment), "encode", fail)
    with pytest.raises(OutOfMemory, match="for scoring"):
        scorer.for_prompt(TextPrompt("a chair"))


def test_a_score_with_a_part_missing_has_no_total() -> None:
    whole = Score(0.8, 0.5, 0.85, 0.9)
    assert whole.total == pytest.approx(
        0.6 + 0.1 + 0.025 / (1 + math.exp(-0.7)) + 0.0225 / (1 + math.exp(-6)), abs=1e-6
    )
    assert str(whole) == f"quality 0.800, alignment 0.500, ssim 0.850, lpips 0.900, score {whole.total:.3f}"
    for part in ("quality", "alignment", "ssim", "lpips"):
        assert replace(whole, **{part: None}).total is None
    assert replace(whole, lpips=None).parts == ("quality", "alignment")
    assert str(Score(0.5)) == "quality 0.500"


def test_scores_are_ordered_as_validators_order_them() -> None:
    assert Score(0.8, 0.29, 0.9, 0.9).rank < Score(0.1, 0.3, 0.1, 0.1).rank
    assert Score(0.8).rank > Score(0.7).rank
    assert Score(alignment=0.5).rank > Score(alignment=0.4).rank > Score(alignment=0.2).rank
    assert Score(math.nan, 0.5, 0.9, 0.9).rank == -math.inf
    # A low alignment is worth nothing, whatever else is no number.
    assert Score(math.nan, 0.1, 0.9, 0.9).total == 0
