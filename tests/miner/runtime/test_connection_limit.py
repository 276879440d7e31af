from typing import Any

import pytest

from miner.runtime.connection_limit import HEADER_GRACE, ConnectionLimit


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
        self.unauthenticated = ConnectionLimit(3, burst_limit=12, clock=lambda: self.now)
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
