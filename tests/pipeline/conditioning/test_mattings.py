"""Several mattes of one picture: their measures, the choice among them, and what is done without a usable one."""

from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.conditioning import mattings as module
from pipeline.conditioning.matte_choice import choose_matte, expect_iou, find_flaw
from pipeline.conditioning.matte_measures import MEASURED_SIDE, MatteMeasures, measure_mattes
from pipeline.conditioning.mattings import MattingModels
from pipeline.conditioning.preprocessing import prepare_picture
from pipeline.conditioning.prompt import ImagePrompt
from pipeline.errors import EmptyForeground, FullForeground
from pipeline.params import CutOutParams

SIZE = (200, 100)


def matte(*boxes: tuple[int, int, int, int], alpha: int = 255, size: tuple[int, int] = SIZE) -> Image.Image:
    """A matte of rectangles; a box is left, top, right, bottom, ends excluded."""
    image = Image.new("L", size)
    for box in boxes:
        image.paste(alpha, box)
    return image


def measure(*mattes: Image.Image) -> list[MatteMeasures]:
    return measure_mattes(mattes)


def test_a_rectangle_is_measured() -> None:
    (measures,) = measure(matte((20, 10, 60, 90)))
    assert measures.area == pytest.approx(0.16)
    assert (measures.border, measures.pieces, measures.largest, measures.holes, measures.softness) == (0, 1, 1, 0, 0)
    # The outline of 40 x 80 pixels is 240 long, that of a disc of the same area 200.5.
    assert measures.roughness == pytest.approx(240 * np.pi / 4 / 200.5, rel=1e-3)
    assert measures.agreement is None


def test_a_disc_is_smooth() -> None:
    image = Image.new("L", (256, 256))
    ImageDraw.Draw(image).circle((128, 128), 80, fill=255)
    assert measure(image)[0].roughness == pytest.approx(1, abs=0.02)


def test_pieces_holes_and_the_border_are_measured() -> None:
    ring = matte((0, 0, 60, 60))
    ring.paste(0, (20, 20, 40, 40))
    ring.paste(255, (150, 50, 170, 60))
    # A speck of less than a hundredth is no piece.
    ring.paste(255, (190, 90, 192, 92))
    (measures,) = measure(ring)
    assert measures.pieces == 2
    assert measures.largest == pytest.approx(3200 / 3404)
    assert measures.holes == pytest.approx(400 / 3804)
    assert measures.border == pytest.approx((60 + 60 - 1) / (2 * (200 + 100) - 4))


def test_doubt_is_soft() -> None:
    half = matte((0, 0, 50, 50))
    half.paste(128, (50, 0, 150, 50))
    assert measure(half)[0].softness == pytest.approx(100 / 150)


def test_agreement_is_the_overlap_with_the_other_models() -> None:
    left, both, nothing = matte((0, 0, 50, 100)), matte((0, 0, 100, 100)), matte()
    measures = measure(left, both, nothing)
    assert [one.agreement for one in measures] == pytest.approx([0.25, 0.25, 0.0])
    assert [one.agreement for one in measure(nothing, nothing)] == [1.0, 1.0]


def test_large_mattes_are_measured_smaller() -> None:
    large = matte((100, 100, 900, 900), size=(1000, 1000))
    small = matte((26, 26, 230, 230), size=(MEASURED_SIDE, MEASURED_SIDE))
    assert measure(large)[0].area == pytest.approx(measure(small)[0].area, rel=0.02)
    assert measure(large)[0].roughness == pytest.approx(measure(small)[0].roughness, rel=0.02)


@pytest.mark.parametrize(
    ("image", "flaw"),
    [
        (matte(), "empty"),
        (matte((5, 5, 7, 7)), "empty"),
        (matte((0, 0, 200, 100), alpha=100), "empty"),
        (matte((0, 0, 200, 100)), "full"),
        (matte((0, 0, 199, 100)), "full"),
        (matte((0, 0, 199, 60)), ""),
        (matte((1, 1, 199, 99)), "full"),
        (matte((5, 5, 15, 15)), ""),
    ],
)
def test_a_matte_that_cuts_nothing_out_is_recognised(image: Image.Image, flaw: str) -> None:
    assert find_flaw(measure(image)[0]) == flaw


def test_every_matte_gets_a_number_within_bounds() -> None:
    for image in (matte(), matte((0, 0, 200, 100)), matte(*((x, 0, x + 3, 99) for x in range(0, 200, 6)))):
        assert 0 <= expect_iou(measure(image)[0]) <= 1


def test_of_equal_mattes_the_first_is_chosen_and_of_flawed_ones_none() -> None:
    object_matte, full, empty = matte((50, 20, 120, 80)), matte((0, 0, 200, 100)), matte()
    assert choose_matte(measure(object_matte, object_matte)) == 0
    assert choose_matte(measure(full, object_matte)) == 1
    assert choose_matte(measure(empty, full, object_matte)) == 2
    assert choose_matte(measure(full, empty)) is None


