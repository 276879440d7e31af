"""The quality term against the same steps written down once more, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.conditioning.prompt import TextPrompt
from pipeline.errors import CheckpointError, NonFiniteOutput, OutOfMemory
from pipeline.rendering.cameras import validator_cameras
from pipeline.rendering.rasterizer import render
from pipeline.scoring import quality, views
from pipeline.scoring.quality import QualityNetwork
from pipeline.scoring.score import Score
from pipeline.scoring.scorer import ValidatorScorer
from pipeline.scoring.views import normalise_as_validator, render_as_validator
from pipeline.splats.splats import Splats
from tests.support.scorers import write_scorer

CPU = torch.device("cpu")


def cloud(count: int = 300, spread: float = 0.7, seed: int = 3) -> Splats:
    """Off the middle and not of the normalised size, so that each step of the normalisation shows."""
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator) * spread + torch.tensor([0.3, -0.2, 0.1]),
        quaternions=torch.randn(count, 4, generator=generator),
        log_scales=torch.randn(count, 3, generator=generator) * 0.3 - 3.0,
        opacity_logits=torch.randn(count, generator=generator) * 2,
        f_dc=torch.randn(count, 3, generator=generator),
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scorer(tmp_path_factory.mktemp("scorer"), published_names=False)


@pytest.fixture(scope="module")
def network(directory: Path) -> QualityNetwork:
    return QualityNetwork.load(str(directory), CPU)


@pytest.fixture(scope="module")
def measure(network: QualityNetwork) -> Callable[[Splats], float]:
    """The quality of splats as a scorer tells it."""
    score = ValidatorScorer(CPU, network).for_prompt(TextPrompt("a chair"))

    def measure(splats: Splats) -> float:
        result = score(splats).score
        assert result == Score(quality=result.quality)
        assert result.quality is not None
        return result.quality

    return measure


@pytest.fixture(scope="module")
def quality_of_cloud(measure: Callable[[Splats], float]) -> float:
    """The quality of the usual cloud."""
    return measure(cloud())


def expected_quality(splats: Splats, directory: Path) -> float:
    """Straight from the description of the validation service, one view at a time, in numpy where that is possible."""
    from transformers import Dinov2Config, Dinov2Model

    points = splats.means.numpy().astype(np.float64)
    scale = 1.5 / (points.max(axis=0) - points.min(axis=0)).max()
    opacity = np.clip(1 / (1 + np.exp(-splats.opacity_logits.numpy().astype(np.float64))) / scale, 0, 1)
    with np.errstate(divide="ignore"):
        logits = np.log(opacity) - np.log1p(-opacity)
    normalised = replace(
        splats,
        means=torch.from_numpy((points - points.mean()) * scale).float(),
        log_scales=torch.from_numpy(np.log(np.exp(splats.log_scales.numpy().astype(np.float64)) * scale)).float(),
        opacity_logits=torch.from_numpy(logits).float(),
    )
    tensors = load_file(directory / "quality_scorer.safetensors")
    model = Dinov2Model(Dinov2Config.from_pretrained(directory)).eval()
    backbone = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    model.load_state_dict(backbone)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    qualities = []
    for camera in validator_cameras():
        picture = render(normalised, [camera], background=(1.0, 1.0, 1.0))[0].numpy()
        pixels = np.floor(np.clip(picture, 0, 1) * np.float32(255)) / 255
        channels_first = ((pixels - mean) / std).transpose(2, 0, 1)
        with torch.no_grad():
            token = model(torch.from_numpy(channels_first).float()[None]).last_hidden_state[0, 0].double().numpy()
        logit = token @ tensors["score_head.weight"][0].double().numpy() + float(tensors["score_head.bias"][0])
        qualities.append(1 / (1 + math.exp(-logit)))
    assert len(qualities) == 16
    return sum(qualities) / 16


def test_the_quality_is_that_of_the_description(
    measure: Callable[[Splats], float], quality_of_cloud: float, directory: Path
) -> None:
    wide = cloud(spread=4.0)
    for splats, found in ((cloud(), quality_of_cloud), (wide, measure(wide))):
        expected = expected_quality(splats, directory)
        assert found == pytest.approx(expected, abs=1e-6), (found, expected)
    # The cloud is what makes the difference, not the network.
    assert abs(quality_of_cloud - measure(cloud(seed=4))) > 1e-4


def test_the_normalisation_has_the_validators_quirks() -> None:
    splats = replace(cloud(3), means=torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    seen = normalise_as_validator(splats)
    # One mean over all nine coordinates, and half the size.
    assert torch.allclose(seen.means, (splats.means - 6 / 9) / 2)
    assert torch.allclose(seen.log_scales.exp(), splats.log_scales.exp() / 2)
    # Half the size doubles the opacity, up to one.
    doubled = (2 * splats.opacity_logits.sigmoid()).clamp(max=1)
    assert torch.allclose(seen.opacity_logits.sigmoid(), doubled)


def test_opaque_and_transparent_splats_are_drawn_as_such() -> None:
    """A container saturates opacities to infinite logits."""
    splats = replace(cloud(2), opacity_logits=torch.tensor([math.inf, -math.inf]))
    assert normalise_as_validator(splats).opacity_logits[1] == -math.inf
    assert not bool(render_as_validator(normalise_as_validator(splats), validator_cameras(32)[:1]).isnan().any())


def test_pixels_are_truncated() -> None:
    splats = normalise_as_validator(cloud())
    pictures = render(splats, validator_cameras(64)[:2])
    pixels = render_as_validator(splats, validator_cameras(64)[:2])
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, (pictures * 255).floor().to(torch.uint8))
    assert not torch.equal(pixels, (pictures * 255).round().to(torch.uint8))


def test_how_many_views_are_judged_together_does_not_matter(
    measure: Callable[[Splats], float], quality_of_cloud: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (quality, views):
        monkeypatch.setattr(module, "VIEW_BATCH", 3)
    assert measure(cloud()) == pytest.approx(quality_of_cloud, abs=1e-6)


def test_higher_harmonics_do_not_count(measure: Callable[[Splats], float], quality_of_cloud: float) -> None:
    splats = cloud()
    assert measure(replace(splats, f_rest=torch.randn(len(splats), 3, 15))) == quality_of_cloud


@pytest.mark.parametrize("means", [torch.zeros(5, 3), torch.full((5, 3), math.nan), torch.zeros(0, 3)])
def test_splats_without_extent_have_no_quality(measure: Callable[[Splats], float], means: torch.Tensor) -> None:
    with pytest.raises(NonFiniteOutput, match="extent"):
        measure(replace(cloud(len(means)), means=means))


def test_too_little_memory_is_told_as_that(measure: Callable[[Splats], float], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(views, "render", fail)
    with pytest.raises(OutOfMemory, match=r"for scoring \(CUDA out of memory\)"):
        measure(cloud())


def test_tensors_that_the_network_has_no_place_for_are_ignored(directory: Path, network: QualityNetwork) -> None:
    assert any(name.startswith("emb_head.") for name in load_file(directory / "quality_scorer.safetensors"))
    ValidatorScorer(CPU, network).warm_up()


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        tensors = load_file(directory / "quality_scorer.safetensors")
        change(tensors)
        save_file(tensors, directory / "quality_scorer.safetensors")

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(lambda t: t.pop("backbone.layernorm.weight")), r"backbone\.layernorm\.weight is missing"),
        (changed(lambda t: t.pop("score_head.bias")), r"score_head\.bias is missing"),
        (changed(lambda t: t.update({"score_head.weight": torch.zeros(2, 8)})), r"score_head\.weight .* another shape"),
        (lambda d: (d / "quality_scorer.safetensors").write_bytes(b"none"), r"quality_scorer\.safetensors"),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda d: (d / "quality_scorer.safetensors").unlink(), "is not a scorer: it has no quality_scorer"),
        (
            lambda d: (d / "quality_scorer.safetensors").rename(d / "quality_scorer.pt"),
            r"quality_scorer\.pt is a pickle",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    directory = write_scorer(tmp_path)
    spoil(directory)
    with pytest.raises(CheckpointError, match=message):
        QualityNetwork.load(str(directory), CPU)


def test_a_file_with_the_names_of_its_publishers_library_is_read(network: QualityNetwork, tmp_path: Path) -> None:
    names = load_file(write_scorer(tmp_path) / "quality_scorer.safetensors").keys()
    assert "backbone.encoder.layer.0.attention.attention.query.weight" in names
    assert "backbone.encoder.layer.1.attention.output.dense.bias" in names
    published = QualityNetwork.load(str(tmp_path), CPU)
    pixels = torch.randint(0, 256, (2, 518, 518, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(published.measure_views(pixels), network.measure_views(pixels))
