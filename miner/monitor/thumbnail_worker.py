"""The process that draws thumbnails: one order in JSON a line on stdin, one answer a line on stdout; ends with stdin.

An order is {"results": folder, "key": number, "pictures": folder, "what": "thumbnails" or "views"}. KEY.spz or KEY.ply
of the first folder is drawn into the second: as KEY.webp, VIEWS views side by side, with KEY.prompt as KEY.prompt.webp,
or as KEY.views.webp, the 16 views of a validator in four rows. The answer is "ok" or the error.
"""

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from miner.monitor.gallery import read_upright
from miner.runtime import write_atomically
from pipeline import PipelineError, Splats, decode_image_prompt, normalise, orbit, render, render_validator_views

VIEWS = 8
COLUMNS = 4
SIZE = 176
# The longest side of the bounding box is scaled to this, as validators do before they render.
EXTENT = 1.5
LOWEST_PRIORITY = 19
WEBP_QUALITY = 82


def draw_turntable(splats: Splats) -> Image.Image:
    """Draw VIEWS views from around the splats side by side, on white: RGB, SIZE pixels high."""
    cameras = orbit([360 / VIEWS * view for view in range(VIEWS)], size=SIZE)
    with torch.inference_mode():
        views = (render(normalise(splats, EXTENT), cameras) * 255).round().to(torch.uint8).numpy()
    strip = Image.new("RGB", (VIEWS * SIZE, SIZE))
    for index, view in enumerate(views):
        strip.paste(Image.fromarray(view), (index * SIZE, 0))
    return strip


def draw_result(results: Path, key: int, pictures: Path) -> None:
    """Draw a result and its prompt. Raises OSError, ValueError, FormatError or PromptError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        # Drawn anew, so that nothing but the pixels of a file from outside reaches the operator's browser.
        prompt = decode_image_prompt((results / f"{key}.prompt").read_bytes()).image
        prompt.thumbnail((2 * SIZE, 2 * SIZE))
        _save(prompt, pictures / f"{key}.prompt.webp")
    _save(draw_turntable(read_upright(results, key)), pictures / f"{key}.webp")


def draw_validator_views(results: Path, key: int, pictures: Path) -> None:
    """Draw a result as validators see it. Raises OSError, ValueError, FormatError or PipelineError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        views = render_validator_views(read_upright(results, key)).numpy()
    size = views.shape[1]
    sheet = Image.new("RGB", (COLUMNS * size, -(-len(views) // COLUMNS) * size))
    for index, view in enumerate(views):
        sheet.paste(Image.fromarray(view), (index % COLUMNS * size, index // COLUMNS * size))
    _save(sheet, pictures / f"{key}.views.webp")


def _save(picture: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    write_atomically(path, buffer.getvalue())


def lower_priority() -> None:
    """Let everything else on this machine run first."""
    torch.set_num_threads(1)
    os.nice(LOWEST_PRIORITY)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Carry out orders until stdin ends."""
    lower_priority()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            draw = draw_validator_views if order["what"] == "views" else draw_result
            draw(Path(order["results"]), order["key"], Path(order["pictures"]))
            answer = "ok"
        except (OSError, ValueError, PipelineError) as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
