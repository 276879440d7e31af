"""Runs tasks: plans, generates, checks and records each, and counts how they end."""

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from miner.analytics import PassModel
from miner.config import SpzSettings
from miner.config.phase import Phase
from miner.gpu import GenerationOrder, WorkerPool
from miner.ledger import TaskRecord
from miner.phases import PhaseSelector, TaskPlan
from miner.runtime import ResultLine, sanitise_name, sanitise_text
from miner.subnet.encoding import encoded_size
from miner.tasks.decoding import PromptDecoder
from miner.tasks.gate import GateDecision, decide_by_chance, decide_by_limit
from miner.tasks.generation import best_of_n, make_container, make_request
from miner.tasks.task import InvalidResult, Result, Task, Withheld
from pipeline import BestResult, Cancelled, GenerationJob, PipelineError, UnsupportedPrompt

log = logging.getLogger(__name__)


@dataclass(eq=False)
class TaskRunner:
    """Has the workers generate tasks with the phase that the selector plans for them.

    `counters` hold how tasks ended; `last_success` is the unix time of the last result, None before the first.
    `on_result` is called on the event loop with each result and must return at once. `decoder` decodes the prompts of
    tasks before they are run. `pass_model` returns what is known of the chance to pass, None if nothing is; `draw`
    returns a uniform number in [0, 1). Both serve `gate: auto`, and are called from any thread. `has_sheets`: whether
    results keep small pictures of all candidates, where there are several.
    """

    pool: WorkerPool
    selector: PhaseSelector
    spz: SpzSettings
    on_result: Callable[[Task, Result], None] = lambda _task, _result: None
    decoder: PromptDecoder = field(default_factory=PromptDecoder)
    pass_model: Callable[[], PassModel | None] = lambda: None
    draw: Callable[[], float] = random.random
    has_sheets: bool = False
    counters: Counter[str] = field(default_factory=Counter)
    last_success: float | None = None
    # Names of tasks, since two validators may use the same id.
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _logged_failures: set[str] = field(default_factory=set)

    def drain(self) -> None:
        """Make no further candidates for tasks that have a valid one: the miner is stopping."""
        self.pool.drain()

    async def run(self, task: Task) -> Result:
        """Return the task's result. Raise PipelineError, already logged and counted, if there is none."""
        plan = self._start(task.record)
        try:
            log.info("Task %s: %s", sanitise_name(task.id), sanitise_text(task.prompt.label))
            result = await self._generate(task, plan)
        except PipelineError as error:
            self._fail(task.id, task.record, error)
            raise
        except Exception as error:  # whatever one task provokes must not stop the others
            self._fail(task.id, task.record, error)
            raise PipelineError("generation failed unexpectedly") from error
        self.counters["generated"] += 1
        self.last_success = time.time()
        asset, tried = result.asset, len(result.candidates)
        sizes = (asset.gaussians, len(result.data), tried)
        log.info("%s", ResultLine(sanitise_name(task.id), asset.seconds, *sizes, str(result.score or "")))
        self.on_result(task, result)
        return result

    def decline(self, task_id: str, record: TaskRecord | None, error: Exception) -> None:
        """Record, log and count a task whose prompt could not be decoded."""
        if record is not None:
            self._start(record)
        self._fail(task_id, record, error)

    def _start(self, record: TaskRecord | None) -> TaskPlan:
        if record is None:
            return self.selector.plan()
        plan = self.selector.plan(record.stratum, record.assignment)
        record.start(plan.assignment)
        return plan

    def _fail(self, task_id: str, record: TaskRecord | None, error: Exception) -> None:
        if isinstance(error, PipelineError):
            name = type(error).__name__
            self.counters[name] += 1
            log.warning("Task %s: no result, %s: %s", sanitise_name(task_id), name, sanitise_text(str(error)))
        else:
            self.counters["internal_error"] += 1
            log.error("Task %s: no result, generation failed unexpectedly", sanitise_name(task_id), exc_info=error)
        # A task that is given up because the miner stops is begun again after the restart.
        if record is not None and not isinstance(error, Cancelled):
            record.failed(error)

    async def _generate(self, task: Task, plan: TaskPlan) -> Result:
        phase = plan.phase.settings
        # Checked here, so that such tasks do not wait for the generator.
        if not (phase.takes_text if task.type == "text" else phase.image):
            raise UnsupportedPrompt(f"the phase has no checkpoint for {task.type} tasks")
        request = make_request(task.prompt, task.seed, phase)
        container = make_container(task.format, task.up, self.spz, phase)
        name = f"{next(self._numbers)}-{sanitise_name(task.id)}"
        steps = phase.candidates.preview_steps or 0
        choice = best_of_n(request, phase, plan.models.can_score, task.deadline)
        job = GenerationJob(
            name, request, container, is_scored=phase.scorer is not None, preview_steps=steps,
            has_sheets=self.has_sheets and choice.count > 1,
        )  # fmt: skip
        kind = f"{plan.phase.config_hash} {task.type}"
        best = await self.pool.run(GenerationOrder(job, plan.models, kind, task.priority), choice)
        self._note_problems(task, best)
        return await asyncio.to_thread(self._finish, task, best, plan)

    def _finish(self, task: Task, best: BestResult, plan: TaskPlan) -> Result:
        """Check the best candidate, and record it."""
        if best.problem:
            raise InvalidResult(f"the validator would score it 0: {best.problem}")
        decision = self._decide(task, best, plan.phase.settings)
        is_sent = decision is None or decision.is_sent
        if task.record is not None:
            size = encoded_size(best.asset.data) if is_sent else None
            gate = (decision.verdict, decision.pass_probability) if decision else (None, None)
            task.record.generated(best, size, task.threshold, *gate)
        if decision is not None and not is_sent:
            raise Withheld(decision.reason)
        return Result(best.asset, plan.phase, best.score, best.candidates, best.sheets)

    def _decide(self, task: Task, best: BestResult, phase: Phase) -> GateDecision | None:
        """Return what the phase's gate makes of a result; None without one, and for what no validator judges."""
        gate, record = phase.gate, task.record
        if gate is None or record is None:
            return None
        if gate != "auto":
            return decide_by_limit(gate, best.score, len(best.candidates))
        if record.transport == "push":
            # Without a cooldown, there is nothing to weigh the chance against.
            return None
        decision = decide_by_chance(self.pass_model(), task.type, best.score, task.threshold, self.draw())
        if decision.verdict == "explored":
            log.info("Task %s: %s", sanitise_name(task.id), decision.reason)
        return decision

    def _note_problems(self, task: Task, best: BestResult) -> None:
        """Count the candidates that failed unexpectedly or could not be scored, and log each reason once."""
        if best.break_off is not None:
            self.counters["internal_error"] += 1
            log.error(
                "Task %s: a candidate failed unexpectedly; taking the best so far",
                sanitise_name(task.id),
                exc_info=best.break_off,
            )
        for problem in (candidate.problem for candidate in best.candidates if candidate.is_unscored):
            self.counters["not_scored"] += 1
            # The rest of it may have other numbers each time.
            kind = problem.partition(":")[0]
            if kind not in self._logged_failures:
                self._logged_failures.add(kind)
                log.warning("A candidate was %s; results are sent all the same", sanitise_text(problem))
