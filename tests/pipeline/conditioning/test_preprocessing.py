import numpy as np
import pytest
from PIL import Image

from pipeline.conditioning.mattings import CutOut
from pipeline.conditioning.preprocessing import (
    PICTURE_SIZE,
    cut_out,
    frame_object,
    has_alpha,
    is_cut_out,
    prepare_picture,
    scale_faint_alpha,
)
from pipeline.conditioning.prompt import ImagePrompt
from pipeline.errors import EmptyForeground
from pipeline.params import CutOutParams
from tests.support.paths import DATA

GOLDEN = DATA / "trellis"
PARAMS = CutOutParams()


def refuse(image: Image.Image, params: CutOutParams) -> CutOut:
    raise AssertionError("background removal was called")


def into(seen: list[Image.Image]):
    """Background removal that keeps what it is given, and gives it back."""

    def remove(image: Image.Image, params: CutOutParams) -> CutOut:
        seen.append(image)
        return CutOut(image)

    return remove


def rectangle(size: tuple[int, int], box: tuple[int, int, int, int], colour=(200, 100, 50, 255)) -> Image.Image:
    """A transparent picture with a rectangle; box is left, top, right, bottom, ends excluded."""
    image = Image.new("RGBA", size)
    image.paste(colour, box)
    return image


@pytest.mark.parametrize("name", ["image0", "image1"])
def test_pictures_are_upstream_s(name: str) -> None:
    framed = frame_object(cut_out(Image.open(GOLDEN / f"{name}_in.png"), refuse, PARAMS).image)
    expected = Image.open(GOLDEN / f"{name}_out.png")
    assert framed.mode == expected.mode == "RGB"
    assert np.array_equal(framed, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (4, 4)), False),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 255)), False),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 254)), True),
        (rectangle((4, 4), (0, 0, 4, 3)), True),
    ],
)
def test_an_opaque_alpha_channel_is_none(image: Image.Image, expected: bool) -> None:
    assert has_alpha(image) is expected


def with_alpha(change) -> Image.Image:
    """An opaque picture of 100 x 100 pixels whose alpha channel is changed."""
    alpha = np.full((100, 100), 255, np.uint8)
    change(alpha)
    image = Image.new("RGB", (100, 100), (10, 20, 30))
    image.putalpha(Image.fromarray(alpha))
    return image


def put(rows: slice, columns: slice, value: int = 0):
    return lambda alpha: alpha.__setitem__((rows, columns), value)


def round_the_corners(alpha: np.ndarray) -> None:
    y, x = np.indices(alpha.shape)
    beyond = np.maximum(np.abs(np.stack([x, y]) - 49.5) - 29.5, 0)
    alpha[np.hypot(*beyond) > 20] = 0


ALL = slice(None)
NOT_CUT_OUT = {
    "one pixel at 254": put(slice(0, 1), slice(0, 1), 254),
    "one transparent pixel": put(slice(0, 1), slice(0, 1)),
    "a transparent corner": put(slice(0, 20), slice(0, 20)),
    "a border": put(slice(0, 2), ALL),
    "rounded corners": round_the_corners,
    "254 everywhere": put(ALL, ALL, 254),
    "half opaque everywhere": put(ALL, ALL, 128),
    "a little less than a twentieth": put(slice(0, 1), slice(0, 99)),
}
CUT_OUT = {
    "a twentieth": put(slice(0, 5), ALL),
    "half": put(slice(0, 50), ALL, 127),
    "everything": put(ALL, ALL),
}


@pytest.mark.parametrize("name", NOT_CUT_OUT)
def test_an_alpha_channel_that_cuts_nothing_out_leaves_the_background_to_be_removed(name: str) -> None:
    image, seen = with_alpha(NOT_CUT_OUT[name]), []
    assert not is_cut_out(image)
    # For upstream, it is a cut-out all the same.
    assert cut_out(image, refuse, PARAMS, has_alpha).image is image
    cut_out(image, into(seen), PARAMS)
    assert np.array_equal(seen[0], Image.new("RGB", (100, 100), (10, 20, 30)))


@pytest.mark.parametrize("name", CUT_OUT)
def test_an_alpha_channel_that_cuts_something_out_is_taken(name: str) -> None:
    image = with_alpha(CUT_OUT[name])
    assert cut_out(image, refuse, PARAMS).image is image


