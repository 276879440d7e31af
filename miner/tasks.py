"""A task from its prompt to the bytes of its result: what both transports share."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from miner.books import Entry
from miner.logs import ResultLine, quoted, shown
from miner.phase_settings import Phase
from miner.phases import NamedPhase
from miner.running import Begun, Phases
from miner.scheduler import Scheduler
from miner.settings import SpzSettings
from pipeline import (
    Asset,
    Cancelled,
    PipelineError,
    Prompt,
    Request,
    Splats,
    UnsupportedPrompt,
    image_prompt_from_base64,
    ply,
    spz,
    text_prompt,
    validity,
)
from pipeline.splats import statistics

log = logging.getLogger(__name__)


class InvalidResult(PipelineError):  # noqa: N818
    """The validator would score the result 0."""


@dataclass(frozen=True)
class Task:
    """What somebody wants: the prompt as it came, the seed (None: any) and the result's format.

    `deadline` is the moment of time.monotonic() at which its generation should be done. One that is done later is
    delivered all the same. `entry` is its place in the ledger; None for what no validator wants.
    """

    id: str
    type: Literal["text", "image"]
    prompt: str
    priority: float
    seed: int | None = None
    data_format: Literal["spz", "ply"] = "spz"
    deadline: float = math.inf
    entry: Entry | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A generated asset and its phase, its file, the file as it travels, and how long the two took to make."""

    asset: Asset
    phase: NamedPhase
    data: bytes
    base64: str
    encode_seconds: float


class TaskRunner:
    """Decodes prompts, has the scheduler generate, encodes and checks; counts how tasks end."""

    def __init__(
        self,
        scheduler: Scheduler,
        phases: Phases,
        container: SpzSettings,
        on_result: Callable[[Task, Result], None] = lambda _task, _result: None,
    ) -> None:
        """`on_result` is called on the event loop with each result, and must return at once."""
        self.counters: Counter[str] = Counter()
        # Unix time of the last result that was made.
        self.last_success: float | None = None
        self._scheduler = scheduler
        self._phases = phases
        self._container = container
        self._on_result = on_result

    @property
    def waiting(self) -> int:
        """Tasks whose generation has not begun."""
        return self._scheduler.waiting

    async def run(self, task: Task) -> Result:
        """The task's result. Raises PipelineError with the reason if there is none; it has been logged and counted."""
        entry = task.entry
        begun = self._phases.begin(entry.stratum, entry.drawn) if entry else self._phases.begin()
        if entry is not None:
            entry.assigned(begun)
        try:
            result = await self._make(task, begun)
        except PipelineError as error:
            name = type(error).__name__
            self.counters[name] += 1
            log.warning("Task %s: no result, %s: %s", shown(task.id), name, quoted(str(error)))
            # What we give up because we stop is begun again after the restart.
            if entry is not None and not isinstance(error, Cancelled):
                entry.failed(error)
            raise
        except Exception as error:  # whatever one task provokes must not stop the others
            self.counters["internal error"] += 1
            log.exception("Task %s: no result, generation failed unexpectedly", shown(task.id))
            if entry is not None:
                entry.failed(error)
            raise PipelineError("generation failed unexpectedly") from error
        self.counters["generated"] += 1
        self.last_success = time.time()
        asset = result.asset
        log.info("%s", ResultLine(shown(task.id), asset.seconds, len(asset.splats), len(result.data)))
        self._on_result(task, result)
        return result

    async def _make(self, task: Task, begun: Begun) -> Result:
        phase = begun.phase.settings
        prompt = await asyncio.to_thread(self._decode, task, phase)
        work = partial(begun.loaded.backend.generate, _request(task, prompt, phase))
        asset = await asyncio.wrap_future(self._scheduler.submit(work, task.priority, task.deadline))
        return await asyncio.to_thread(self._result, task, asset, begun.phase)

    @staticmethod
    def _decode(task: Task, phase: Phase) -> Prompt:
        prompt = text_prompt(task.prompt) if task.type == "text" else image_prompt_from_base64(task.prompt)
        log.info("Task %s: %s", shown(task.id), quoted(prompt.label))
        # Known before the generator is asked, so that such tasks do not wait in its queue.
        if (phase.text if task.type == "text" else phase.image) is None:
            raise UnsupportedPrompt(f"the phase has no checkpoint for {task.type} tasks")
        return prompt

    def _result(self, task: Task, asset: Asset, phase: NamedPhase) -> Result:
        started = time.monotonic()
        splats = phase.settings.export.apply(asset.splats)
        data = self._encode(task, splats)
        text = base64.b64encode(data).decode()
        seconds = time.monotonic() - started
        if task.entry is not None:
            task.entry.generated(asset, statistics(splats), len(text))
        return Result(asset, phase, data, text, seconds)

    def _encode(self, task: Task, splats: Splats) -> bytes:
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


def _request(task: Task, prompt: Prompt, phase: Phase) -> Request:
    structure, latents = phase.samplers
    return Request(
        prompt=prompt,
        seed=secrets.randbelow(2**31) if task.seed is None else task.seed,
        sparse_structure_sampler_params=structure,
        slat_sampler_params=latents,
        voxel_limit=phase.max_voxels.limit() if phase.max_voxels else None,
    )
