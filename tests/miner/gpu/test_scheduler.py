from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from miner.gpu.scheduler import Scheduler, Urgency, Work, most_urgent
from pipeline import Asset, Cancelled, EmptyStructure, ImagePrompt, OnStep, Request, SamplerParams
from tests.support.factories import make_asset

WAIT = 10.0


def request_of(seed: int) -> Request:
    params = SamplerParams(steps=1, cfg_strength=0.0)
    return Request(ImagePrompt(Image.new("RGB", (2, 2)), "digest"), seed, params, params)


class AuthMiddleware:
    """A generator that holds each job until it is let through."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.started = threading.Event()
        self.open = threading.Event()

    def job(self, seed: int) -> Work:
        return lambda on_step: self.run(request_of(seed), on_step)

    def run(self, request: Request, on_step: OnStep) -> Asset:
        self.order.append(request.seed)
        self.started.set()
        while not self.open.wait(0.01):
            on_step("structure", 1, 2)
        if request.seed < 0:
            raise EmptyStructure("nothing")
        return make_asset(request, 4)


@pytest.fixture
def gate() -> AuthMiddleware:
    return AuthMiddleware()


@pytest.fixture
def scheduler(gate: AuthMiddleware) -> Iterator[Scheduler]:
    scheduler = Scheduler()
    scheduler.start()
    yield scheduler
    assert scheduler.stop(WAIT)


def test_higher_priority_first_then_first_come_first_served(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    first = scheduler.submit(gate.job(1), 0.0)
    assert gate.started.wait(WAIT)
    others = [scheduler.submit(gate.job(seed), priority) for seed, priority in ((2, 5), (3, 9), (4, 5))]
    assert scheduler.waiting == 3
    gate.open.set()
    assert [future.result(WAIT).seed for future in (first, *others)] == [1, 2, 3, 4]
    assert gate.order == [1, 3, 2, 4]


def test_a_failing_job_fails_alone(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    gate.open.set()
    with pytest.raises(EmptyStructure):
        scheduler.submit(gate.job(-1), 0.0).result(WAIT)
    assert scheduler.submit(gate.job(5), 0.0).result(WAIT).seed == 5


def test_a_cancelled_job_is_never_begun(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    first = scheduler.submit(gate.job(1), 0.0)
    assert gate.started.wait(WAIT)
    second, third = scheduler.submit(gate.job(2), 0.0), scheduler.submit(gate.job(3), 0.0)
    assert second.cancel()
    assert scheduler.waiting == 1
    gate.open.set()
    assert (first.result(WAIT).seed, third.result(WAIT).seed) == (1, 3)
    assert gate.order == [1, 3]
    with pytest.raises(CancelledError):
        second.result(WAIT)


def test_stop_ends_what_runs_and_fails_what_waits(gate: AuthMiddleware) -> None:
    scheduler = Scheduler()
    scheduler.start()
    running, waiting = scheduler.submit(gate.job(1), 0.0), scheduler.submit(gate.job(2), 0.0)
    assert gate.started.wait(WAIT)
    assert scheduler.stop(WAIT)
    for future in (running, waiting, scheduler.submit(gate.job(3), 0.0)):
        with pytest.raises(Cancelled):
            future.result(WAIT)
    assert gate.order == [1]


@pytest.mark.parametrize(
    ("waiting", "turn"),
    [
        # All can be kept: the earliest deadline first, whoever it is for.
        ([(60, 9), (12, 1), (30, 5)], 1),
        ([(math.inf, 9), (60, 1)], 1),
        # Not all can be kept, or none: who matters more.
        ([(11, 1), (11, 5)], 1),
        ([(-500, 1), (-10, 5)], 1),
        ([(12, 2), (-500, 1)], 0),
        # One that is late anyway does not push aside what has just time enough, unless it matters more.
        ([(-500, 1), (15, 5)], 1),
        ([(-500, 9), (15, 5)], 0),
        # One with time enough lets the late one go first, however much it matters.
        ([(25, 9), (-500, 1)], 1),
        # Equals in order of arrival.
        ([(math.inf, 0), (math.inf, 0)], 0),
        ([(math.inf, 0), (math.inf, 3)], 1),
    ],
)
def test_turns(waiting: list[tuple[float, float]], turn: int) -> None:
    """Each takes ten seconds, from now, which is 0; (deadline, priority)."""
    assert most_urgent([Urgency(*job) for job in waiting], now=0.0, duration=10.0) == turn


def test_deadlines_that_can_be_kept_are_kept() -> None:
    """In whatever order they arrive, and whatever they matter."""
    jobs = [Urgency(10.0 * place + 1, priority) for place, priority in ((3, 9.0), (1, 1.0), (4, 2.0), (2, 5.0))]
    now, missed = 0.0, 0
    while jobs:
        job = jobs.pop(most_urgent(jobs, now, 10.0))
        now += 10.0
        missed += now > job.deadline
    assert missed == 0


def test_a_job_that_is_late_runs_all_the_same(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    gate.open.set()
    assert scheduler.submit(gate.job(3), 0.0, deadline=-1e9).result(WAIT).seed == 3


def broken_device(on_step: OnStep) -> Asset:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def killed_thread(on_step: OnStep) -> Asset:
    raise SystemExit


@pytest.mark.parametrize(("generate", "error"), [(broken_device, RuntimeError), (killed_thread, SystemExit)])
def test_what_ends_the_generator_is_told_and_nothing_waits_for_ever(generate: Work, error: type[BaseException]) -> None:
    begin = threading.Event()

    def work(on_step: OnStep) -> Asset:
        begin.wait(WAIT)
        return generate(on_step)

    scheduler = Scheduler()
    scheduler.start()
    first, second = scheduler.submit(work, 0.0), scheduler.submit(work, 0.0)
    begin.set()
    with pytest.raises(RuntimeError):
        first.result(WAIT)
    assert isinstance(scheduler.failure.result(WAIT), error)
    for future in (second, scheduler.submit(work, 0.0)):
        with pytest.raises(Cancelled):
            future.result(WAIT)
    assert scheduler.stop(WAIT)


def test_how_long_the_present_job_has_run_is_known(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    assert scheduler.running_for == 0.0
    future = scheduler.submit(gate.job(1), 0.0)
    assert gate.started.wait(WAIT)
    assert scheduler.running_for > 0.0
    gate.open.set()
    future.result(WAIT)


def test_a_job_that_is_done_keeps_nothing_alive(scheduler: Scheduler, gate: AuthMiddleware) -> None:
    """Networks, say, that no other needs: the thread would hold them until the next job comes."""
    gate.open.set()

    class Networks:
        def generate(self, on_step: OnStep) -> Asset:
            return gate.run(request_of(1), on_step)

    networks, gone = Networks(), threading.Event()
    weakref.finalize(networks, gone.set)
    future = scheduler.submit(networks.generate, 0.0)
    del networks
    assert future.result(WAIT).seed == 1
    assert gone.wait(WAIT)
