"""The process that draws thumbnails: one order in JSON a line on stdin, one answer a line on stdout; ends with stdin.

An order is {"results": folder, "key": number, "pictures": folder, "splats": whether to draw them}: KEY.prompt of the
first folder is drawn as KEY.prompt.webp in the second, and KEY.spz or KEY.ply as KEY.webp. The answer is "ok" or the
error.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from miner.monitor.gallery import read_upright
from miner.monitor.turntable import SIZE, draw_turntable, encode_webp
from miner.runtime import write_atomically
from pipeline import FormatError, PromptError, decode_image_prompt

LOWEST_PRIORITY = 19


def draw_result(results: Path, key: int, pictures: Path, *, splats: bool = True) -> None:
    """Draw a result's prompt, and its splats if asked to. Raises OSError, ValueError, FormatError or PromptError."""
    pictures.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        # Drawn anew, so that nothing but the pixels of a file from outside reaches the operator's browser.
        prompt = decode_image_prompt((results / f"{key}.prompt").read_bytes()).image
        prompt.thumbnail((2 * SIZE, 2 * SIZE))
        write_atomically(pictures / f"{key}.prompt.webp", encode_webp(prompt))
    if splats:
        write_atomically(pictures / f"{key}.webp", encode_webp(draw_turntable(read_upright(results, key))))


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
            draw_result(Path(order["results"]), order["key"], Path(order["pictures"]), splats=order["splats"])
            answer = "ok"
        except (OSError, ValueError, FormatError, PromptError) as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())
        print(answer, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
