from __future__ import annotations

import asyncio

import pytest

from miner.errors import Deregistered, MinerError
from miner.runtime.supervisor import HOPELESS, STABLE_AFTER, Supervisor, restart_delay
from tests.miner.conftest import ManualClock

TIMEOUT = 20.0


class Fragile:
    """Dies with the given errors, one a run; then waits for ever."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0
        self.settled = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        self.settled.set()
        await asyncio.Event().wait()


async def test_what_dies_starts_again_with_back_off_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    time = ManualClock()
    supervisor, fragile = Supervisor(time.clock), Fragile(ValueError("first"), KeyError("second"))
    supervisor.start("a task", fragile.run)
    assert [await time.pass_sleep(), await time.pass_sleep()] == [1.0, 2.0]
    await asyncio.wait_for(fragile.settled.wait(), TIMEOUT)
    assert (fragile.runs, supervisor.restarts) == (3, {"a task": 2})
    assert "a task died (2 in a row) and starts again in 2 s" in caplog.text
    assert "ValueError: first" in caplog.text
    await supervisor.stop()


async def test_a_cancellation_from_inside_is_a_death_too() -> None:
    time = ManualClock()
    supervisor, fragile = Supervisor(time.clock), Fragile(asyncio.CancelledError())
    supervisor.start("a task", fragile.run)
    await time.pass_sleep()
    await asyncio.wait_for(fragile.settled.wait(), TIMEOUT)
    await supervisor.stop()


async def test_what_returns_is_done() -> None:
    runs = []

    async def once() -> None:
        runs.append(1)

    supervisor = Supervisor()
    supervisor.start("a task", once)
    await supervisor.finish(["a task"], TIMEOUT)
    assert (runs, supervisor.restarts) == ([1], {})


def test_back_off_doubles_up_to_five_minutes() -> None:
    assert [restart_delay(n) for n in (1, 2, 3, 8, 9, 10, 1000)] == [1, 2, 4, 128, 256, 300, 300]


async def die_until_hopeless(time: ManualClock, deaths: int) -> None:
    for _ in range(deaths):
        await time.pass_sleep()


async def test_a_task_that_keeps_dying_ends_the_miner() -> None:
    time = ManualClock()
    supervisor = Supervisor(time.clock)
    supervisor.start("the chain", Fragile(*[ValueError()] * 100).run)
    await die_until_hopeless(time, HOPELESS - 1)
    failed = asyncio.ensure_future(supervisor.failed())
    await time.next_sleep()
    error = await asyncio.wait_for(failed, TIMEOUT)
    assert error.exit_code == 1
    assert "the chain died 8 times in a row" in str(error)
    await supervisor.stop()


async def test_deaths_with_long_life_between_them_are_not_in_a_row() -> None:
    time = ManualClock()
    supervisor = Supervisor(time.clock)

    async def long_lived() -> None:
        time.passed += STABLE_AFTER
        raise ValueError

    supervisor.start("a task", long_lived)
    for _ in range(HOPELESS + 1):
        assert await time.pass_sleep() == 1.0
    assert supervisor.restarts["a task"] >= HOPELESS
    await supervisor.stop()


async def test_a_group_fails_only_as_a_whole() -> None:
    """One validator that provokes a bug does not end the miner; all of them do."""
    time = ManualClock()
    supervisor, healthy = Supervisor(time.clock), Fragile()
    failed = asyncio.ensure_future(supervisor.failed())
    supervisor.start("one", Fragile(*[ValueError()] * 100).run, group="pulling")
    supervisor.start("two", healthy.run, group="pulling")
    await die_until_hopeless(time, HOPELESS + 3)
    assert not failed.done()
    await supervisor.stop("two")
    await die_until_hopeless(time, 1)
    await time.next_sleep()
    assert "pulling died" in str(await asyncio.wait_for(failed, TIMEOUT))
    await supervisor.stop()


@pytest.mark.parametrize("error", [Deregistered("gone"), MinerError("over")])
async def test_an_error_that_says_how_to_end_is_final(error: MinerError) -> None:
    supervisor, fragile = Supervisor(), Fragile(error)
    supervisor.start("a task", fragile.run)
    assert await asyncio.wait_for(supervisor.failed(), TIMEOUT) is error
    assert fragile.runs == 1
    await supervisor.stop()


async def test_stopping_waits_for_the_end() -> None:
    ended = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    supervisor = Supervisor()
    supervisor.start("a task", tidy)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert ended == [1]


async def test_what_fails_while_it_is_stopped_does_not_start_again() -> None:
    runs = []

    async def untidy() -> None:
        runs.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the connection cannot be closed")

    supervisor = Supervisor()
    supervisor.start("a task", untidy)
    await asyncio.sleep(0)
    await asyncio.wait_for(supervisor.stop(), TIMEOUT)
    assert (runs, supervisor.restarts) == ([1], {})
