import math
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from miner.gpu.scheduler import Job, Scheduler, Urgency, most_urgent
from pipeline import Asset, Cancelled, EmptyStructure, OnStep
from tests.support.generated import make_splats
from tests.support.waiting import TIMEOUT


class HeldJobs:
    """Jobs that last until `release` is set."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.started = threading.Event()
        self.release = threading.Event()

    def job(self, seed: int) -> Job[Asset]:
        return lambda on_step: self.run(seed, on_step)

    def run(self, seed: int, on_step: OnStep) -> Asset:
        self.order.append(seed)
        self.started.set()
        while not self.release.wait(0.01):
            on_step("structure", 1, 2)
        if seed < 0:
            raise EmptyStructure("nothing")
        return Asset(make_splats(4), seed, 1, {})


@pytest.fixture
def jobs() -> HeldJobs:
    return HeldJobs()


@pytest.fixture
def scheduler(jobs: HeldJobs) -> Iterator[Scheduler]:
    scheduler = Scheduler()
    yield scheduler
    assert scheduler.stop(TIMEOUT)


def test_higher_priority_first_then_first_come_first_served(scheduler: Scheduler, jobs: HeldJobs) -> None:
    first = scheduler.submit(jobs.job(1), 0.0)
    assert jobs.started.wait(TIMEOUT)
    others = [scheduler.submit(jobs.job(seed), priority) for seed, priority in ((2, 5), (3, 9), (4, 5))]
    assert scheduler.waiting == 3
    jobs.release.set()
    assert [future.result(TIMEOUT).seed for future in (first, *others)] == [1, 2, 3, 4]
    assert jobs.order == [1, 3, 2, 4]


def test_a_failing_job_fails_alone(scheduler: Scheduler, jobs: HeldJobs) -> None:
    jobs.release.set()
    with pytest.raises(EmptyStructure):
        scheduler.submit(jobs.job(-1), 0.0).result(TIMEOUT)
    assert scheduler.submit(jobs.job(5), 0.0).result(TIMEOUT).seed == 5


def test_a_cancelled_job_is_never_begun(scheduler: Scheduler, jobs: HeldJobs) -> None:
    first = scheduler.submit(jobs.job(1), 0.0)
    assert jobs.started.wait(TIMEOUT)
    second, third = scheduler.submit(jobs.job(2), 0.0), scheduler.submit(jobs.job(3), 0.0)
    assert second.cancel()
    assert scheduler.waiting == 1
    jobs.release.set()
    assert (first.result(TIMEOUT).seed, third.result(TIMEOUT).seed) == (1, 3)
    assert jobs.order == [1, 3]
    with pytest.raises(CancelledError):
        second.result(TIMEOUT)


def test_stop_ends_what_runs_and_fails_what_waits(jobs: HeldJobs) -> None:
    scheduler = Scheduler()
    running, waiting = scheduler.submit(jobs.job(1), 0.0), scheduler.submit(jobs.job(2), 0.0)
    assert jobs.started.wait(TIMEOUT)
    assert scheduler.stop(TIMEOUT)
    for future in (running, waiting, scheduler.submit(jobs.job(3), 0.0)):
        with pytest.raises(Cancelled):
            future.result(TIMEOUT)
    assert jobs.order == [1]


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


def test_a_job_that_is_late_runs_all_the_same(scheduler: Scheduler, jobs: HeldJobs) -> None:
    jobs.release.set()
    assert scheduler.submit(jobs.job(3), 0.0, deadline=-1e9).result(TIMEOUT).seed == 3


def broken_device(on_step: OnStep) -> Asset:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def killed_thread(on_step: OnStep) -> Asset:
    raise SystemExit


@pytest.mark.parametrize(("generate", "error"), [(broken_device, RuntimeError), (killed_thread, SystemExit)])
def test_what_ends_the_generator_is_told_and_nothing_waits_for_ever(
    generate: Job[Asset], error: type[BaseException]
) -> None:
    begin = threading.Event()

    def work(on_step: OnStep) -> Asset:
        begin.wait(TIMEOUT)
        return generate(on_step)

    scheduler = Scheduler()
    first, second = scheduler.submit(work, 0.0), scheduler.submit(work, 0.0)
    begin.set()
    with pytest.raises(RuntimeError):
        first.result(TIMEOUT)
    assert isinstance(scheduler.failure.result(TIMEOUT), error)
    for future in (second, scheduler.submit(work, 0.0)):
        with pytest.raises(Cancelled):
            future.result(TIMEOUT)
    assert scheduler.stop(TIMEOUT)


def test_how_long_the_present_job_has_run_is_known(scheduler: Scheduler, jobs: HeldJobs) -> None:
    assert scheduler.running_for == 0.0
    future = scheduler.submit(jobs.job(1), 0.0)
    assert jobs.started.wait(TIMEOUT)
    assert scheduler.running_for > 0.0
    jobs.release.set()
    future.result(TIMEOUT)


def test_a_job_that_is_done_keeps_nothing_alive(scheduler: Scheduler, jobs: HeldJobs) -> None:
    """Networks, say, that no other needs: the thread would hold them until the next job comes."""
    jobs.release.set()

    class Networks:
        def generate(self, on_step: OnStep) -> Asset:
            return jobs.run(1, on_step)

    networks, gone = Networks(), threading.Event()
    weakref.finalize(networks, gone.set)
    future = scheduler.submit(networks.generate, 0.0)
    del networks
    assert future.result(TIMEOUT).seed == 1
    assert gone.wait(TIMEOUT)
