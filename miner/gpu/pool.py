"""The workers of a miner and the tasks that wait for them; everything on the event loop."""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from miner.config.phase_files import NamedPhase
from miner.errors import MinerError, OperatorError
from miner.gpu.models import PhaseModels
from miner.gpu.order import GenerationOrder, TaskInHand
from miner.gpu.pace import Pace, Sample
from miner.gpu.plan import Claim, choose_claim
from miner.gpu.worker import LeftOut, LoadedPhase, Worker, WorkerStatus
from pipeline import Attempt, BestOfN, BestResult, Cancelled, FinishedCandidate, Stage, WorkerLost

log = logging.getLogger(__name__)

# Workers that a candidate may be lost with, before it is taken for what they are lost by.
MAX_LOSSES = 2
# A timer may fire a little before its time, when what it waits for has not come yet.
_TIMER_MARGIN = 0.001


@dataclass(eq=False)
class WorkerPool:
    """Has its workers make the candidates of all tasks, and the models of each phase loaded by all of them.

    Whenever a worker is free, `choose_claim` tells which task it serves. A candidate whose worker is lost is made by
    another; a task that has a valid object ends with its deadline, whatever is still being made.
    """

    workers: Sequence[Worker]
    _tasks: list[TaskInHand] = field(default_factory=list, init=False)
    _pace: Pace = field(default_factory=Pace, init=False)
    # What each worker makes, by its number, until it is taken.
    _making: "defaultdict[int, set[Future[FinishedCandidate]]]" = field(
        default_factory=lambda: defaultdict(set), init=False
    )
    _ids: "itertools.count[int]" = field(default_factory=itertools.count, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _is_draining: bool = field(default=False, init=False)

    @property
    def waiting(self) -> int:
        """The number of tasks whose first candidate has not begun."""
        return sum(not task.choice.has_begun for task in self._tasks if task.is_open)

    @property
    def statuses(self) -> tuple[WorkerStatus, ...]:
        """The present status of each worker."""
        return tuple(worker.status() for worker in self.workers)

    async def load(self, phase: NamedPhase) -> PhaseModels:
        """Have all workers load the models of a phase and warm them up, while they go on with their tasks.

        Returns once all that are there have them; those that are lost meanwhile take no tasks of the phase until they
        have loaded it. Raises OperatorError if a worker cannot load them and cannot be left out, or none can, and
        MinerError if no worker is left.
        """
        loop = self._follow()
        models = str(next(self._ids))
        loads = [worker.load(models, phase) for worker in self.workers]
        for load in loads:
            load.add_done_callback(lambda _: _tell(loop, self._note_change))
        try:
            while not self._are_loaded(loads):
                self._changed.clear()
                await self._changed.wait()
        except BaseException:
            self.unload(models)
            raise
        loaded = next(load.result() for load in loads if load.done() and load.exception() is None)
        return PhaseModels(models, phase.settings.models_key, loaded.can_score, loaded.problems)

    def unload(self, models: str) -> None:
        """Have all workers drop models, given by their id."""
        for worker in self.workers:
            worker.unload(models)

    async def run(self, order: GenerationOrder, choice: BestOfN) -> BestResult:
        """Have the candidates made that `choice` wants, and return the best.

        Raises what `BestOfN.best` raises, WorkerLost if no worker is left, and Cancelled if the workers stop.
        """
        loop = self._follow()
        task = TaskInHand(order, choice, loop.time(), loop.create_future())
        self._tasks.append(task)
        self._assign()
        try:
            return await task.done
        finally:
            self._tasks.remove(task)
            if task.timer is not None:
                task.timer.cancel()
            for seed, number in task.making.items():
                self.workers[number].cancel(order.job, seed)
            for number in task.workers:
                self.workers[number].forget(order.job.task)

    def drain(self) -> None:
        """Make no further candidates for tasks that have a valid one: the miner is stopping."""
        self._is_draining = True
        if self._tasks:
            self._assign()

    async def watch(self, limit: float) -> None:
        """Give up candidates that take longer than `limit` seconds. Raise MinerError once no worker is left."""
        self._follow()
        while self._is_alive:
            self._changed.clear()
            try:
                async with asyncio.timeout(limit / 10):
                    await self._changed.wait()
            except TimeoutError:
                pass
            for worker in self.workers:
                worker.check(limit)
        raise MinerError(self._epitaph())

    async def stop(self, timeout: float) -> bool:  # noqa: ASYNC109
        """End all workers, and with them their tasks; return whether they ended within `timeout` seconds."""
        ended = await asyncio.gather(*(asyncio.to_thread(worker.stop, timeout) for worker in self.workers))
        for task in self._tasks:
            if task.is_open:
                task.done.set_exception(Cancelled("the miner is stopping"))
        return all(ended)

    def _follow(self) -> asyncio.AbstractEventLoop:
        """Follow the workers on this event loop from now on; return it."""
        loop = asyncio.get_running_loop()
        for worker in self.workers:
            worker.listen(partial(_tell, loop, self._note_change))
        return loop

    def _note_change(self) -> None:
        self._changed.set()
        self._assign()

    def _are_loaded(self, loads: "Sequence[Future[LoadedPhase]]") -> bool:
        """Return whether all workers that are there have loaded a phase. Raise OperatorError or MinerError."""
        has_loaded = False
        left_out: list[LeftOut] = []
        for worker, load in zip(self.workers, loads, strict=True):
            error = load.exception() if load.done() else None
            if isinstance(error, LeftOut):
                left_out.append(error)
                continue
            if isinstance(error, OperatorError) and len(self.workers) > 1:
                raise OperatorError(f"{worker.device}: {error}")
            if error is not None and not isinstance(error, WorkerLost):
                raise error
            has_loaded |= load.done() and error is None
        if has_loaded:
            return all(load.done() or not worker.is_up for worker, load in zip(self.workers, loads, strict=True))
        if len(left_out) == len(loads):
            raise OperatorError("; ".join(dict.fromkeys(str(error) for error in left_out)))
        if not self._is_alive:
            raise MinerError(self._epitaph())
        return False

    @property
    def _is_alive(self) -> bool:
        return any(worker.can_come_back for worker in self.workers)

    @property
    def _is_in_reach(self) -> bool:
        """Whether there is a worker that tasks may wait for."""
        return any(worker.can_come_back and not worker.is_out_of_reach for worker in self.workers)

    def _epitaph(self) -> str:
        """Return why no worker is left, or none is within reach."""
        devices: defaultdict[str, list[str]] = defaultdict(list)
        for status in self.statuses:
            devices[status.problem].append(status.device)
        if len(self.workers) == 1:
            return next(iter(devices))
        words = "no worker is within reach" if self._is_alive else "no worker is left"
        return f"{words}: " + "; ".join(f"{', '.join(names)}: {problem}" for problem, names in devices.items())

    def _assign(self) -> None:
        """Give each free worker a task, and end the tasks that want no more."""
        now = asyncio.get_running_loop().time()
        for number, worker in enumerate(self.workers):
            # A candidate that is done, but was not taken yet, may change what its task wants.
            is_free = worker.is_free and not any(made.done() for made in self._making[number])
            if is_free and (task := self._choose(number, now)) is not None:
                self._begin(task, number, now)
        for task in tuple(self._tasks):
            if task.is_open:
                self._end_if_done(task, now)

    def _choose(self, number: int, now: float) -> TaskInHand | None:
        """Return the task that a worker serves next; None if none wants it."""
        claims: list[tuple[TaskInHand, Claim]] = []
        for task in self._tasks:
            order, choice = task.order, task.choice
            if not task.is_open or not self.workers[number].has(order.models.id):
                continue
            if (stage := self._wants(task, number, now)) is not None:
                seconds = self._expect(task, number, stage)
                claim = Claim(task.arrived, choice.deadline, order.priority, seconds, not choice.has_begun)
                claims.append((task, claim))
        if not claims:
            return None
        # A free worker that took one of these is expected back after their mean; the more there are, the sooner.
        able = sum(worker.is_up for worker in self.workers)
        next_turn = sum(claim.seconds for _, claim in claims) / len(claims) / max(able, 1)
        return claims[choose_claim([claim for _, claim in claims], now, next_turn)][0]

    def _wants(self, task: TaskInHand, number: int, now: float) -> Stage | None:
        """Return the stage of a candidate that a task wants of a worker."""
        choice = task.choice
        # One that is being packed beside the device's work may be valid.
        if self._is_draining and (choice.has_valid or choice.is_running):
            return None
        return choice.wants(now, lambda stage: self._expect(task, number, stage))

    def _expect(self, task: TaskInHand, number: int, stage: Stage) -> float:
        return self._pace.expect(number, task.order.kind, stage, task.samples)

    def _begin(self, task: TaskInHand, number: int, now: float) -> None:
        stage = self._wants(task, number, now)
        assert stage is not None, "the task was chosen because it wants one"
        attempt = task.choice.begin(now, stage)
        task.making[attempt.seed] = number
        task.workers.add(number)
        made = self.workers[number].make(task.order.models.id, task.order.job, attempt)
        self._making[number].add(made)
        loop = task.done.get_loop()
        made.add_done_callback(lambda done: _tell(loop, partial(self._take, task, attempt, done)))

    def _take(self, task: TaskInHand, attempt: Attempt, made: "Future[FinishedCandidate]") -> None:
        """Take a stage of a candidate that a worker has ended, or an error."""
        seed = attempt.seed
        number = task.making.pop(seed)
        self._making[number].discard(made)
        error = made.exception()
        if not task.is_open:
            self._assign()
            return
        if error is None:
            finished = made.result()
            sample = Sample(number, attempt.stage, finished.candidate.seconds)
            if finished.error is None:
                self._pace.add(task.order.kind, sample)
            task.samples.append(sample)
            task.choice.finish(finished)
        elif isinstance(error, WorkerLost):
            task.losses[seed] += 1
            if task.losses[seed] >= MAX_LOSSES or not self._is_alive:
                task.choice.break_off(seed, error)
            else:
                task.choice.lose(seed)
        elif isinstance(error, Cancelled):
            task.done.set_exception(error)
        elif isinstance(error, Exception):
            task.choice.break_off(seed, error)
        self._assign()

    def _end_if_done(self, task: TaskInHand, now: float) -> None:
        """End a task that wants nothing more or has no time left, and else look again when it may be so."""
        choice = task.choice
        if not self._is_in_reach and not choice.has_valid and not choice.is_running:
            task.done.set_exception(WorkerLost(self._epitaph()))
            return
        if not (choice.has_valid and now >= choice.deadline):
            # First what costs little, since there may be many workers.
            if choice.is_running:
                self._set_timer(task, choice.deadline)
                return
            able = [number for number, worker in enumerate(self.workers) if worker.is_up]
            wanted = [(number, stage) for number in able if (stage := self._wants(task, number, now)) is not None]
            if wanted or not (able or choice.has_valid):
                seconds = min((self._expect(task, *each) for each in wanted), default=0.0)
                self._set_timer(task, choice.deadline - seconds)
                return
        try:
            task.done.set_result(choice.best())
        except Exception as error:  # belongs to whoever waits for the task
            task.done.set_exception(error)

    def _set_timer(self, task: TaskInHand, moment: float) -> None:
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        if task.choice.has_valid and moment < float("inf"):
            task.timer = asyncio.get_running_loop().call_at(moment + _TIMER_MARGIN, self._assign)


def _tell(loop: asyncio.AbstractEventLoop, note: Callable[[], None]) -> None:
    """Have a change noted on the event loop, from any thread."""
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(note)
