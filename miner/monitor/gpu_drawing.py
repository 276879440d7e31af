"""Pictures of results, drawn on the GPU that this process drives, in moments without candidates."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import torch
from PIL import Image

from miner.gpu import LocalWorker, Worker
from miner.monitor.turntable import draw_turntable
from pipeline import Splats

DrawTurntable = Callable[[Splats], Awaitable[Image.Image]]
"""Draws the turntable of splats, see miner.monitor.turntable."""


def choose_gpu_drawing(workers: Sequence[Worker]) -> DrawTurntable | None:
    """Return what draws on a GPU of this process; None if it drives none.

    Another process would need a context of its own in the GPU's memory.
    """
    worker = workers[0]
    if not isinstance(worker, LocalWorker) or torch.device(worker.device).type != "cuda":
        return None

    async def draw(splats: Splats) -> Image.Image:
        on_gpu = worker.run_in_background(lambda: draw_turntable(splats.to(torch.device(worker.device))))
        return await asyncio.wrap_future(on_gpu)

    return draw
