"""Validators that restart, move or fall out of favour while they are pulled from, and loops that die or retire."""

import logging

import pytest

from miner.localnet.validator import LOOPBACK, LocalValidator, free_port
from miner.pull.state_machine import DENIED_DELAY
from miner.pull.store import Cooldown, EarlierTask
from miner.pull.validator_state import USUAL_COOLDOWN, Stage
from miner.subnet.metagraph import Neuron, Snapshot
from pipeline import Asset, OnStep, Request
from tests.support.addresses import address
from tests.support.generated import make_asset
from tests.support.miner_parts import HeldGeneration
from tests.support.pulling import FaultyDendrite, PullingMiner
from tests.support.waiting import TIMEOUT, until

# Restarts, deaths and moves.


async def test_a_validator_set_back_hands_out_a_closed_task_and_gets_the_same_result(miner: PullingMiner) -> None:
    states = []

    def save(request: Request, on_step: OnStep) -> Asset:
        states.append(miner.rules.save_state())
        return make_asset(request)

    miner.generate = save
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    miner.rules.restore_state(states[0])
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid"), ("a", "valid")]
    first, second = miner.validator.deliveries
    assert first.data == second.data
    assert miner.runner.counters == {"pulled": 1, "generated": 1, "accepted": 2}


async def test_a_loop_that_dies_starts_again_and_keeps_its_cooldown(
    miner: PullingMiner, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception | int | None] = [None, None, RuntimeError("a bug")]
    miner.connect = lambda: FaultyDendrite(miner.keypair, faults)
    miner.start_again()
    miner.give("a", "b")
    miner.update()
    first = miner.time.now() + await miner.time.pass_sleep()
    assert await miner.time.pass_sleep() == 1.0  # the supervisor's back-off, after the death
    await miner.time.next_sleep()
    assert miner.time.now() >= first
    assert miner.verdicts == [("a", "valid"), ("b", "valid")]
    assert miner.violations == 0
    assert sum(miner.supervisor.restarts.values()) == 1
    assert "a bug" in caplog.text


async def test_a_validator_that_moves_keeps_its_cooldown(miner: PullingMiner, caplog: pytest.LogCaptureFixture) -> None:
    miner.give("a", "b")
    miner.update()
    wait = await miner.time.next_sleep()
    moved = LocalValidator(miner.validator_wallet, free_port(), lambda _: True, now=miner.time.wall)
    moved.rules = miner.rules
    await moved.start()
    try:
        miner.neuron = miner.neuron.model_copy(update={"port": moved.port})
        with caplog.at_level(logging.INFO):
            miner.update()
        assert f"at {LOOPBACK}:{moved.port}" in caplog.text
        assert miner.puller.records[miner.neuron.hotkey].state.stage is Stage.WAITING
        assert wait > 299
        miner.time.wake()
        await miner.time.next_sleep()
    finally:
        await moved.stop()
    assert miner.runner.counters["accepted"] == 2
    assert miner.violations == 0


async def test_a_validator_that_is_away_after_our_restart_keeps_what_is_known_of_its_submission(
    miner: PullingMiner,
) -> None:
    """Its cooldown is not known, since no answer to the submission came; another validator's pulls go on meanwhile."""
    now = miner.time.now()
    task = EarlierTask(id="a", type="image", assigned_at=now - 20, submitted_at=now - 10)
    miner.cooldowns.save({miner.validator.hotkey: Cooldown(cooldown_end=now - 300, task=task)}, miner.time.clock)
    other = miner.neuron.model_copy(update={"hotkey": address("o"), "port": free_port()})
    puller = miner.start_again()
    puller.update(Snapshot(17, 1, (other,)))
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    miner.start_again().update(Snapshot(17, 2, (other, miner.neuron)))
    expected = now - 20 + USUAL_COOLDOWN
    assert miner.puller.records[miner.validator.hotkey].state.pull_after >= expected


# The policy.


async def test_a_validator_out_of_favour_for_a_while_keeps_its_cooldown(miner: PullingMiner) -> None:
    miner.give("a", "b")
    miner.update()
    await miner.time.next_sleep()
    miner.refused = "on the blacklist"
    miner.update()
    miner.time.passed += 100
    miner.refused = ""
    miner.update()
    assert 198 <= await miner.time.next_sleep() <= 204
    assert miner.violations == 0


async def test_the_policy_is_asked_before_each_pull(miner: PullingMiner, caplog: pytest.LogCaptureFixture) -> None:
    miner.give("a", "b")
    miner.update()
    await miner.time.next_sleep()
    miner.refused = "on the blacklist"
    miner.time.wake()
    assert [round(await miner.time.pass_sleep()) for _ in range(3)] == [DENIED_DELAY] * 3
    assert miner.runner.counters["pulled"] == 1
    assert caplog.text.count("on the blacklist") == 1
    miner.refused = ""
    await miner.time.pass_sleep()
    await until(lambda: miner.runner.counters["accepted"] == 2)


async def test_a_result_is_withheld_from_a_validator_blacklisted_meanwhile(
    miner: PullingMiner, caplog: pytest.LogCaptureFixture
) -> None:
    def blacklist(request: Request, on_step: OnStep) -> Asset:
        miner.refused = "on the blacklist"
        return make_asset(request)

    miner.generate = blacklist
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.verdicts == []
    assert "Task a: result withheld from validator 0" in caplog.text
    miner.refused = ""
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    assert miner.runner.counters["generated"] == 1


async def test_a_loop_retired_with_a_task_in_hand_ends_after_the_task(miner: PullingMiner) -> None:
    held = miner.generate = HeldGeneration()
    miner.give("a", "b")
    miner.update()
    await held.begins()
    miner.neuron = miner.neuron.model_copy(update={"port": 0})
    miner.update()
    miner.puller.records[miner.validator.hotkey].neuron = miner.neuron.model_copy(update={"port": miner.validator.port})
    held.release()
    await until(lambda: miner.runner.counters["accepted"] == 1)
    await miner.puller.stop(TIMEOUT)
    assert miner.verdicts == [("a", "valid")]


async def test_only_serving_validators_other_than_ourselves_are_pulled_from(miner: PullingMiner) -> None:
    silent = miner.neuron.model_copy(update={"port": 0})
    own = Neuron(uid=1, hotkey=miner.keypair.ss58_address, coldkey="c", stake=5000, ip=LOOPBACK, port=1)
    miner.puller.update(Snapshot(17, 1, (silent, own)))
    assert miner.puller.records == {}
