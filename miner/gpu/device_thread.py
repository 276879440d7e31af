"""The one thread that works on a device: candidates as they come, and warm-ups in the moments between."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from miner.gpu.cuda_errors import is_fatal_cuda_error
from pipeline import Cancelled, OnStep

JobResult = TypeVar("JobResult")
# Gets a function to call after each sampler step, which may raise Cancelled.
Job = Callable[[OnStep], JobResult]

# A part of a warm-up waits for a moment without candidates, but no longer than this; then it goes first.
BACKGROUND_DELAY = 30.0
# Seconds after a candidate in which the next one may still be on its way.
IDLE_DELAY = 0.05


class DeviceLost(RuntimeError):  # noqa: N818 - a state of the device
    """A job after which no further one can be run in this process; the message tells its error."""


@dataclass
class _QueuedJob:
    job: Job[Any]
    future: Future[Any]
    due: float = 0.0


class DeviceThread:
    """A daemon thread that runs one job at a time; the futures may be awaited from any event loop."""

    def __init__(self) -> None:
        """Start the thread."""
        self._jobs: deque[_QueuedJob] = deque()
        self._background: deque[_QueuedJob] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._running_since: float | None = None
        self._last_job_ended = float("-inf")
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._thread.start()

    def submit(self, job: Job[JobResult]) -> Future[JobResult]:
        """Queue a candidate, or anything else that is waited for; first come, first served.

        The future fails with the job's exception, with DeviceLost if that ends the thread, or with Cancelled once the
        thread stops.
        """
        return self._queue(self._jobs, _QueuedJob(job, Future()))

    def submit_background(self, job: Job[JobResult]) -> Future[JobResult]:
        """Queue a part of a warm-up, or anything else that can wait; see BACKGROUND_DELAY."""
        return self._queue(self._background, _QueuedJob(job, Future(), time.monotonic() + BACKGROUND_DELAY))

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

    def _queue(self, queue: deque[_QueuedJob], queued: _QueuedJob) -> Future[Any]:
        with self._changed:
            if self._is_stopping:
                queued.future.set_exception(Cancelled("the miner is stopping"))
            else:
                queue.append(queued)
                self._changed.notify()
        return queued.future

    def _close(self) -> None:
        with self._changed:
            self._is_stopping = True
            for queued in (*self._jobs, *self._background):
                if queued.future.set_running_or_notify_cancel():
                    queued.future.set_exception(Cancelled("the miner is stopping"))
            self._jobs.clear()
            self._background.clear()
            self._changed.notify()

    def _stop_if_asked(self, _stage: str, _done: int, _steps: int) -> None:
        if self._is_stopping:
            raise Cancelled("the miner is stopping")

    def _next(self) -> tuple[_QueuedJob, bool] | None:
        """Wait for the next job; return it, and whether it is one of the background. None: the thread is to end."""
        with self._changed:
            while not self._is_stopping:
                now = time.monotonic()
                if self._background and (not self._jobs or self._background[0].due <= now):
                    pause = self._last_job_ended + IDLE_DELAY - now
                    if pause <= 0 or self._background[0].due <= now:
                        return self._background.popleft(), True
                    self._changed.wait(pause)
                elif self._jobs:
                    return self._jobs.popleft(), False
                else:
                    self._changed.wait()
            return None

    def _run(self) -> None:
        try:
            while (found := self._next()) is not None:
                queued, is_background = found
                is_over = not self._run_job(queued)
                if not is_background:
                    self._last_job_ended = time.monotonic()
                # Models that only this job still refers to are freed now, not when the next one comes.
                del queued, found
                if is_over:
                    return
        finally:
            self._close()

    def _run_job(self, queued: _QueuedJob) -> bool:
        """Run a job, unless nobody waits for it any more; return whether others can be run after it."""
        if not queued.future.set_running_or_notify_cancel():
            return True
        self._running_since = time.monotonic()
        try:
            result = queued.job(self._stop_if_asked)
        except Exception as error:  # every error belongs to whoever waits for this job
            if is_fatal_cuda_error(error):
                queued.future.set_exception(DeviceLost(f"{type(error).__name__}: {error}"))
                return False
            queued.future.set_exception(error)
            return True
        except BaseException as error:  # such as SystemExit
            # As itself, it would also end whoever waits.
            queued.future.set_exception(DeviceLost(f"the generator's thread ends: {type(error).__name__}"))
            return False
        else:
            queued.future.set_result(result)
            return True
        finally:
            self._running_since = None
