"""A worker that lives elsewhere, seen from the miner: it is started, watched, and started again when it is lost."""

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from miner.config.phase_files import NamedPhase
from miner.errors import OperatorError
from miner.gpu import health, messages
from miner.gpu.link import Link, OutOfReach
from miner.gpu.statistics import CandidateCounter
from miner.gpu.wanted_models import WantedModels, WantedPhase
from miner.gpu.worker import LeftOut, LoadedPhase, Worker, WorkerState, WorkerStatus
from miner.runtime.gpu_memory import GpuMemory
from pipeline import Attempt, Cancelled, FinishedCandidate, GenerationJob, WorkerLost

log = logging.getLogger(__name__)

# Seconds between two looks at a worker that reports nothing.
LOOK_INTERVAL = 0.5


class RemoteWorker(Worker):
    """Keeps one life of a worker after another; a thread waits for its reports.

    A life ends by itself, with a fault that it reports, or because a candidate or a load takes longer than the limit of
    `check`. All models that are still in use are loaded again in the next. Where no life can begin at present, or not
    until the operator has put something right, it is out of reach, and is tried again for ever.
    """

    def __init__(self, device: str, open_link: Callable[[], Link], place: str, *, is_optional: bool = False) -> None:
        """Take the device's name, and the function that begins a life, which may raise OSError.

        is_optional: whether the worker is left out of phases that it cannot load, until it can, and others go on.
        """
        self.device = device
        self._place = place
        self._open_link = open_link
        self._is_optional = is_optional
        self._on_change: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self._counter = CandidateCounter()
        self._numbers = itertools.count(1)
        # Guards what follows.
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._models = WantedModels()
        # By the number of the order: who waits for a candidate, and since when.
        self._making: dict[int, tuple[Future[FinishedCandidate], float]] = {}
        self._begun: set[str] = set()
        # The number of the order that keeps it busy; what is packed beside the next candidate does not.
        self._busy: int | None = None
        self._memory: GpuMemory | None = None
        self._health = health.WorkerHealth()
        # Why the present life is to end.
        self._verdict = ""
        # What keeps a life from beginning, if only the operator can put it right.
        self._mistake: OperatorError | None = None
        self._thread = threading.Thread(target=self._keep_alive, name=f"worker {device}", daemon=True)
        self._thread.start()

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have `on_change` called whenever `is_free`, `has` or `can_come_back` may have changed."""
        self._on_change = on_change

    @property
    def is_free(self) -> bool:
        """Whether it would begin a candidate at once."""
        return self._link is not None and self._busy is None and not self._verdict

    @property
    def is_up(self) -> bool:
        """Whether it lives, or is about to for the first time."""
        return self._health.is_up

    @property
    def can_come_back(self) -> bool:
        """Whether it lives, or has not been lost too often."""
        return not self._health.is_lost_for_good and not self._stopping.is_set()

    @property
    def is_out_of_reach(self) -> bool:
        """Whether no life can begin at present."""
        return self._health.is_out_of_reach

    def has(self, models: str) -> bool:
        """Return whether models are loaded and warm."""
        return models in self._models.ready

    def load(self, models: str, phase: NamedPhase) -> "Future[LoadedPhase]":
        """Load the models of a phase, in this life and in all to come. The future may fail with OperatorError."""
        with self._lock:
            wanted = self._models.add(models, phase)
            if self._mistake is not None:
                wanted.fail(self._mistake)
            if self._link is not None:
                self._models.load(models, self._link.send)
        return wanted.loaded

    def unload(self, models: str) -> None:
        """Drop models after their last candidate."""
        with self._lock:
            self._models.drop(models)
            self._send(messages.Unload(models))

    def make(self, models: str, job: GenerationJob, attempt: Attempt) -> "Future[FinishedCandidate]":
        """Make a candidate; see Worker."""
        making: Future[FinishedCandidate] = Future()
        with self._lock:
            if self._link is None:
                making.set_exception(WorkerLost(f"the worker on {self.device} was lost"))
                return making
            number = next(self._numbers)
            self._making[number] = making, time.monotonic()
            self._busy = number
            if job.task not in self._begun:
                self._begun.add(job.task)
                self._send(messages.Begin(job))
            self._send(messages.Make(number, models, job.task, attempt))
        return making

    def cancel(self, job: GenerationJob, seed: int) -> None:
        """Stop making a candidate at its next step, if it still is."""
        self._send(messages.Cancel(job.task, seed))

    def forget(self, task: str) -> None:
        """Drop what is kept of a task."""
        with self._lock:
            self._begun.discard(task)
            self._send(messages.Forget(task))

    def check(self, limit: float) -> None:
        """End the present life if a candidate or a load takes longer than `limit` seconds."""
        with self._lock:
            if any(time.monotonic() - since > limit for _, since in self._making.values()):
                self._condemn(f"a generation has hung for {limit:.0f} s")
            elif self._models.is_overdue(limit):
                self._condemn(f"loading has hung for {limit:.0f} s")

    def status(self) -> WorkerStatus:
        """Return the present status."""
        with self._lock:
            well = self._health
            busy_for = 0.0 if self._busy is None else time.monotonic() - self._making[self._busy][1]
            return WorkerStatus(
                self._place, self.device, self._state, busy_for,
                self._counter.total, self._counter.per_minute, self._memory,
                well.problem, self._models.refusals, well.losses, well.last_loss,
            )  # fmt: skip

    @property
    def _state(self) -> WorkerState:
        if not self.can_come_back:
            return "lost"
        if self._health.is_out_of_reach:
            return "unreachable"
        if not self._health.is_up:
            return "restarting"
        if self._busy is not None:
            return "busy"
        if self._models.ready:
            return "idle"
        return "left_out" if self._models.refusals else "starting"

    def stop(self, timeout: float) -> bool:
        """End it at the next step of its candidate, and by force after `timeout` seconds."""
        self._stopping.set()
        self._send(messages.Stop())
        self._thread.join(timeout)
        ended = not self._thread.is_alive()
        with self._lock:
            if self._link is not None:
                self._link.kill()
        return ended

    def _keep_alive(self) -> None:
        while not self._stopping.is_set():
            missed: OutOfReach | OperatorError | None = None
            try:
                reason = self._live()
            except (OutOfReach, OperatorError) as error:
                reason, missed = str(error), error
            except Exception as error:  # whatever keeps a life from beginning is told, and tried again
                reason = f"{type(error).__name__}: {error}"
            if self._stopping.is_set():
                self._end(Cancelled("the miner is stopping"))
                return
            delay = self._note_loss(reason) if missed is None else self._note_out_of_reach(missed)
            self._end(WorkerLost(f"the worker on {self.device} was lost: {reason}"))
            self._stopping.wait(delay)

    def _note_loss(self, reason: str) -> float:
        """Take note of the end of a life; return the seconds after which the next one is to begin."""
        with self._lock:
            delay = self._health.lose(reason)
        log.error("The worker on %s was lost: %s; it is started again in %.0f s", self.device, reason, delay)
        return delay

    def _note_out_of_reach(self, error: OutOfReach | OperatorError) -> float:
        """Take note that no life can begin, and tell those who wait for models if that is the operator's mistake.

        Returns the seconds after which it is to be tried again.
        """
        with self._lock:
            is_new = str(error) != self._health.problem
            delay = self._health.miss(str(error))
            self._mistake = error if isinstance(error, OperatorError) else None
            if self._mistake is not None:
                self._models.fail_all(self._mistake)
        if is_new:
            log.error("The worker on %s is out of reach: %s; it is tried again until it is there", self.device, error)
        return delay

    def _live(self) -> str:
        """Begin a life, load what it needs and take its reports; return how it ended."""
        link = self._open_link()
        with self._lock:
            self._link, self._verdict = link, ""
            self._health.begin()
            if self._stopping.is_set():
                link.send(messages.Stop())
            self._models.load_all(link.send)
        self._on_change()
        try:
            while not self._verdict:
                report = link.receive(LOOK_INTERVAL)
                if report is not None:
                    self._take(report)
                with self._lock:
                    self._models.load_due(link.send)
        except EOFError:
            return self._verdict or link.epitaph()
        finally:
            link.close()
        return self._verdict

    def _take(self, report: messages.Report) -> None:
        with self._lock:
            match report:
                case messages.Placed(place):
                    self._place, self._mistake = place, None
                    self._health.arrive()
                case messages.Loaded(models, phase, memory):
                    self._health.recover()
                    self._set_memory(memory)
                    self._models.take(models, phase)
                case messages.NotLoaded(models, reason, is_mistake):
                    self._refuse(models, reason, is_mistake)
                case messages.Free(number):
                    self._set_free(number)
                case messages.Made(number, finished, memory):
                    self._set_memory(memory)
                    self._health.work()
                    self._counter.count()
                    if number in self._making:
                        self._making.pop(number)[0].set_result(finished)
                    self._set_free(number)
                case messages.NotMade(number, reason, details, is_cancelled):
                    error = Cancelled(reason) if is_cancelled else RuntimeError(reason)
                    error.add_note(details)
                    if number in self._making:
                        self._making.pop(number)[0].set_exception(error)
                    self._set_free(number)
                case messages.Fault(reason):
                    self._condemn(reason)
                case messages.LogLine(logger, level, text):
                    logging.getLogger(logger).log(level, "%s: %s", self.device, text)
        if not isinstance(report, messages.LogLine):
            self._on_change()

    def _refuse(self, models: str, reason: str, is_mistake: bool) -> None:
        """Take note that models cannot be loaded: for whoever asked for them, or else as the end of this life."""
        wanted = self._models.refuse(models)
        if wanted is None:
            return
        if self._is_optional:
            self._leave_out(wanted, reason)
        elif wanted.attempts > 1:
            # Nobody waits for it any more, and without its models the worker is of no use.
            self._condemn(reason)
        else:
            self._models.drop(models)
            wanted.fail(OperatorError(reason) if is_mistake else RuntimeError(reason))

    def _leave_out(self, wanted: WantedPhase, reason: str) -> None:
        """Do without a phase that cannot be loaded here, and try it again later."""
        wanted.retry_at = time.monotonic() + health.MEND_INTERVAL
        reason = f"{reason} (on {self._place})"
        if reason != wanted.refusal:
            log.error("The worker on %s is left out of phase %s: %s", self.device, wanted.phase.name, reason)
        wanted.refusal = reason
        self._health.recover()
        wanted.fail(LeftOut(f"{self.device}: {reason}"))

    def _set_memory(self, memory: GpuMemory | None) -> None:
        # The worker may see its GPU under another name.
        self._memory = None if memory is None else replace(memory, device=self.device)

    def _set_free(self, number: int) -> None:
        if self._busy == number:
            self._busy = None

    def _condemn(self, reason: str) -> None:
        """Have the present life ended."""
        self._verdict = self._verdict or reason
        if self._link is not None:
            self._link.kill()

    def _end(self, error: Exception) -> None:
        """Forget the life that has ended, and tell those who wait for its candidates."""
        with self._lock:
            self._link, self._busy, self._memory = None, None, None
            self._health.end()
            self._models.end_life()
            self._begun.clear()
            making, self._making = self._making, {}
            if isinstance(error, Cancelled):
                self._models.fail_all(error)
        for lost, _ in making.values():
            lost.set_exception(error)
        self._on_change()

    def _send(self, order: messages.Order) -> None:
        with self._lock:
            if self._link is not None:
                self._link.send(order)