def test_a_picture_with_alpha_is_not_touched() -> None:
    image = rectangle((3000, 2000), (10, 10, 500, 900))
    assert cut_out(image, refuse, PARAMS).image is image


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_opaque_picture_goes_to_background_removal_as_rgb(mode: str) -> None:
    seen: list[Image.Image] = []
    image = Image.new(mode, (64, 48), (10, 20, 30) if mode == "RGB" else (10, 20, 30, 255))
    cut_out(image, into(seen), PARAMS)
    assert (seen[0].mode, seen[0].size) == ("RGB", (64, 48))
    assert seen[0].getpixel((5, 5)) == (10, 20, 30)


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1025, 10), (1024, 9)),
        ((2048, 1000), (1024, 500)),
        ((1000, 3000), (341, 1024)),
        ((4096, 1), (1024, 1)),
        ((20, 20), (20, 20)),
    ],
)
def test_a_large_picture_is_shrunk_for_background_removal(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    seen: list[Image.Image] = []
    cut_out(Image.new("RGB", size), into(seen), PARAMS)
    assert seen[0].size == shrunk


def test_an_object_stands_in_the_middle_with_its_margin() -> None:
    # 101 pixels from first to last, so the square is int(1.2 * 100) = 120 wide around the centre.
    framed = np.array(frame_object(rectangle((400, 300), (250, 40, 351, 91))))
    assert framed.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
    rows, columns = np.nonzero(framed[:, :, 0] > 100)
    scale = PICTURE_SIZE / 120
    assert columns.max() - columns.min() + 1 == pytest.approx(101 * scale, abs=2)
    assert rows.max() - rows.min() + 1 == pytest.approx(51 * scale, abs=2)
    assert (columns.max() + columns.min()) / 2 == pytest.approx(PICTURE_SIZE / 2, abs=3)
    assert (rows.max() + rows.min()) / 2 == pytest.approx(PICTURE_SIZE / 2, abs=3)
    assert framed[PICTURE_SIZE // 2, PICTURE_SIZE // 2].tolist() == [200, 100, 50]
    assert not framed[:100].any()


def test_outside_the_picture_is_black() -> None:
    framed = np.array(frame_object(rectangle((50, 50), (0, 0, 50, 20), (255, 255, 255, 255))))
    # The square begins ten pixels above the object, which begins at the picture's edge.
    assert not framed[:60].any()
    assert framed[PICTURE_SIZE // 2, PICTURE_SIZE // 2].tolist() == [255, 255, 255]


def test_colours_are_multiplied_with_alpha() -> None:
    framed = np.array(frame_object(rectangle((100, 100), (10, 10, 90, 90), (101, 33, 255, 210))))
    expected = [v * 210 / 255 for v in (101, 33, 255)]
    assert framed[PICTURE_SIZE // 2, PICTURE_SIZE // 2].tolist() == pytest.approx(expected, abs=2)


def test_faint_pixels_do_not_count_as_the_object() -> None:
    solid = rectangle((200, 200), (80, 80, 121, 121))
    with_haze = Image.new("RGBA", (200, 200), (255, 255, 255, 204))
    with_haze.paste(solid, (0, 0), solid)
    framed = np.array(frame_object(with_haze))
    assert framed[PICTURE_SIZE // 2, PICTURE_SIZE // 2].tolist() == [200, 100, 50]
    # The object, not the haze around it, decides the frame.
    assert (framed[:, :, 2] == 50).sum() > 0.6 * (PICTURE_SIZE * 41 / 48) ** 2


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (0, "nothing in it is opaque, all of it is transparent"),
        (1, r"alpha of 1 \(0 %\), and more than 204 \(80 %\) is needed"),
        (204, r"nothing in it is opaque enough: its most opaque pixel has an alpha of 204 \(80 %\).*background.faint"),
    ],
)
def test_a_picture_in_which_nothing_is_opaque_is_refused(alpha: int, message: str) -> None:
    with pytest.raises(EmptyForeground, match=f"shows no object: .*{message}"):
        frame_object(Image.new("RGBA", (64, 64), (255, 0, 0, alpha)))


@pytest.mark.parametrize("alpha", [2, 100, 204])
@pytest.mark.parametrize("strays", [0, 1])
def test_a_faint_object_is_framed_like_an_opaque_one_if_the_phase_says_so(alpha: int, strays: int) -> None:
    box, colour = (60, 50, 140, 120), (200, 100, 50)
    faint = rectangle((200, 200), box, (*colour, alpha))
    for stray in range(strays):
        faint.putpixel((60 + stray, 50), (*colour, 255))
    framed = prepare_picture(ImagePrompt(faint, b"", CutOutParams(faint="scale")), refuse).picture
    assert np.array_equal(framed, frame_object(rectangle((200, 200), box, (*colour, 255))))
    with pytest.raises(EmptyForeground, match=r"is needed" if not strays else "a few pixels large"):
        prepare_picture(ImagePrompt(faint, b""), refuse)


@pytest.mark.parametrize("alpha", [205, 255])
def test_the_alpha_of_what_can_be_framed_is_not_scaled(alpha: int) -> None:
    image = rectangle((50, 50), (5, 5, 30, 40), (1, 2, 3, alpha))
    assert scale_faint_alpha(image) is image
    nothing = Image.new("RGBA", (5, 5))
    assert scale_faint_alpha(nothing) is nothing


@pytest.mark.parametrize("box", [(5, 5, 6, 6), (5, 5, 7, 7), (5, 5, 7, 6)])
def test_a_speck_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(EmptyForeground, match="a few pixels large"):
        frame_object(rectangle((20, 20), box))


@pytest.mark.parametrize(
    ("size", "box"), [((20, 20), (5, 5, 8, 6)), ((4096, 2), (0, 0, 4000, 1)), ((1, 9), (0, 0, 1, 8))]
)
def test_small_and_thin_objects_are_framed(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    framed = frame_object(rectangle(size, box))
    assert framed.size == (PICTURE_SIZE, PICTURE_SIZE)
    assert np.array(framed).max() > 0
