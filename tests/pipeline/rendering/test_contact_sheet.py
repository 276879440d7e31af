import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops

from pipeline.rendering.contact_sheet import AZIMUTHS, LABEL_HEIGHT, MARGIN, VIEW_SIZE, draw_contact_sheet
from pipeline.splats.splats import Splats

SH_C0 = 0.28209479177387814
TOP = MARGIN + LABEL_HEIGHT


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures this small gain nothing from threads, and on a busy machine these wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def slab(centre: tuple[float, float, float] = (0, 0, 0), side: float = 0.4) -> Splats:
    """A wide plate facing +z: red to the right (+x), blue to the left, green on top."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(1500, 3, generator=generator) - 0.5
    colour = torch.where(place[:, :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    colour = torch.where(place[:, 1:2] > 0.3, torch.tensor([0.1, 0.8, 0.1]), colour)
    return Splats(
        means=torch.tensor(centre) + side * place * torch.tensor([1.0, 0.6, 0.1]),
        quaternions=torch.randn(1500, 4, generator=generator),
        log_scales=torch.full((1500, 3), math.log(0.03 * side)),
        opacity_logits=torch.full((1500,), 3.0),
        f_dc=(colour - 0.5) / SH_C0,
    )


def dot() -> Splats:
    """One gaussian, where only the prompt matters."""
    return Splats(*(value[:1] for value in dataclasses.astuple(slab()) if value is not None))


def tile(sheet: Image.Image, number: int) -> NDArray[np.float64]:
    """Number 0 is the prompt, 1 to 4 the views."""
    left = MARGIN + number * (VIEW_SIZE + MARGIN)
    return np.asarray(sheet.crop((left, TOP, left + VIEW_SIZE, TOP + VIEW_SIZE))).astype(float)


def differs(first: Image.Image, second: Image.Image) -> bool:
    return ImageChops.difference(first, second).getbbox() is not None


def ink(picture: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of what is dark."""
    rows, columns = np.nonzero(picture.min(-1) < 200)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_size_and_caption() -> None:
    plain = draw_contact_sheet("a plate", slab())
    assert plain.mode == "RGB"
    width = MARGIN + (1 + len(AZIMUTHS)) * (VIEW_SIZE + MARGIN)
    assert plain.size == (width, TOP + VIEW_SIZE + MARGIN)
    captioned = draw_contact_sheet("a plate", slab(), "seed 7, 1500 gaussians")
    assert captioned.width == width
    assert captioned.height > plain.height
    assert not differs(captioned.crop((0, 0, *plain.size)), plain)
    line = np.asarray(captioned.crop((0, plain.height, *captioned.size)))
    assert line.min() < 100
    assert (line[-1] == 255).all()


def test_views_show_the_object_from_four_sides_and_it_fills_them() -> None:
    sheet = draw_contact_sheet("a plate", slab())
    front, right, back, left = (tile(sheet, number) for number in (1, 2, 3, 4))
    middle = slice(118, 138)
    assert front[middle, 180].mean(0).argmax() == 0
    assert front[middle, 76].mean(0).argmax() == 2
    assert back[middle, 180].mean(0).argmax() == 2
    assert back[middle, 76].mean(0).argmax() == 0
    assert right[middle, 128].mean(0).argmax() == 0
    assert left[middle, 128].mean(0).argmax() == 2
    first_row, last_row, first_column, last_column = ink(front)
    assert front[first_row + 10, 128].argmax() == 1
    assert last_column - first_column > 0.6 * VIEW_SIZE
    for side in (first_row, first_column, VIEW_SIZE - last_row, VIEW_SIZE - last_column):
        assert side > 5


@pytest.mark.parametrize(("centre", "side"), [((0.3, -0.2, 0.1), 0.4), ((0, 0, 0), 0.04), ((5, 5, 5), 8.0)])
def test_framing_forgets_place_and_size(centre: tuple[float, float, float], side: float) -> None:
    here, there = draw_contact_sheet("a plate", slab()), draw_contact_sheet("a plate", slab(centre, side))
    for number in range(1, 5):
        assert np.abs(tile(here, number) - tile(there, number)).mean() < 0.5


