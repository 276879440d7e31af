import asyncio

import pytest

from miner.errors import HotkeyNotRegistered, MinerError
from miner.runtime.supervisor import LAST_RESTART_DELAY, MAX_FAILURES, STABLE_AFTER, Supervisor
from tests.support.factories import ManualClock

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


async def test_a_task_that_fails_is_restarted_with_back_off_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    time = ManualClock()
    supervisor, fragile = Supervisor(time.clock), Fragile(ValueError("first"), KeyError("second"))
    supervisor.start("a task", fragile.run)
    assert [await time.pass_sleep(), await time.pass_sleep()] == [1.0, 2.0]
    await asyncio.wait_for(fragile.settled.wait(), TIMEOUT)
    assert (fragile.runs, supervisor.restarts) == (3, {"a task": 2})
    assert "a task failed (2 in a row) and is restarted in 2 s" in caplog.text
    assert "ValueError: first" in caplog.text
    await supervisor.stop()


async def test_a_cancellation_from_inside_is_a_failure_too() -> None:
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


async def pass_failures(time: ManualClock, count: int) -> None:
    for _ in range(count):
        await time.pass_sleep()


async def test_a_task_that_keeps_failing_ends_the_miner() -> None:
    time = ManualClock()
    supervisor = Supervisor(time.clock)
    supervisor.start("the chain", Fragile(*[ValueError()] * 100).run)
    await pass_failures(time, MAX_FAILURES - 1)
    failed = asyncio.ensure_future(supervisor.wait_for_failure())
    await time.next_sleep()
    error = await asyncio.wait_for(failed, TIMEOUT)
    assert error.exit_code == 1
    assert "the chain failed 8 times in a row" in str(error)
    await supervisor.stop()


async def test_failures_with_long_runs_between_them_are_not_in_a_row() -> None:
    time = ManualClock()
    supervisor = Supervisor(time.clock)

    async def long_lived() -> None:
        time.passed += STABLE_AFTER
        raise ValueError

    supervisor.start("a task", long_lived)
    for _ in range(MAX_FAILURES + 1):
        assert await time.pass_sleep() == 1.0
    assert supervisor.restarts["a task"] >= MAX_FAILURES
    await supervisor.stop()


async def test_a_task_that_is_not_vital_is_restarted_for_ever() -> None:
    """A validator that provokes a bug does not end the miner; only its own session waits long."""
    time = ManualClock()
    supervisor = Supervisor(time.clock)
    failed = asyncio.ensure_future(supervisor.wait_for_failure())
    supervisor.start("one", Fragile(*[ValueError()] * 100).run, vital=False)
    delays = [await time.pass_sleep() for _ in range(MAX_FAILURES + 3)]
    assert not failed.done()
    assert delays[-1] == LAST_RESTART_DELAY
    failed.cancel()
    await supervisor.stop()


@pytest.mark.parametrize("error", [HotkeyNotRegistered("gone"), MinerError("over")])
async def test_an_error_that_says_how_to_end_is_final(error: MinerError) -> None:
    supervisor, fragile = Supervisor(), Fragile(error)
    supervisor.start("a task", fragile.run)
    assert await asyncio.wait_for(supervisor.wait_for_failure(), TIMEOUT) is error
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
