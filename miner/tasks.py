"""A task from its prompt to the bytes of its result: what both transports share."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from miner.logs import ResultLine, shown
from miner.scheduler import Scheduler
from miner.settings import Phase, SpzSettings
from pipeline import (
    Asset,
    PipelineError,
    Prompt,
    Request,
    UnsupportedPrompt,
    image_prompt_from_base64,
    normalise,
    ply,
    spz,
    text_prompt,
    validity,
)

log = logging.getLogger(__name__)


class InvalidResult(PipelineError):  # noqa: N818
    """The validator would score the result 0."""


@dataclass(frozen=True)
class Task:
    """What somebody wants: the prompt as it came, the seed (None: any) and the result's format.

    `deadline` is the moment of time.monotonic() at which its generation should be done. One that is done later is
    delivered all the same.
    """

    id: str
    type: Literal["text", "image"]
    prompt: str
    priority: float
    seed: int | None = None
    data_format: Literal["spz", "ply"] = "spz"
    deadline: float = math.inf


@dataclass(frozen=True, eq=False)
class Result:
    """A generated asset, its file, the file as it travels, and how long the two took to make."""

    asset: Asset
    data: bytes
    base64: str
    encode_seconds: float


class TaskRunner:
    """Decodes prompts, has the scheduler generate, encodes and checks; counts how tasks end."""

    def __init__(self, scheduler: Scheduler, phase: Phase, container: SpzSettings) -> None:
        self.counters: Counter[str] = Counter()
        # Unix time of the last result that was made.
        self.last_success: float | None = None
        self._scheduler = scheduler
        self._phase = phase
        self._container = container

    @property
    def waiting(self) -> int:
        """Tasks whose generation has not begun."""
        return self._scheduler.waiting

    async def run(self, task: Task) -> Result:
        """The task's result. Raises PipelineError with the reason if there is none; it has been logged and counted."""
        try:
            prompt = await asyncio.to_thread(self._decode, task)
            job = self._scheduler.submit(self._request(task, prompt), task.priority, task.deadline)
            asset = await asyncio.wrap_future(job)
            result = await asyncio.to_thread(self._result, task, asset)
        except PipelineError as error:
            name = type(error).__name__
            self.counters[name] += 1
            log.warning("Task %s: no result, %s: %s", shown(task.id), name, error)
            raise
        except Exception as error:  # whatever one task provokes must not stop the others
            self.counters["internal error"] += 1
            log.exception("Task %s: no result, generation failed unexpectedly", shown(task.id))
            raise PipelineError("generation failed unexpectedly") from error
        self.counters["generated"] += 1
        self.last_success = time.time()
        log.info("%s", ResultLine(shown(task.id), asset.seconds, len(asset.splats), len(result.data)))
        return result

    def _decode(self, task: Task) -> Prompt:
        prompt = text_prompt(task.prompt) if task.type == "text" else image_prompt_from_base64(task.prompt)
        log.info("Task %s: %s", shown(task.id), prompt.label)
        # Known before the generator is asked, so that such tasks do not wait in its queue.
        if (self._phase.text if task.type == "text" else self._phase.image) is None:
            raise UnsupportedPrompt(f"the phase has no checkpoint for {task.type} tasks")
        return prompt

    def _request(self, task: Task, prompt: Prompt) -> Request:
        structure, latents = self._phase.samplers
        return Request(
            prompt=prompt,
            seed=secrets.randbelow(2**31) if task.seed is None else task.seed,
            sparse_structure_sampler_params=structure,
            slat_sampler_params=latents,
            voxel_limit=self._phase.max_voxels.limit() if self._phase.max_voxels else None,
        )

    def _result(self, task: Task, asset: Asset) -> Result:
        started = time.monotonic()
        data = self._encode(task, asset)
        text = base64.b64encode(data).decode()
        return Result(asset, data, text, time.monotonic() - started)

    def _encode(self, task: Task, asset: Asset) -> bytes:
        extent = self._phase.export.extent
        splats = asset.splats if extent is None else normalise(asset.splats, extent)
        if task.data_format == "ply":
            data = ply.to_bytes(splats)
            received = ply.verify_round_trip(splats, data)
        else:
            data = spz.to_bytes(splats, level=self._container.level, workers=self._container.workers)
            received = spz.verify_round_trip(splats, data)
        reason = validity(received)
        if reason is not None:
            raise InvalidResult(f"the validator would score it 0: {reason}")
        return data
