import dataclasses

import pytest
import torch

from pipeline import ReferenceViews, Splats, flip_up_axis, measure_similarity
from pipeline.rendering.cameras import orbit
from pipeline.scoring.similarity import colour_error, render_rgba, silhouette_iou

CAMERAS = orbit([35.0, 215.0], -20.0, 2.0, 32.0, 64)


def ball_on_a_stick(colour: tuple[float, float, float] = (0.5, 0.0, -0.5)) -> Splats:
    """A ball at the upper end of a stick."""
    generator = torch.Generator().manual_seed(3)
    ball = 0.15 * torch.nn.functional.normalize(torch.randn(600, 3, generator=generator), dim=1)
    stick = torch.stack([torch.zeros(100), torch.linspace(-0.3, 0.1, 100), torch.zeros(100)], dim=1)
    means = torch.cat([ball + torch.tensor([0.0, 0.2, 0.0]), stick])
    count = len(means)
    return Splats(
        means=means,
        quaternions=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        log_scales=torch.full((count, 3), 0.02).log(),
        opacity_logits=torch.full((count,), 6.0),
        f_dc=torch.tensor(colour).expand(count, 3),
    )


@pytest.fixture
def reference() -> ReferenceViews:
    return ReferenceViews(CAMERAS, render_rgba(ball_on_a_stick(), CAMERAS))


def test_the_object_itself(reference: ReferenceViews) -> None:
    found = measure_similarity(ball_on_a_stick(), reference)
    assert found.silhouettes == (1.0, 1.0)
    assert found.colour_error == pytest.approx(0, abs=1e-6)
    assert found.score == pytest.approx(1)


def test_upside_down_and_wrong_colours_score_less(reference: ReferenceViews) -> None:
    turned = measure_similarity(flip_up_axis(ball_on_a_stick()), reference)
    assert turned.score < 0.3
    recoloured = measure_similarity(ball_on_a_stick((-0.5, 0.0, 0.5)), reference)
    assert recoloured.silhouettes == (1.0, 1.0)
    # Half of a unit of f_dc is 0.141 of a colour: twice that in two of three channels.
    assert recoloured.colour_error == pytest.approx(2 * 0.2821 * 1.0 / 3, abs=0.02)
    assert recoloured.score == pytest.approx(1 - recoloured.colour_error / 0.5)


def test_out_of_sight(reference: ReferenceViews) -> None:
    splats = ball_on_a_stick()
    found = measure_similarity(dataclasses.replace(splats, means=splats.means + 50), reference)
    assert (found.silhouettes, found.colour_error, found.score) == ((0.0, 0.0), 1.0, 0.0)


def test_nothing_on_either_side() -> None:
    assert silhouette_iou(torch.zeros(4, 4), torch.zeros(4, 4)) == 0
    assert colour_error(torch.zeros(4, 4, 4), torch.zeros(4, 4, 4)) == 1
