import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from miner.gpu.device_thread import DeviceLost, DeviceThread, Job
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
def thread(jobs: HeldJobs) -> Iterator[DeviceThread]:
    thread = DeviceThread()
    yield thread
    assert thread.stop(TIMEOUT)


def test_first_come_first_served_and_what_can_wait_last(thread: DeviceThread, jobs: HeldJobs) -> None:
    first = thread.submit(jobs.job(1))
    assert jobs.started.wait(TIMEOUT)
    later: list[Future[Asset]] = [thread.submit_background(jobs.job(2)), thread.submit(jobs.job(3))]
    later.append(thread.submit(jobs.job(4)))
    jobs.release.set()
    assert [future.result(TIMEOUT).seed for future in (first, *later)] == [1, 2, 3, 4]
    assert jobs.order == [1, 3, 4, 2]


def test_what_can_wait_goes_first_once_it_has_waited_long_enough(
    thread: DeviceThread, jobs: HeldJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miner.gpu.device_thread.BACKGROUND_DELAY", 0.0)
    thread.submit(jobs.job(1))
    assert jobs.started.wait(TIMEOUT)
    last = thread.submit(jobs.job(2))
    thread.submit_background(jobs.job(3))
    jobs.release.set()
    last.result(TIMEOUT)
    assert jobs.order == [1, 3, 2]


def test_a_failing_job_fails_alone(thread: DeviceThread, jobs: HeldJobs) -> None:
    jobs.release.set()
    with pytest.raises(EmptyStructure):
        thread.submit(jobs.job(-1)).result(TIMEOUT)
    assert thread.submit(jobs.job(5)).result(TIMEOUT).seed == 5


def test_stop_ends_what_runs_and_fails_what_waits(jobs: HeldJobs) -> None:
    thread = DeviceThread()
    running, waiting, background = thread.submit(jobs.job(1)), thread.submit(jobs.job(2)), jobs.job(3)
    parts = [running, waiting, thread.submit_background(background)]
    assert jobs.started.wait(TIMEOUT)
    assert thread.stop(TIMEOUT)
    for future in (*parts, thread.submit(jobs.job(4)), thread.submit_background(background)):
        with pytest.raises(Cancelled):
            future.result(TIMEOUT)
    assert jobs.order == [1]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_whoever_gives_up_waiting_disturbs_nothing(jobs: HeldJobs, is_stopped: bool) -> None:
    """As the page does when it is closed while pictures are drawn for it."""
    thread = DeviceThread()
    running = thread.submit(jobs.job(1))
    assert jobs.started.wait(TIMEOUT)
    waiting, background = thread.submit(jobs.job(2)), thread.submit_background(jobs.job(3))
    assert not running.cancel()
    assert waiting.cancel()
    assert background.cancel()
    if not is_stopped:
        last = thread.submit(jobs.job(4))
        jobs.release.set()
        assert last.result(TIMEOUT).seed == 4
    assert thread.stop(TIMEOUT)
    assert jobs.order == ([1] if is_stopped else [1, 4])


def broken_device(on_step: OnStep) -> Asset:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def killed_thread(on_step: OnStep) -> Asset:
    raise SystemExit


@pytest.mark.parametrize(("generate", "error"), [(broken_device, "RuntimeError: CUDA"), (killed_thread, "SystemExit")])
def test_what_ends_the_thread_is_told_and_nothing_waits_for_ever(generate: Job[Asset], error: str) -> None:
    begin = threading.Event()

    def work(on_step: OnStep) -> Asset:
        begin.wait(TIMEOUT)
        return generate(on_step)

    thread = DeviceThread()
    first, second = thread.submit(work), thread.submit(work)
    begin.set()
    with pytest.raises(DeviceLost, match=error):
        first.result(TIMEOUT)
    for future in (second, thread.submit(work)):
        with pytest.raises(Cancelled):
            future.result(TIMEOUT)
    assert thread.stop(TIMEOUT)


def test_how_long_the_present_job_has_run_is_known(thread: DeviceThread, jobs: HeldJobs) -> None:
    assert thread.running_for == 0.0
    future = thread.submit(jobs.job(1))
    assert jobs.started.wait(TIMEOUT)
    assert thread.running_for > 0.0
    jobs.release.set()
    future.result(TIMEOUT)


def test_a_job_that_is_done_keeps_nothing_alive(thread: DeviceThread, jobs: HeldJobs) -> None:
    """Networks, say, that no other needs: the thread would hold them until the next job comes."""
    jobs.release.set()

    class Networks:
        def generate(self, on_step: OnStep) -> Asset:
            return jobs.run(1, on_step)

    networks, gone = Networks(), threading.Event()
    weakref.finalize(networks, gone.set)
    future = thread.submit(networks.generate)
    del networks
    assert future.result(TIMEOUT).seed == 1
    assert gone.wait(TIMEOUT)
