"""The one owner of the device: one generation at a time, on a thread of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from miner.gpu.cuda_errors import breaks_the_device
from pipeline import Cancelled, OnStep

Made = TypeVar("Made")
# Takes a function that it calls after each step and that may raise Cancelled.
Work = Callable[[OnStep], Made]

# Weight of the last generation in the running estimate of how long one takes.
DURATION_GAIN = 0.25


@dataclass(frozen=True)
class Urgency:
    """What decides a job's turn: the moment by which it should be done, and what each second after that costs."""

    deadline: float
    priority: float


def next_turn(waiting: Sequence[Urgency], now: float, duration: float) -> int:
    """Index of the job to run next, of those that wait in order of arrival; `duration`: seconds that one takes.

    The one that loses most by waiting for another's turn: its priority times the seconds of lateness that adds. Ties
    go to the earliest deadline, then the highest priority, then the first. So deadlines are kept in their order where
    they can be kept, and where they cannot, those are late who matter least.
    """

    def lateness(job: Urgency, turns: int) -> float:
        return max(now + turns * duration - job.deadline, 0.0)

    def rank(index: int) -> tuple[float, float, float, int]:
        job = waiting[index]
        loss = job.priority * (lateness(job, 2) - lateness(job, 1))
        return -loss, job.deadline, -job.priority, index

    return min(range(len(waiting)), key=rank)


@dataclass
class _Job:
    urgency: Urgency
    work: Work[Any]
    future: Future[Any]


class Scheduler:
    """Runs jobs on a daemon thread; the futures may be awaited from any event loop."""

    def __init__(self) -> None:
        self.failure: Future[BaseException] = Future()
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._duration = 0.0
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, work: Work[Made], priority: float, deadline: float = math.inf) -> Future[Made]:
        """Queue a generation, or what else needs the device to itself; `next_turn` says when it runs.

        Cancelling the future drops a job that has not begun.
        `deadline` is a moment of time.monotonic(); a job that misses it runs all the same. The future fails with what
        generation raised, or with Cancelled once the scheduler stops.
        """
        future: Future[Made] = Future()
        with self._changed:
            if self._stopping:
                future.set_exception(Cancelled("the miner is stopping"))
                return future
            self._jobs.append(_Job(Urgency(deadline, priority), work, future))
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    @property
    def running_for(self) -> float:
        """Seconds since the job that runs now has begun; 0.0 if none runs."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, timeout: float) -> bool:
        """Fail what waits, stop what runs at its next step; whether the thread ended within `timeout` seconds."""
        self._close()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _close(self) -> None:
        with self._changed:
            self._stopping = True
            for job in self._jobs:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(Cancelled("the miner is stopping"))
            self._jobs.clear()
            self._changed.notify()

    def _stop_if_asked(self, _stage: str, _done: int, _steps: int) -> None:
        if self._stopping:
            raise Cancelled("the miner is stopping")

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            if self._stopping:
                return None
            turn = next_turn([job.urgency for job in self._jobs], time.monotonic(), self._duration)
            return self._jobs.pop(turn)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._fail(error)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            broken = self._do(job) if job.future.set_running_or_notify_cancel() else None
            # Networks that only this job still needs are to go now, not when the next one comes.
            del job
            if broken is not None:
                self._fail(broken)
                return

    def _do(self, job: _Job) -> Exception | None:
        """Run a job; the error, if no more jobs can be run after it."""
        self._running_since = started = time.monotonic()
        try:
            made = job.work(self._stop_if_asked)
        except Exception as error:  # whatever happened belongs to whoever waits for this job
            job.future.set_exception(error)
            return error if breaks_the_device(error) else None
        except BaseException as error:
            # As itself it would end whoever waits, too.
            job.future.set_exception(RuntimeError(f"the generator's thread ends: {type(error).__name__}"))
            raise
        else:
            job.future.set_result(made)
            self._duration += DURATION_GAIN * (time.monotonic() - started - self._duration)
            return None
        finally:
            self._running_since = None

    def _fail(self, error: BaseException) -> None:
        self._close()
        self.failure.set_result(error)
