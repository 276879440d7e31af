from __future__ import annotations

import resource
from typing import Any

import pytest

from miner.axon.connections import GRACE, UnauthenticatedConnections, allow_files


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Stranger:
    def __init__(self) -> None:
        self.transport = Transport()


class Door:
    """Three strangers at a time, by a clock of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.strangers = UnauthenticatedConnections(3, rush=12, clock=lambda: self.now)
        self.came: list[Any] = []

    def come(self, count: int) -> None:
        for _ in range(count):
            self.came.append(Stranger())
            self.strangers.add(self.came[-1])

    @property
    def gone(self) -> list[int]:
        return [number for number, stranger in enumerate(self.came) if stranger.transport.aborted]


@pytest.fixture
def door() -> Door:
    return Door()


def test_the_oldest_goes_when_there_are_too_many(door: Door) -> None:
    door.come(3)
    door.now = GRACE
    assert door.gone == []
    door.come(1)
    assert door.gone == [0]
    door.come(2)
    assert door.gone == [0, 1, 2]
    assert len(door.strangers) == 3


def test_whoever_was_admitted_stays(door: Door) -> None:
    door.come(3)
    door.strangers.remove(door.came[0])
    door.strangers.remove(door.came[0])
    door.now = GRACE
    door.come(2)
    assert door.gone == [1]


def test_in_a_rush_newcomers_get_time_for_their_headers(door: Door) -> None:
    door.come(12)
    assert door.gone == []
    door.come(2)
    assert door.gone == [0, 1]
    door.now = GRACE
    door.come(1)
    assert len(door.strangers) == 3
    assert door.came[-1].transport.aborted is False


def test_open_files_are_allowed_up_to_what_the_system_permits() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert allow_files(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        assert allow_files(200) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        if before[1] != resource.RLIM_INFINITY:
            assert allow_files(before[1] + 1) == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
