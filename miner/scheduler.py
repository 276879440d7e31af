"""The one owner of the generator: jobs in order of priority, one at a time, on a thread of its own."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline import Asset, Cancelled, OnStep, Request

Generate = Callable[[Request, OnStep], Asset]


@dataclass(order=True)
class _Job:
    # Higher priority first, then first come, first served.
    rank: tuple[float, int]
    request: Request = field(compare=False)
    future: Future[Asset] = field(compare=False)


class Scheduler:
    """Runs jobs on a daemon thread; the futures may be awaited from any event loop."""

    def __init__(self, generate: Generate) -> None:
        """`generate` takes a request and a function that it calls after each step and that may raise Cancelled."""
        self._generate = generate
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, request: Request, priority: float) -> Future[Asset]:
        """Queue a request; higher priority goes first. Cancelling the future drops a job that has not begun.

        The future fails with what generation raised, or with Cancelled once the scheduler stops.
        """
        future: Future[Asset] = Future()
        with self._changed:
            if self._stopping:
                future.set_exception(Cancelled("the miner is stopping"))
                return future
            heapq.heappush(self._jobs, _Job((-priority, next(self._numbers)), request, future))
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    def stop(self, timeout: float) -> bool:
        """Fail what waits, stop what runs at its next step; whether the thread ended within `timeout` seconds."""
        with self._changed:
            self._stopping = True
            for job in self._jobs:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(Cancelled("the miner is stopping"))
            self._jobs.clear()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _stop_if_asked(self, _stage: str, _done: int, _steps: int) -> None:
        if self._stopping:
            raise Cancelled("the miner is stopping")

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            return None if self._stopping else heapq.heappop(self._jobs)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                asset = self._generate(job.request, self._stop_if_asked)
            except Exception as error:  # whatever happened belongs to whoever waits for this job
                job.future.set_exception(error)
            else:
                job.future.set_result(asset)
