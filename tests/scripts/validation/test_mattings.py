"""The composites, and a small version of scripts.validation.mattings."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.matte_measures import intersection_over_union, measure_mattes
from scripts.validation.composites import SIZE, Composite, make_composite
from scripts.validation.mattings import Judged, edge_errors, interval, measure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def composites() -> list[Composite]:
    return [make_composite(number, tested=True) for number in range(3)]


def test_a_composite_is_its_object_before_its_ground(composites: list[Composite]) -> None:
    assert [composite.kind for composite in composites] == ["plain", "textured", "photographed"]
    for composite in composites:
        pixels = np.asarray(composite.picture) / 255
        assert pixels.shape == (SIZE, SIZE, 3)
        inside = composite.alpha == 1
        assert 0.01 < inside.mean() < 0.6
        assert np.abs(pixels[inside] - composite.colours[inside]).max() <= 0.5 / 255 + 1e-9
        assert 0 < ((composite.alpha > 0) & (composite.alpha < 1)).mean() < 0.1


def test_the_same_number_is_the_same_picture_and_halves_share_no_ground(composites: list[Composite]) -> None:
    again, other = make_composite(1, tested=True), make_composite(1, tested=False)
    assert np.array_equal(again.picture, composites[1].picture)
    assert (other.seed, other.ground) != (again.seed, again.ground)


def test_decontamination_brings_back_the_object_s_colours(composites: list[Composite]) -> None:
    for composite in composites:
        errors = edge_errors(Judged(composite, (), (), ()))
        assert errors is not None
        assert errors[1] < 0.6 * errors[0]


def test_the_rule_learns_which_of_two_mattes_is_torn(composites: list[Composite]) -> None:
    """A matte that is right but for a soft edge, against one of which random lines are missing, in turns."""
    rng = np.random.default_rng(0)
    halves: list[list[Judged]] = [[], []]
    for index in range(40):
        composite = replace(composites[index % 3], seed=index)
        alpha = composite.alpha.copy()
        torn = alpha * np.repeat(rng.uniform(size=SIZE // 4) < 0.6, 4)[:, None]
        pair = [alpha, torn][:: 1 if index % 4 < 2 else -1]
        mattes = tuple(Image.fromarray((matte * 255).astype(np.uint8)) for matte in pair)
        ious = tuple(intersection_over_union(np.asarray(matte) / 255, alpha) for matte in mattes)
        halves[index % 2].append(Judged(composite, mattes, tuple(measure_mattes(mattes)), ious))
    result = measure(halves, ["a", "b"])
    assert result["composites"] == 40
    assert result["chosen"] == pytest.approx(result["best_possible"], abs=0.01)
    assert all(gain[1] > 0.05 for gain in result["gain_over"].values())


def test_an_interval_holds_the_mean() -> None:
    mean, low, high = interval(np.arange(100) / 100)
    assert low < mean < high
    assert high - low == pytest.approx(4 * 0.289 / 10, rel=0.15)