def test_splats_keep_their_opacity() -> None:
    faint = dataclasses.replace(slab(side=0.01), opacity_logits=torch.full((1500,), -4.0))
    solid, pale = tile(draw_contact_sheet("", slab()), 1), tile(draw_contact_sheet("", faint), 1)
    assert solid.mean() < pale.mean() < 254
    here = dataclasses.replace(slab(), opacity_logits=torch.full((1500,), -4.0))
    assert np.abs(pale - tile(draw_contact_sheet("", here), 1)).mean() < 0.5


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_gaussians_for_a_box(number: int) -> None:
    splats = Splats(*(value[:number] for value in dataclasses.astuple(slab()) if value is not None))
    sheet = draw_contact_sheet("almost nothing", splats)
    assert (tile(sheet, 1).min() < 250) == (number == 1)


def test_transparent_picture_stands_on_a_checkerboard() -> None:
    prompt = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    prompt.paste((0, 0, 255, 255), (10, 5, 30, 15))
    shown = tile(draw_contact_sheet(prompt, dot()), 0)
    assert shown[128, 128].tolist() == [0, 0, 255]
    # Squares of 16 pixels, also through the transparent part of the picture (its rows are 64 to 191).
    squares = shown[8::16, 8:56:16]
    parity = np.add.outer(np.arange(16), np.arange(3)) % 2
    assert (squares == np.where(parity, 250.0, 232.0)[..., None]).all()


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (10, 200, 30)), ("L", 90), ("P", 0), ("LA", (90, 255))])
def test_picture_of_any_mode_keeps_its_shape(mode: str, colour: int | tuple[int, ...]) -> None:
    tall = Image.new(mode, (30, 120), colour)
    expected = tall.convert("RGB").getpixel((0, 0))
    shown = tile(draw_contact_sheet(tall, dot()), 0)
    assert tuple(shown[128, 128]) == expected
    columns = (shown == np.array(expected)).all(-1).sum(1)
    assert columns.tolist() == [64] * VIEW_SIZE


@pytest.mark.parametrize(
    "sentence",
    ["a mug", "a blue mug with a red handle " * 3, "word " * 400, "x" * 900, "一个蓝色的杯子" * 90, "", "  \n "],
)
def test_sentence_stays_inside_its_square(sentence: str) -> None:
    sheet = draw_contact_sheet(sentence, dot())
    shown = tile(sheet, 0)
    if sentence.strip():
        assert shown[MARGIN:-MARGIN, MARGIN:-MARGIN].min() < 120
    else:
        assert shown.min() == shown.max()
    border = np.ones((VIEW_SIZE, VIEW_SIZE), bool)
    border[6:-6, 6:-6] = False
    assert shown[border].min() == shown[border].max()


def test_short_sentence_is_larger_and_long_one_ends_in_an_ellipsis() -> None:
    def line_heights(sentence: str) -> list[int]:
        rows = (tile(draw_contact_sheet(sentence, dot()), 0).min(-1) < 200).any(1)
        edges = np.flatnonzero(np.diff(rows.astype(int)))
        return [int(height) for height in edges[1::2] - edges[::2]]

    (large,), small = line_heights("xx"), line_heights("xx " * 600)
    assert large > 1.5 * max(small)
    assert min(small) > 5
    assert len(small) > 8
    shared = "a blue mug with a red handle on a table " * 40
    assert not differs(draw_contact_sheet(shared + "one", dot()), draw_contact_sheet(shared + "two", dot()))


def test_long_caption_does_not_widen_the_sheet() -> None:
    short, long = draw_contact_sheet("a", dot(), "short"), draw_contact_sheet("a", dot(), "long\nline " * 300)
    assert short.size == long.size
    assert (np.asarray(long)[:, -MARGIN + 2 :] == 255).all()
    assert (np.asarray(long)[-2:] == 255).all()
