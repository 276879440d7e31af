"""The process that draws thumbnails: one order in JSON a line on stdin, one answer a line on stdout; ends with stdin.

An order is {"results": folder, "key": number, "pictures": folder, "what": a Picture of miner.monitor.thumbnails}.
KEY.spz or KEY.ply of the first folder is drawn into the second: as KEY.webp, a turntable, with KEY.prompt as
KEY.prompt.webp; or the prompt alone; or as KEY.views.webp, the 16 views of a validator in four rows. The answer is "ok"
or the error.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from miner.monitor.gallery import read_upright
from miner.monitor.thumbnails import Picture
from miner.monitor.turntable import SIZE, draw_turntable, encode_webp
from miner.runtime import return_large_pieces, write_atomically
from pipeline import PipelineError, decode_image_prompt, render_validator_views, tile

COLUMNS = 4
LOWEST_PRIORITY = 19


def draw_prompt(results: Path, key: int, pictures: Path) -> None:
    """Draw a result's prompt if it is a picture. Raises OSError or PromptError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        # Drawn anew, so that nothing but the pixels of a file from outside reaches the operator's browser.
        prompt = decode_image_prompt((results / f"{key}.prompt").read_bytes()).image
        prompt.thumbnail((2 * SIZE, 2 * SIZE))
        write_atomically(pictures / f"{key}.prompt.webp", encode_webp(prompt))


def draw_splats(results: Path, key: int, pictures: Path) -> None:
    """Draw a result's turntable. Raises OSError, ValueError or FormatError."""
    pictures.mkdir(parents=True, exist_ok=True)
    write_atomically(pictures / f"{key}.webp", encode_webp(draw_turntable(read_upright(results, key))))


def draw_result(results: Path, key: int, pictures: Path) -> None:
    """Draw a result and its prompt. Raises OSError, ValueError, FormatError or PromptError."""
    draw_prompt(results, key, pictures)
    draw_splats(results, key, pictures)


def draw_validator_views(results: Path, key: int, pictures: Path) -> None:
    """Draw a result as validators see it. Raises OSError, ValueError, FormatError or PipelineError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        views = render_validator_views(read_upright(results, key))
    write_atomically(pictures / f"{key}.views.webp", encode_webp(tile(views, COLUMNS)))


DRAWINGS: Mapping[Picture, Callable[[Path, int, Path], None]] = {
    "thumbnails": draw_result, "prompt": draw_prompt, "views": draw_validator_views,
}  # fmt: skip


def lower_priority() -> None:
    """Let everything else on this machine run first."""
    os.nice(LOWEST_PRIORITY)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Carry out orders until stdin ends."""
    torch.set_num_threads(1)
    return_large_pieces()
    if "--idle" in sys.argv:
        lower_priority()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            DRAWINGS[order["what"]](Path(order["results"]), order["key"], Path(order["pictures"]))
            answer = "ok"
        except (OSError, ValueError, PipelineError) as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
