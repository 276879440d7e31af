"""One picture that shows what was asked for beside what came out."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render
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


def contact_sheet(prompt: Image.Image | str, splats: Splats, caption: str = "") -> Image.Image:
    """The prompt beside four views of the splats (azimuths 0, 90, 180, 270 seen from 15 degrees above): RGB.

    A picture is fitted into a square, on a light checkerboard where it is transparent; a sentence is wrapped,
    set smaller when long and cut with an ellipsis when it still does not fit. For the views the splats are
    moved and scaled so that the object fills them. `caption` is one line below, cut to the sheet's width.
    """
    cell = VIEW_SIZE + MARGIN
    width = MARGIN + cell * (1 + len(AZIMUTHS))
    height = MARGIN + LABEL_HEIGHT + VIEW_SIZE + MARGIN + (CAPTION_HEIGHT if caption else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    label_font = ImageFont.load_default(14)

    tile = _sentence(prompt) if isinstance(prompt, str) else _on_checkerboard(prompt)
    tiles = [("prompt", tile)] + [(f"{azimuth}°", view) for azimuth, view in zip(AZIMUTHS, _views(splats), strict=True)]
    top = MARGIN + LABEL_HEIGHT
    for index, (label, tile) in enumerate(tiles):
        left = MARGIN + index * cell
        draw.text((left, MARGIN), label, fill=LABEL_INK, font=label_font)
        sheet.paste(tile, (left, top))
        draw.rectangle((left - 1, top - 1, left + VIEW_SIZE, top + VIEW_SIZE), outline=FRAME)
    if caption:
        font = ImageFont.load_default(15)
        line = _shortened(" ".join(caption.split()), font, width - 2 * MARGIN)
        draw.text((MARGIN, top + VIEW_SIZE + MARGIN), line, fill=INK, font=font)
    return sheet


def _views(splats: Splats) -> list[Image.Image]:
    with torch.no_grad():
        pictures = render(_framed(splats), orbit(AZIMUTHS, size=VIEW_SIZE))
        pixels = (pictures * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _framed(splats: Splats) -> Splats:
    """Box centre to the origin, longest side of the box of the points to 1.5, gaussians growing along."""
    means = splats.means
    if not len(means):
        return splats
    low, high = means.amin(0), means.amax(0)
    scale = SHOWN_SIDE / _positive((high - low).amax())
    return dataclasses.replace(
        splats, means=(means - (low + high) / 2) * scale, log_scales=splats.log_scales + scale.log()
    )


def _positive(side: Tensor) -> Tensor:
    """One gaussian, or several in one place, have a box without a side: they are shown as they are."""
    return torch.where(side > 0, side, SHOWN_SIDE)


def _on_checkerboard(picture: Image.Image) -> Image.Image:
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


def _sentence(text: str) -> Image.Image:
    """The text in the largest of a few sizes in which it fits the square."""
    tile = Image.new("RGB", (VIEW_SIZE, VIEW_SIZE), CHECKERS[0])
    draw = ImageDraw.Draw(tile)
    room = VIEW_SIZE - 2 * MARGIN
    for size in (24, 20, 16, 13):
        font = ImageFont.load_default(size)
        lines = _wrapped(text, font, room)
        spacing = round(size * 1.35)
        if len(lines) * spacing <= room:
            break
    fitting = room // spacing
    if len(lines) > fitting:
        lines = [*lines[: fitting - 1], _shortened(lines[fitting - 1] + " …", font, room)]
    top = (VIEW_SIZE - len(lines) * spacing) // 2
    for number, line in enumerate(lines):
        left = (VIEW_SIZE - font.getlength(line)) / 2
        draw.text((left, top + number * spacing), line, fill=INK, font=font)
    return tile


def _wrapped(text: str, font: Font, room: int) -> list[str]:
    """Lines no wider than `room` pixels; a word that is wider by itself is broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > room:
            fitting = max(1, _fitting(word, font, room))
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    return [*lines, line] if line else lines


def _fitting(text: str, font: Font, room: float, ending: str = "") -> int:
    """How many characters of a text that is too wide fit, with the ending set behind them."""
    return bisect_right(range(1, len(text)), room, key=lambda count: font.getlength(text[:count] + ending))


def _shortened(line: str, font: Font, room: float) -> str:
    """The line, or as much of it as fits before an ellipsis."""
    if font.getlength(line) <= room:
        return line
    return line[: _fitting(line, font, room, "…")].rstrip() + "…"
