"""A task from its prompt to the bytes of its result: what both transports share."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from miner.logs import ResultLine, shown
from miner.scheduler import Scheduler
from miner.settings import Phase, SpzSettings
from pipeline import (
    Asset,
    ImagePrompt,
    PipelineError,
    PromptError,
    Request,
    image_prompt_from_base64,
    normalise,
    ply,
    spz,
    text_prompt,
    validity,
)

log = logging.getLogger(__name__)


class NoTextCheckpoint(PromptError):  # noqa: N818 - a state of the phase
    """A sentence came, and the phase generates from images only."""


class InvalidResult(PipelineError):  # noqa: N818
    """The validator would score the result 0."""


@dataclass(frozen=True)
class Task:
    """What somebody wants: the prompt as it came, the seed (None: any) and the result's format."""

    id: str
    type: Literal["text", "image"]
    prompt: str
    priority: float
    seed: int | None = None
    data_format: Literal["spz", "ply"] = "spz"


@dataclass(frozen=True, eq=False)
class Result:
    """A generated asset and its file."""

    asset: Asset
    data: bytes

    @property
    def base64(self) -> str:
        """The file as it travels."""
        return base64.b64encode(self.data).decode()


class TaskRunner:
    """Decodes prompts, has the scheduler generate, encodes and checks; counts how tasks end."""

    def __init__(self, scheduler: Scheduler, phase: Phase, container: SpzSettings) -> None:
        self.counters: Counter[str] = Counter()
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
            asset = await asyncio.wrap_future(self._scheduler.submit(self._request(task, prompt), task.priority))
            data = await asyncio.to_thread(self._encode, task, asset)
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
        log.info("%s", ResultLine(shown(task.id), asset.seconds, len(asset.splats), len(data)))
        return Result(asset, data)

    def _decode(self, task: Task) -> ImagePrompt:
        if task.type == "text":
            sentence = text_prompt(task.prompt)
            raise NoTextCheckpoint(f"the phase has no text checkpoint for {sentence.label}")
        prompt = image_prompt_from_base64(task.prompt)
        log.info("Task %s: %s", shown(task.id), prompt.label)
        return prompt

    def _request(self, task: Task, prompt: ImagePrompt) -> Request:
        return Request(
            prompt=prompt,
            seed=secrets.randbelow(2**31) if task.seed is None else task.seed,
            sparse_structure_sampler_params=self._phase.sparse_structure_sampler_params.params(),
            slat_sampler_params=self._phase.slat_sampler_params.params(),
            voxel_limit=self._phase.max_voxels.limit() if self._phase.max_voxels else None,
        )

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
