import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from miner.errors import ChainError, ExitCode, HotkeyNotRegistered, OperatorError
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.metagraph_sync import MetagraphSync
from tests.support.factories import ManualClock

INTERVAL = 300.0
US = Neuron(uid=1, hotkey="us", coldkey="c", ip="5.5.5.5", port=8091)
OTHER = Neuron(uid=0, hotkey="other", coldkey="c")


def seen(block: int = 1, *neurons: Neuron) -> Snapshot:
    return Snapshot(17, block, neurons or (OTHER, US))


class ScriptedChain:
    """Answers from a script; the last one again and again."""

    def __init__(self, *answers: Snapshot | Exception | Callable[[], Snapshot]) -> None:
        self.answers = list(answers)
        self.announced: list[tuple[str, int]] = []
        self.refuse_announcing = False
        self.threads: set[str] = set()

    def snapshot(self) -> Snapshot:
        self.threads.add(threading.current_thread().name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def announce(self, axon: Any) -> None:
        if self.refuse_announcing:
            raise ChainError("the axon could not be announced: too soon")
        self.announced.append((axon.external_ip, axon.external_port))


async def open_sync(*chains: ScriptedChain, time: ManualClock, call_timeout: float = 20.0) -> MetagraphSync:
    order = list(chains)
    return await MetagraphSync.open(lambda: order.pop(0), "us", INTERVAL, time.clock, call_timeout)


def axon_at(external_ip: str) -> Any:
    return SimpleNamespace(external_ip=external_ip, external_port=8091)


async def test_snapshots_are_refreshed_off_the_event_loop_and_passed_on() -> None:
    time, chain = ManualClock(), ScriptedChain(seen(1), seen(2), seen(3))
    sync = await open_sync(chain, time=time)
    passed: list[int] = []
    running = asyncio.create_task(sync.run(None, lambda snapshot: passed.append(snapshot.block)))
    assert [await time.pass_sleep() for _ in range(3)] == [INTERVAL] * 3
    await time.next_sleep()
    assert passed[:2] == [2, 3]
    assert (sync.snapshot.block, chain.threads) == (3, {"chain"})
    assert sync.age < 1
    running.cancel()


async def test_uids_are_those_of_the_last_snapshot() -> None:
    sync = await open_sync(ScriptedChain(seen(1)), time=ManualClock())
    assert (sync.uid_of("us"), sync.uid_of("other"), sync.uid_of("nobody")) == (1, 0, None)


async def test_while_the_chain_is_down_the_last_snapshot_stays_with_its_age(caplog: pytest.LogCaptureFixture) -> None:
    time = ManualClock()
    down = [ChainError("down") if number % 2 else OperatorError("damaged") for number in range(7)]
    sync = await open_sync(ScriptedChain(seen(1), *down, seen(2)), time=time)
    running = asyncio.create_task(sync.run(None, lambda _: None))
    assert await time.pass_sleep() == INTERVAL
    assert [await time.pass_sleep() for _ in range(6)] == [15, 30, 60, 120, 240, 300]
    await time.next_sleep()
    assert sync.snapshot.block == 1
    assert sync.age == pytest.approx(INTERVAL + 765, abs=5)
    assert "the last one stays in use (block 1, 300 s old): damaged" in caplog.text
    time.wake()
    assert await time.next_sleep() == INTERVAL
    assert (sync.snapshot.block, round(sync.age)) == (2, 0)
    running.cancel()


async def test_deregistration_is_seen_twice_before_it_is_believed() -> None:
    gone = seen(9, OTHER)
    sync = await open_sync(ScriptedChain(seen(1), gone, seen(3), gone), time=ManualClock())
    assert await sync.refresh()
    assert sync.snapshot.block == 3
    with pytest.raises(HotkeyNotRegistered) as caught:
        await sync.refresh()
    assert caught.value.exit_code is ExitCode.NOT_REGISTERED


async def test_a_failure_at_the_second_look_proves_nothing() -> None:
    sync = await open_sync(ScriptedChain(seen(1), seen(9, OTHER), ChainError("down")), time=ManualClock())
    assert not await sync.refresh()
    assert sync.snapshot.block == 1


async def test_a_call_that_hangs_is_left_behind_with_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang() -> Snapshot:
        release.wait(20)
        return seen(99)

    sync = await open_sync(ScriptedChain(seen(1), hang), ScriptedChain(seen(2)), time=ManualClock(), call_timeout=0.05)
    assert not await sync.refresh()
    assert "did not answer within" in caplog.text
    assert await sync.refresh()
    release.set()
    assert sync.snapshot.block == 2


async def test_the_first_look_fails_loudly() -> None:
    with pytest.raises(ChainError, match="down"):
        await open_sync(ScriptedChain(ChainError("down")), time=ManualClock())


async def announcements(chain: ScriptedChain, rounds: int, external_ip: str = "6.6.6.6") -> list[tuple[str, int]]:
    time = ManualClock()
    sync = await open_sync(chain, time=time)
    running = asyncio.create_task(sync.run(axon_at(external_ip), lambda _: None))
    for _ in range(rounds):
        await time.pass_sleep()
    await time.next_sleep()
    running.cancel()
    return chain.announced


async def test_the_axon_is_announced_once() -> None:
    """Even while the chain goes on to show the old address."""
    assert await announcements(ScriptedChain(seen()), rounds=3) == [("6.6.6.6", 8091)]


async def test_an_address_that_the_chain_has_already_is_not_announced() -> None:
    assert await announcements(ScriptedChain(seen()), rounds=2, external_ip="5.5.5.5") == []


async def test_an_announcement_that_failed_is_tried_again() -> None:
    time, chain = ManualClock(), ScriptedChain(seen())
    sync = await open_sync(chain, time=time)
    axon = axon_at("6.6.6.6")
    chain.refuse_announcing = True
    running = asyncio.create_task(sync.run(axon, lambda _: None))
    await time.next_sleep()
    chain.refuse_announcing = False
    time.wake()
    await time.next_sleep()
    assert chain.announced == [("6.6.6.6", 8091)]
    axon.external_ip = "7.7.7.7"
    time.wake()
    await time.next_sleep()
    assert chain.announced == [("6.6.6.6", 8091), ("7.7.7.7", 8091)]
    running.cancel()
