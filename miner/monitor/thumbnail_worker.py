"""The process that draws results: one JSON order a line on stdin, one line of answer on stdout; ends with stdin.

An order is {"results": folder, "key": number, "pictures": folder}: KEY.spz or KEY.ply of the first becomes KEY.webp in
the second, VIEWS views side by side, and KEY.prompt becomes KEY.prompt.webp. The answer is "ok" or what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from pipeline import FormatError, PromptError, Splats, decode_image_prompt, normalise, ply, spz
from pipeline.rendering.cameras import orbit
from pipeline.rendering.rasterizer import render

VIEWS = 8
SIZE = 176
# The longest side of the box is brought to this, as validators do before they render.
EXTENT = 1.5
LOWEST_PRIORITY = 19
QUALITY = 82


def turntable(splats: Splats) -> Image.Image:
    """VIEWS views of the splats from around it, side by side, on white: RGB, SIZE high."""
    cameras = orbit([360 / VIEWS * view for view in range(VIEWS)], size=SIZE)
    with torch.inference_mode():
        views = (render(normalise(splats, EXTENT), cameras) * 255).round().to(torch.uint8).numpy()
    strip = Image.new("RGB", (VIEWS * SIZE, SIZE))
    for index, view in enumerate(views):
        strip.paste(Image.fromarray(view), (index * SIZE, 0))
    return strip


def draw(results: Path, key: int, pictures: Path) -> None:
    """Carry out one order. Raises OSError, ValueError, FormatError or PromptError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        prompt = decode_image_prompt((results / f"{key}.prompt").read_bytes()).image
        prompt.thumbnail((2 * SIZE, 2 * SIZE))
        _save(prompt, pictures / f"{key}.prompt.webp")
    packed = results / f"{key}.spz"
    splats = spz.from_bytes(packed.read_bytes()) if packed.is_file() else _read_ply(results / f"{key}.ply")
    _save(turntable(splats), pictures / f"{key}.webp")


def _read_ply(path: Path) -> Splats:
    return ply.from_bytes(path.read_bytes())


def _save(picture: Image.Image, path: Path) -> None:
    """All of it or nothing, for those who look meanwhile."""
    unfinished = path.with_suffix(".part")
    picture.save(unfinished, "WEBP", quality=QUALITY)
    unfinished.replace(path)


def give_way() -> None:
    """Let everything else on this machine run first."""
    torch.set_num_threads(1)
    os.nice(LOWEST_PRIORITY)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Until stdin ends."""
    give_way()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            draw(Path(order["results"]), order["key"], Path(order["pictures"]))
            answer = "ok"
        except (OSError, ValueError, FormatError, PromptError) as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
