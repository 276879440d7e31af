"""A picture that shows a prompt beside views of the generated splats."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
from pipeline.splats.defects import drop_invalid
from pipeline.splats.rotations import rescale_extreme
from pipeline.splats.splats import Splats

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

AZIMUTHS = (0, 90, 180, 270)
VIEW_SIZE = 256
MARGIN = 12
LABEL_HEIGHT = 22
CAPTION_HEIGHT = 30
# The validator's normalisation: the longest side of the box becomes 1.5.
SHOWN_SIDE = 1.5

PAPER = (255, 255, 255)
INK = (32, 32, 32)
LABEL_INK = (110, 110, 110)
FRAME = (214, 214, 214)
CHECKERS = ((250, 250, 250), (232, 232, 232))
CHECKER_SIZE = 16


def draw_contact_sheet(prompt: Image.Image | str, splats: Splats, caption: str = "") -> Image.Image:
    """Draw the prompt beside four views of the splats (azimuths 0, 90, 180, 270, from 15 degrees above), in RGB.

    A picture is fitted into a square, on a light checkerboard where it is transparent. A sentence is wrapped, set in
    smaller type if it is long, and cut with an ellipsis if it still does not fit. For the views the splats are moved
    and scaled so that the object fills them. `caption` is one line below, cut to the width of the sheet.
    """
    cell = VIEW_SIZE + MARGIN
    width = MARGIN + cell * (1 + len(AZIMUTHS))
    height = MARGIN + LABEL_HEIGHT + VIEW_SIZE + MARGIN + (CAPTION_HEIGHT if caption else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    label_font = ImageFont.load_default(14)

    tile = _draw_sentence(prompt) if isinstance(prompt, str) else _fit_on_checkerboard(prompt)
    views = draw_views(splats, AZIMUTHS, VIEW_SIZE)
    tiles = [("prompt", tile)] + [(f"{azimuth}°", view) for azimuth, view in zip(AZIMUTHS, views, strict=True)]
    top = MARGIN + LABEL_HEIGHT
    for index, (label, tile) in enumerate(tiles):
        left = MARGIN + index * cell
        draw.text((left, MARGIN), label, fill=LABEL_INK, font=label_font)
        sheet.paste(tile, (left, top))
        draw.rectangle((left - 1, top - 1, left + VIEW_SIZE, top + VIEW_SIZE), outline=FRAME)
    if caption:
        font = ImageFont.load_default(15)
        line = _shorten(" ".join(caption.split()), font, width - 2 * MARGIN)
        draw.text((MARGIN, top + VIEW_SIZE + MARGIN), line, fill=INK, font=font)
    return sheet


def draw_views(splats: Splats, azimuths: Sequence[float], size: int) -> list[Image.Image]:
    """Draw the splats from a circle around them, 15 degrees above, on white: one square RGB picture per azimuth.

    Azimuths are in degrees, +y is up. The splats are moved and scaled so that the object fills the pictures. Those that
    cannot be drawn, such as those that hold a NaN, are left out.
    """
    splats, _ = drop_invalid(splats)
    splats = replace(splats, quaternions=rescale_extreme(splats.quaternions))
    with torch.no_grad():
        pictures = render(_fit_to_view(splats), orbit(azimuths, size=size))
        pixels = (pictures * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _fit_to_view(splats: Splats) -> Splats:
    """Move the centre of the box of the means to the origin and scale its longest side to 1.5."""
    means = splats.means
    if not len(means):
        return splats
    low, high = means.amin(0), means.amax(0)
    side = (high - low).amax()
    # One gaussian, or several in one place, are drawn in their own size.
    scale = SHOWN_SIDE / torch.where(side > 0, side, SHOWN_SIDE)
    return replace(splats, means=(means - (low + high) / 2) * scale, log_scales=splats.log_scales + scale.log())


def _fit_on_checkerboard(picture: Image.Image) -> Image.Image:
    board = Image.new("RGB", (VIEW_SIZE, VIEW_SIZE), CHECKERS[0])
    draw = ImageDraw.Draw(board)
    for row in range(VIEW_SIZE // CHECKER_SIZE):
        for column in range(row % 2, VIEW_SIZE // CHECKER_SIZE, 2):
            x, y = column * CHECKER_SIZE, row * CHECKER_SIZE
            draw.rectangle((x, y, x + CHECKER_SIZE - 1, y + CHECKER_SIZE - 1), fill=CHECKERS[1])
    rgba = picture.convert("RGBA")
    scale = VIEW_SIZE / max(rgba.size)
    size = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
    fitted = rgba.resize(size, Image.Resampling.LANCZOS)
    board.paste(fitted, ((VIEW_SIZE - size[0]) // 2, (VIEW_SIZE - size[1]) // 2), fitted)
    return board


def _draw_sentence(text: str) -> Image.Image:
    """Draw the text in the largest of a few sizes in which it fits the square."""
    tile = Image.new("RGB", (VIEW_SIZE, VIEW_SIZE), CHECKERS[0])
    draw = ImageDraw.Draw(tile)
    width = VIEW_SIZE - 2 * MARGIN
    for size in (24, 20, 16, 13):
        font = ImageFont.load_default(size)
        lines = _wrap(text, font, width)
        spacing = round(size * 1.35)
        if len(lines) * spacing <= width:
            break
    fitting = width // spacing
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], _shorten(lines[fitting - 1] + " …", font, width)]
    top = (VIEW_SIZE - len(lines) * spacing) // 2
    for number, line in enumerate(lines):
        left = (VIEW_SIZE - font.getlength(line)) / 2
        draw.text((left, top + number * spacing), line, fill=INK, font=font)
    return tile


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Split the text into lines of at most `width` pixels; a word that is wider than that is broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fitting = max(1, _count_fitting(word, font, width))
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    return [*lines, line] if line else lines


def _count_fitting(text: str, font: Font, width: float, ending: str = "") -> int:
    """Count the characters of a text that is too wide that fit together with the ending."""
    return bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(text[:count] + ending))


def _shorten(line: str, font: Font, width: float) -> str:
    """Return the line, or as much of it as fits before an ellipsis."""
    if font.getlength(line) <= width:
        return line
    return line[: _count_fitting(line, font, width, "…")].rstrip() + "…"
