"""The one owner of the device: runs one job at a time on a thread of its own, the most urgent first."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from miner.gpu.cuda_errors import is_fatal_cuda_error
from pipeline import Cancelled, OnStep

JobResult = TypeVar("JobResult")
# Gets a function to call after each sampler step, which may raise Cancelled.
Job = Callable[[OnStep], JobResult]

# Weight of the last job in the running estimate of how long one takes.
DURATION_GAIN = 0.25


@dataclass(frozen=True)
class Urgency:
    """The moment by which a job should be done, and the cost of each second of delay after it."""

    deadline: float
    priority: float


def most_urgent(waiting: Sequence[Urgency], now: float, duration: float) -> int:
    """Return the index of the job to run next, of those waiting in order of arrival; a job takes `duration` seconds.

    It is the one that loses most by waiting for one more job: its priority times the seconds of lateness that adds.
    Ties go to the earliest deadline, then the highest priority, then the first. So deadlines are met in their order
    where they can be met, and where they cannot, the jobs that matter least are late.
    """

    def lateness(job: Urgency, turns: int) -> float:
        return max(now + turns * duration - job.deadline, 0.0)

    def rank(index: int) -> tuple[float, float, float, int]:
        job = waiting[index]
        loss = job.priority * (lateness(job, 2) - lateness(job, 1))
        return -loss, job.deadline, -job.priority, index

    return min(range(len(waiting)), key=rank)


@dataclass
class _QueuedJob:
    urgency: Urgency
    job: Job[Any]
    future: Future[Any]


class Scheduler:
    """A queue of jobs and the daemon thread that runs them; the futures may be awaited from any event loop.

    `failure` ends with the error after which no more jobs can be run in this process.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self.failure: Future[BaseException] = Future()
        self._queue: list[_QueuedJob] = []
        self._changed = threading.Condition()
        self._is_stopping = False
        self._expected_seconds = 0.0
        self._running_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._thread.start()

    def submit(self, job: Job[JobResult], priority: float, deadline: float = math.inf) -> Future[JobResult]:
        """Queue a generation, or anything else that needs the device to itself; `most_urgent` decides when it runs.

        `deadline` is a moment of time.monotonic(); a job that misses it runs all the same. Cancelling the future drops
        a job that has not begun. The future fails with the job's exception, or with Cancelled once the scheduler stops.
        """
        future: Future[JobResult] = Future()
        with self._changed:
            if self._is_stopping:
                future.set_exception(Cancelled("the miner is stopping"))
                return future
            self._queue.append(_QueuedJob(Urgency(deadline, priority), job, future))
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """The number of jobs that have not begun."""
        with self._changed:
            return sum(not queued.future.cancelled() for queued in self._queue)

    @property
    def running_for(self) -> float:
        """Seconds since the present job began; 0.0 if none is running."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self, timeout: float) -> bool:
        """Fail the waiting jobs, stop the running one at its next step; return whether the thread ended in time."""
        self._close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _close(self) -> None:
        with self._changed:
            self._is_stopping = True
            for queued in self._queue:
                if queued.future.set_running_or_notify_cancel():
                    queued.future.set_exception(Cancelled("the miner is stopping"))
            self._queue.clear()
            self._changed.notify()

    def _stop_if_asked(self, _stage: str, _done: int, _steps: int) -> None:
        if self._is_stopping:
            raise Cancelled("the miner is stopping")

    def _next(self) -> _QueuedJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopping)
            if self._is_stopping:
                return None
            urgencies = [queued.urgency for queued in self._queue]
            return self._queue.pop(most_urgent(urgencies, time.monotonic(), self._expected_seconds))

    def _run(self) -> None:
        try:
            while (queued := self._next()) is not None:
                fatal = self._run_job(queued) if queued.future.set_running_or_notify_cancel() else None
                # Models that only this job still refers to are freed now, not when the next one comes.
                del queued
                if fatal is not None:
                    self._fail(fatal)
                    return
        except BaseException as error:
            self._fail(error)

    def _run_job(self, queued: _QueuedJob) -> Exception | None:
        """Run a job; return its error if no more jobs can be run after it."""
        self._running_since = started = time.monotonic()
        try:
            result = queued.job(self._stop_if_asked)
        except Exception as error:  # every error belongs to whoever waits for this job
            queued.future.set_exception(error)
            return error if is_fatal_cuda_error(error) else None
        except BaseException as error:
            # As itself, it would also end whoever waits.
            queued.future.set_exception(RuntimeError(f"the generator's thread ends: {type(error).__name__}"))
            raise
        else:
            queued.future.set_result(result)
            self._expected_seconds += DURATION_GAIN * (time.monotonic() - started - self._expected_seconds)
            return None
        finally:
            self._running_since = None

    def _fail(self, error: BaseException) -> None:
        self._close()
        self.failure.set_result(error)