def test_a_clear_matte_is_chosen_over_a_doubtful_one() -> None:
    doubtful = matte((0, 0, 200, 100), alpha=120)
    doubtful.paste(255, (50, 20, 90, 50))
    doubtful.paste(255, (0, 80, 200, 90))
    clear = matte((50, 20, 120, 80))
    assert choose_matte(measure(doubtful, clear)) == 1


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch):
    """Matting models that answer with given mattes."""

    def make(mattes: Mapping[str, Image.Image]) -> tuple[MattingModels, list[str]]:
        called: list[str] = []

        class Remover:
            def __init__(self, model: str, provider: str) -> None:
                self.model = model

            def __call__(self, picture: Image.Image) -> Image.Image:
                called.append(self.model)
                picture = picture.copy()
                picture.putalpha(mattes[self.model])
                return picture

        monkeypatch.setattr(module, "BackgroundRemover", Remover)
        return MattingModels([*mattes]), called

    return make


FULL, EMPTY, OBJECT = matte((0, 0, 200, 100)), matte(), matte((50, 20, 120, 80))
PICTURE = Image.new("RGB", SIZE, (200, 100, 50))


def prepare(remover: MattingModels, **params):
    return prepare_picture(ImagePrompt(PICTURE, b"", CutOutParams(**params)), remover)


@pytest.mark.parametrize("choose", ["rule", "first"])
def test_another_model_helps_where_one_fails(models, choose: str) -> None:
    remover, _ = models({"a": FULL, "b": EMPTY, "c": OBJECT})
    cut = prepare(remover, choose=choose).cut_out
    assert cut.model == "c"
    assert [(matting.model, matting.flaw) for matting in cut.mattings] == [("a", "full"), ("b", "empty"), ("c", "")]
    assert np.array_equal(cut.image.getchannel("A"), OBJECT)
    assert cut.expected_iou == cut.mattings[2].expected_iou > 0


def test_the_first_usable_matte_needs_no_further_model(models) -> None:
    remover, called = models({"a": OBJECT, "b": OBJECT})
    assert prepare(remover, choose="first").cut_out.model == "a"
    assert called == ["a"]
    prepare(remover, choose="rule")
    assert called == ["a", "a", "b"]


def test_a_picture_that_no_model_can_cut_out_is_refused_with_its_reason(models) -> None:
    remover, _ = models({"a": FULL, "b": FULL})
    with pytest.raises(FullForeground, match=r"a and b keep 100% of it and 100% of its border; background.unusable"):
        prepare(remover)
    remover, _ = models({"a": EMPTY})
    with pytest.raises(EmptyForeground, match="all of it is transparent"):
        prepare(remover)
    with pytest.raises(EmptyForeground, match="all of it is transparent"):
        prepare(remover, faint="scale")


@pytest.mark.parametrize("mattes", [{"a": FULL}, {"a": EMPTY}, {"a": EMPTY, "b": FULL}])
def test_the_whole_picture_is_the_object_if_the_phase_says_so(models, mattes) -> None:
    remover, _ = models(mattes)
    prepared = prepare(remover, unusable="whole")
    assert (prepared.cut_out.model, prepared.cut_out.expected_iou) == ("", 0.0)
    assert prepared.picture.getpixel((259, 259)) == (200, 100, 50)


def test_a_faint_matte_is_scaled_if_the_phase_says_so(models) -> None:
    faint = matte((50, 20, 120, 80), alpha=100)
    remover, _ = models({"a": faint})
    assert prepare(remover, faint="scale").picture.getpixel((259, 259)) == (200, 100, 50)
    with pytest.raises(EmptyForeground, match=r"alpha of 100 .*background.faint: scale"):
        prepare(remover)


def test_small_pictures_are_enlarged_and_small_objects_refused(models) -> None:
    sizes: list[tuple[int, int]] = []

    def remove(picture: Image.Image, params: CutOutParams):
        sizes.append(picture.size)
        raise EmptyForeground("seen")

    for enlarge in (None, 150, 400):
        with pytest.raises(EmptyForeground, match="seen"):
            prepare_picture(ImagePrompt(PICTURE, b"", CutOutParams(enlarge=enlarge)), remove)
    assert sizes == [(200, 100), (200, 100), (400, 200)]
    remover, _ = models({"a": OBJECT})
    prepare(remover, min_side=70)
    with pytest.raises(EmptyForeground, match=r"longest side has 70 pixels, and framing.min_side .* asks for 71"):
        prepare(remover, min_side=71)


def test_the_margin_is_the_phase_s(models) -> None:
    remover, _ = models({"a": OBJECT})

    def width(margin: float) -> int:
        columns = np.asarray(prepare(remover, margin=margin).picture).max(axis=(0, 2)) > 100
        return int(columns.sum())

    assert width(1.0) == pytest.approx(518, abs=10)
    assert width(2.0) == pytest.approx(259, abs=10)
