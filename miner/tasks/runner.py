"""A task from its prompt to the bytes of its result: what both transports share."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable

from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase
from miner.config.settings import SpzSettings
from miner.gpu.scheduler import Scheduler
from miner.phases.selector import PhaseSelector, TaskPlan
from miner.runtime.logging import ResultLine, quoted, shown
from miner.subnet.protocol import decode_image
from miner.tasks.task import InvalidResult, Result, Task, Withheld
from pipeline import (
    BestOfN,
    BestResult,
    Cancelled,
    PipelineError,
    Prompt,
    Request,
    Splats,
    TextToImageParams,
    UnsupportedPrompt,
    parse_text_prompt,
    ply,
    spz,
)
from pipeline.splats.statistics import compute_statistics
from pipeline.splats.validation import invalid_reason

log = logging.getLogger(__name__)


class TaskRunner:
    """Decodes prompts, has the scheduler generate, encodes and checks; counts how tasks end."""

    def __init__(
        self,
        scheduler: Scheduler,
        phases: PhaseSelector,
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
        self._hurried = False

    def hurry(self) -> None:
        """From now on no task looks for a better candidate than it has: we stop."""
        self._hurried = True

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
        of, quality = len(result.candidates), result.quality
        log.info("%s", ResultLine(shown(task.id), asset.seconds, len(asset.splats), len(result.data), of, quality))
        self._on_result(task, result)
        return result

    async def _make(self, task: Task, begun: TaskPlan) -> Result:
        phase = begun.phase.settings
        prompt = await asyncio.to_thread(self._decode, task, phase)
        best = await self._search(task, _request(task, prompt, phase), begun)
        return await asyncio.to_thread(self._result, task, best, begun.phase)

    async def _search(self, task: Task, request: Request, begun: TaskPlan) -> BestResult:
        """The best of the candidates there is time for, each made in its own turn of the scheduler."""
        phase = begun.phase.settings
        search = BestOfN(
            begun.loaded.backend,
            request,
            begun.loaded.scorer,
            count=phase.candidates.count,
            seconds=phase.candidates.seconds,
            deadline=task.deadline,
            received=lambda splats: self._packed(task, _exported(splats, phase))[1],
        )
        priority = task.priority
        while search.wants_another and not (self._hurried and search.has_valid):
            try:
                await asyncio.wrap_future(self._scheduler.submit(search.make_one, priority, task.deadline))
            except PipelineError:
                raise
            except Exception:  # what comes of one more must not lose what there is
                if not search.has_valid:
                    raise
                self.counters["internal error"] += 1
                log.exception("Task %s: a candidate failed unexpectedly; the best before it is taken", shown(task.id))
                break
            # Nobody waits for one more candidate while another task would be late.
            priority = 0.0
        return search.best()

    @staticmethod
    def _decode(task: Task, phase: Phase) -> Prompt:
        prompt = parse_text_prompt(task.prompt) if task.type == "text" else decode_image(task.prompt)
        log.info("Task %s: %s", shown(task.id), quoted(prompt.label))
        # Known before the generator is asked, so that such tasks do not wait in its queue.
        if not (phase.takes_text if task.type == "text" else phase.image):
            raise UnsupportedPrompt(f"the phase has no checkpoint for {task.type} tasks")
        return prompt

    def _result(self, task: Task, best: BestResult, phase: NamedPhase) -> Result:
        started = time.monotonic()
        splats = _exported(best.asset.splats, phase.settings)
        data, received = self._packed(task, splats)
        reason = invalid_reason(received)
        if reason is not None:
            raise InvalidResult(f"the validator would score it 0: {reason}")
        text = base64.b64encode(data).decode()
        seconds = time.monotonic() - started
        withheld = _withheld(task, best, phase.settings)
        if task.entry is not None:
            task.entry.generated(best, compute_statistics(splats), None if withheld else len(text))
        if withheld:
            raise Withheld(withheld)
        return Result(best.asset, phase, data, text, seconds, best.quality, best.candidates)

    def _packed(self, task: Task, splats: Splats) -> tuple[bytes, Splats]:
        """The file of a result, and what its reader gets. Raises FormatError."""
        if task.data_format == "ply":
            data = ply.to_bytes(splats)
            return data, ply.verify_round_trip(splats, data)
        data = spz.to_bytes(splats, level=self._container.level, workers=self._container.workers)
        return data, spz.verify_round_trip(splats, data)


def _exported(splats: Splats, phase: Phase) -> Splats:
    """The splats as the phase has them sent. Raises InvalidResult where they do not allow that."""
    try:
        return phase.export.apply(splats)
    except ValueError as error:
        raise InvalidResult(f"export is impossible: {error}") from None


def _withheld(task: Task, best: BestResult, phase: Phase) -> str:
    """Why a result is not sent, "" if it is: what no validator judges and what could not be scored pass the gate."""
    if phase.gate is None or task.entry is None or best.quality is None or best.quality >= phase.gate.quality:
        return ""
    of = f"the best of {len(best.candidates)} has" if len(best.candidates) > 1 else "it has"
    return f"{of} quality {best.quality:.3f}, the phase's gate asks for {phase.gate.quality:g}"


def _request(task: Task, prompt: Prompt, phase: Phase) -> Request:
    structure, latents = phase.samplers
    return Request(
        prompt=prompt,
        seed=secrets.randbelow(2**31) if task.seed is None else task.seed,
        sparse_structure_sampler_params=structure,
        slat_sampler_params=latents,
        voxel_limit=phase.max_voxels.limit() if phase.max_voxels else None,
        text_to_image_params=phase.text_to_image.params() if phase.text_to_image else TextToImageParams(),
    )
