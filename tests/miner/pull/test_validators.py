"""Validators that restart, move or fall out of favour while they are pulled from, and loops that die or retire."""

from __future__ import annotations

import logging

import pytest
import pytest_asyncio

from miner.localnet.validator import LOOPBACK, LocalValidator, free_port
from miner.pull.state_machine import DENIED_DELAY, Stage
from miner.subnet.metagraph import Neuron, Snapshot
from pipeline import Asset, OnStep, Request
from tests.support.factories import make_asset
from tests.support.pulling import TIMEOUT, Bench, Faulty, Held, make_bench, until

bench = pytest_asyncio.fixture(make_bench)


# Restarts, deaths and moves.


async def test_a_validator_set_back_hands_out_a_closed_task_and_gets_the_same_result(bench: Bench) -> None:
    states = []

    def save(request: Request, on_step: OnStep) -> Asset:
        states.append(bench.validator.rules.save_state())
        return make_asset(request)

    bench.generate = save
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    bench.validator.rules.restore_state(states[0])
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid"), ("a", "valid")]
    first, second = bench.validator.deliveries
    assert first.data == second.data
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "accepted": 2}


async def test_a_loop_that_dies_starts_again_and_keeps_its_cooldown(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception | int | None] = [None, None, RuntimeError("a bug")]
    bench.connect = lambda: Faulty(bench.keypair, faults)
    bench.start_again()
    bench.give("a", "b")
    bench.update()
    first = bench.time.now() + await bench.time.pass_sleep()
    assert await bench.time.pass_sleep() == 1.0  # the supervisor's back-off, after the death
    await bench.time.next_sleep()
    assert bench.time.now() >= first
    assert bench.verdicts == [("a", "valid"), ("b", "valid")]
    assert bench.violations == 0
    assert sum(bench.supervisor.restarts.values()) == 1
    assert "a bug" in caplog.text


async def test_a_validator_that_moves_keeps_its_cooldown(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.give("a", "b")
    bench.update()
    wait = await bench.time.next_sleep()
    moved = LocalValidator(bench.validator_wallet, free_port(), lambda _: True, now=bench.time.wall)
    moved.rules = bench.validator.rules
    await moved.start()
    try:
        bench.neuron = bench.neuron.model_copy(update={"port": moved.port})
        with caplog.at_level(logging.INFO):
            bench.update()
        assert f"at {LOOPBACK}:{moved.port}" in caplog.text
        assert bench.puller.records[bench.neuron.hotkey].state.stage is Stage.WAITING
        assert wait > 299
        bench.time.wake()
        await bench.time.next_sleep()
    finally:
        await moved.stop()
    assert bench.runner.counters["accepted"] == 2
    assert bench.violations == 0


# The policy.


async def test_a_validator_out_of_favour_for_a_while_keeps_its_cooldown(bench: Bench) -> None:
    bench.give("a", "b")
    bench.update()
    await bench.time.next_sleep()
    bench.refused = "on the blacklist"
    bench.update()
    bench.time.passed += 100
    bench.refused = ""
    bench.update()
    assert 198 <= await bench.time.next_sleep() <= 204
    assert bench.violations == 0


async def test_the_policy_is_asked_before_each_pull(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.give("a", "b")
    bench.update()
    await bench.time.next_sleep()
    bench.refused = "on the blacklist"
    bench.time.wake()
    assert [round(await bench.time.pass_sleep()) for _ in range(3)] == [DENIED_DELAY] * 3
    assert bench.runner.counters["pulled"] == 1
    assert caplog.text.count("on the blacklist") == 1
    bench.refused = ""
    await bench.time.pass_sleep()
    await until(lambda: bench.runner.counters["accepted"] == 2)


async def test_a_result_is_withheld_from_a_validator_blacklisted_meanwhile(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def blacklist(request: Request, on_step: OnStep) -> Asset:
        bench.refused = "on the blacklist"
        return make_asset(request)

    bench.generate = blacklist
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.verdicts == []
    assert "Task a: result withheld from validator 0" in caplog.text
    bench.refused = ""
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    assert bench.runner.counters["generated"] == 1


async def test_a_loop_retired_with_a_task_in_hand_ends_after_the_task(bench: Bench) -> None:
    held = bench.generate = Held()
    bench.give("a", "b")
    bench.update()
    await held.begins()
    bench.neuron = bench.neuron.model_copy(update={"port": 0})
    bench.update()
    bench.puller.records[bench.validator.hotkey].neuron = bench.neuron.model_copy(update={"port": bench.validator.port})
    held.release.set()
    await until(lambda: bench.runner.counters["accepted"] == 1)
    await bench.puller.stop(TIMEOUT)
    assert bench.verdicts == [("a", "valid")]


async def test_only_serving_validators_other_than_ourselves_are_pulled_from(bench: Bench) -> None:
    silent = bench.neuron.model_copy(update={"port": 0})
    own = Neuron(uid=1, hotkey=bench.keypair.ss58_address, coldkey="c", stake=5000, ip=LOOPBACK, port=1)
    bench.puller.update(Snapshot(17, 1, (silent, own)))
    assert bench.puller.records == {}
