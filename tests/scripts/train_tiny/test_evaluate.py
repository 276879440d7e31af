import json
import math
import sys
from pathlib import Path

import pytest
import torch

from pipeline import SamplerParams
from pipeline.scoring.similarity import compare_views, render_rgba
from scripts.loaded_checkpoint import LoadedCheckpoint
from scripts.train_tiny import evaluate
from scripts.train_tiny.eval.metrics import Metrics, tolerant_iou, view_cameras
from scripts.train_tiny.eval.samples import (
    EvalResult,
    EvalSample,
    encode,
    load_model,
    make_samples,
    sample_splats,
    sample_structure,
)
from scripts.train_tiny.eval.samples import evaluate as evaluate_model

CPU = torch.device("cpu")
ONE_STEP = SamplerParams(1, 0.0, (0.5, 1.0), 3.0)
FEW_STEPS = SamplerParams(4, 0.0, (0.5, 1.0), 3.0)


@pytest.fixture(scope="module")
def model() -> LoadedCheckpoint:
    return load_model("embedded", "cpu")


@pytest.fixture(scope="module")
def samples() -> list[EvalSample]:
    """Three objects with pictures as prompts."""
    return make_samples(0, 3, CPU, text=False)


def assert_shapes_are_told_apart(model: LoadedCheckpoint, samples: list[EvalSample], least: float) -> None:
    """Prompts lead to the shape of their own object, and to no other; more objects: scripts/train_tiny/results."""
    steps = SamplerParams(6, 0.0, (0.5, 1.0), 3.0)
    occupancies = [sample_structure(model, encode(model, s.prompt), s.seed, steps)[0, 0] > 0 for s in samples]
    table = torch.tensor([[tolerant_iou(ours, sample.occupancy) for sample in samples] for ours in occupancies])
    assert float(table.diagonal().mean()) >= least
    assert float(table[~torch.eye(3, dtype=torch.bool)].mean()) <= 0.4


@pytest.mark.slow
@torch.inference_mode()
def test_new_objects_get_the_shape_that_pictures_show(model: LoadedCheckpoint, samples: list[EvalSample]) -> None:
    assert_shapes_are_told_apart(model, samples, 0.95)


@pytest.mark.slow
@torch.inference_mode()
def test_new_objects_get_the_shape_that_sentences_tell() -> None:
    assert_shapes_are_told_apart(load_model("embedded-text", "cpu"), make_samples(0, 3, CPU, text=True), 0.8)


@pytest.mark.slow
@torch.inference_mode()
def test_new_objects_look_like_the_pictures_of_them(model: LoadedCheckpoint, samples: list[EvalSample]) -> None:
    """Of the shipped weights; and unlike pictures of others."""
    for sample, other in zip(samples[:2], samples[1::-1], strict=True):
        conditions = encode(model, sample.prompt)
        logits = sample_structure(model, conditions, sample.seed, FEW_STEPS)
        ours = sample_splats(model, conditions, sample.seed, logits, FEW_STEPS)
        assert ours is not None
        seen = render_rgba(ours, view_cameras())
        found, mistaken = compare_views(seen, sample.views), compare_views(seen, other.views)
        assert min(found.silhouettes) >= 0.8
        assert found.colour_error <= 0.1
        assert mistaken.score < 0.5 * found.score


def test_an_empty_structure_is_a_miss_and_no_error(
    model: LoadedCheckpoint, samples: list[EvalSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        model.engine, "decode_structure", lambda latents: torch.full((len(latents), 1, 64, 64, 64), -1.0)
    )
    found = evaluate_model(model, samples[:1], ONE_STEP, ONE_STEP)
    assert found.metrics == [Metrics(0.0, 0.0, 1.0, 0.0)]
    assert math.isnan(found.matched)


@pytest.mark.slow
def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    arguments = ["--objects", "2", "--steps", "4", "--strength", "0", "--device", "cpu", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    assert evaluate.main() == 0
    content = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == content
    (result,) = content["results"]
    assert (result["structure"]["steps"], result["latents"]["cfg_strength"]) == (4, 0.0)
    assert 0 <= result["voxel_iou"][0] <= 1


def test_strengths_are_compared_with_none_object_by_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Objects differ far more from each other than results at two strengths do."""
    each = torch.tensor([0.9, 0.5, 0.1, 0.7])

    def evaluated(_model: object, _samples: object, structure: SamplerParams, *_: object) -> EvalResult:
        off = 0.01 * structure.cfg_strength
        return EvalResult([Metrics(float(x) - off, float(x), off, 0.5) for x in each], 1.0)

    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--objects", "1", "--strength", "2", "0", "--steps", "5", "12"])
    assert evaluate.main() == 0
    out = capsys.readouterr().out
    results = json.loads(out.splitlines()[-1])["results"]
    settings = [(result["structure"]["cfg_strength"], result["latents"]["steps"]) for result in results]
    assert settings == [(0.0, 5), (0.0, 12), (2.0, 5), (2.0, 12)]
    assert "less_strength_0" not in results[0]
    assert results[0]["voxel_iou"] == pytest.approx([0.55, 0.3347], abs=1e-3)
    differences = {"voxel_iou": [-0.02, 0], "silhouette_iou": [0, 0], "colour_error": [0.02, 0], "behind_iou": [0, 0]}
    for name, pair in differences.items():
        assert results[3]["less_strength_0"][name] == pytest.approx(pair, abs=1e-3)
    assert out.count("less strength 0: voxel_iou -0.0200 ± 0.0000") == 2


def test_curves(tmp_path: Path) -> None:
    """A line for each number of steps, the same file for the same figures."""
    results = [
        {
            "structure": {"steps": steps, "cfg_strength": strength},
            **{name: [0.1 * strength + 0.01 * steps, 0.02] for name in evaluate.PANELS},
        }
        for steps in (2, 5)
        for strength in (0.0, 2.5)
    ]
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for path in (first, second):
        evaluate.plot(results, path)
    assert first.read_bytes() == second.read_bytes()
    assert b"2 steps" in first.read_bytes()
