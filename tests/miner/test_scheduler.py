from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from miner.scheduler import Scheduler
from pipeline import Asset, Cancelled, EmptyStructure, ImagePrompt, OnStep, Request, SamplerParams
from tests.miner.conftest import make_asset

WAIT = 10.0


def request_of(seed: int) -> Request:
    params = SamplerParams(steps=1, cfg_strength=0.0)
    return Request(ImagePrompt(Image.new("RGB", (2, 2)), "digest"), seed, params, params)


class Gate:
    """A generator that holds each job until it is let through."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.started = threading.Event()
        self.open = threading.Event()

    def __call__(self, request: Request, on_step: OnStep) -> Asset:
        self.order.append(request.seed)
        self.started.set()
        while not self.open.wait(0.01):
            on_step("structure", 1, 2)
        if request.seed < 0:
            raise EmptyStructure("nothing")
        return make_asset(request, 4)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def scheduler(gate: Gate) -> Iterator[Scheduler]:
    scheduler = Scheduler(gate)
    scheduler.start()
    yield scheduler
    assert scheduler.stop(WAIT)


def test_higher_priority_first_then_first_come_first_served(scheduler: Scheduler, gate: Gate) -> None:
    first = scheduler.submit(request_of(1), 0.0)
    assert gate.started.wait(WAIT)
    others = [scheduler.submit(request_of(seed), priority) for seed, priority in ((2, 5), (3, 9), (4, 5))]
    assert scheduler.waiting == 3
    gate.open.set()
    assert [future.result(WAIT).seed for future in (first, *others)] == [1, 2, 3, 4]
    assert gate.order == [1, 3, 2, 4]


def test_a_failing_job_fails_alone(scheduler: Scheduler, gate: Gate) -> None:
    gate.open.set()
    with pytest.raises(EmptyStructure):
        scheduler.submit(request_of(-1), 0.0).result(WAIT)
    assert scheduler.submit(request_of(5), 0.0).result(WAIT).seed == 5


def test_a_cancelled_job_is_never_begun(scheduler: Scheduler, gate: Gate) -> None:
    first = scheduler.submit(request_of(1), 0.0)
    assert gate.started.wait(WAIT)
    second, third = scheduler.submit(request_of(2), 0.0), scheduler.submit(request_of(3), 0.0)
    assert second.cancel()
    assert scheduler.waiting == 1
    gate.open.set()
    assert (first.result(WAIT).seed, third.result(WAIT).seed) == (1, 3)
    assert gate.order == [1, 3]
    with pytest.raises(CancelledError):
        second.result(WAIT)


def test_stop_ends_what_runs_and_fails_what_waits(gate: Gate) -> None:
    scheduler = Scheduler(gate)
    scheduler.start()
    running, waiting = scheduler.submit(request_of(1), 0.0), scheduler.submit(request_of(2), 0.0)
    assert gate.started.wait(WAIT)
    assert scheduler.stop(WAIT)
    for future in (running, waiting, scheduler.submit(request_of(3), 0.0)):
        with pytest.raises(Cancelled):
            future.result(WAIT)
    assert gate.order == [1]
