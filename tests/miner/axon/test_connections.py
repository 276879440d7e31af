import resource
from typing import Any

import pytest

from miner.axon.connections import HEADER_GRACE, UnauthenticatedConnections, raise_file_limit


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class FakeConnection:
    def __init__(self) -> None:
        self.transport = Transport()


class Limits:
    """At most three unauthenticated connections, by a clock of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.unauthenticated = UnauthenticatedConnections(3, burst_limit=12, clock=lambda: self.now)
        self.came: list[Any] = []

    def come(self, count: int) -> None:
        for _ in range(count):
            self.came.append(FakeConnection())
            self.unauthenticated.add(self.came[-1])

    @property
    def gone(self) -> list[int]:
        return [number for number, connection in enumerate(self.came) if connection.transport.aborted]


@pytest.fixture
def limits() -> Limits:
    return Limits()


def test_the_oldest_goes_when_there_are_too_many(limits: Limits) -> None:
    limits.come(3)
    limits.now = HEADER_GRACE
    assert limits.gone == []
    limits.come(1)
    assert limits.gone == [0]
    limits.come(2)
    assert limits.gone == [0, 1, 2]
    assert len(limits.unauthenticated) == 3


def test_whoever_was_admitted_stays(limits: Limits) -> None:
    limits.come(3)
    limits.unauthenticated.remove(limits.came[0])
    limits.unauthenticated.remove(limits.came[0])
    limits.now = HEADER_GRACE
    limits.come(2)
    assert limits.gone == [1]


def test_in_a_burst_newcomers_get_time_for_their_headers(limits: Limits) -> None:
    limits.come(12)
    assert limits.gone == []
    limits.come(2)
    assert limits.gone == [0, 1]
    limits.now = HEADER_GRACE
    limits.come(1)
    assert len(limits.unauthenticated) == 3
    assert limits.came[-1].transport.aborted is False


def test_open_files_are_allowed_up_to_what_the_system_permits() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_file_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        assert raise_file_limit(200) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
        if before[1] != resource.RLIM_INFINITY:
            assert raise_file_limit(before[1] + 1) == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
