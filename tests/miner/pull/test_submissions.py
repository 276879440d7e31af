"""Submitting to a validator on loopback: what is sent again, and when; time-outs, and restarts of the miner."""

import asyncio
import logging
import threading
from dataclasses import replace

import pytest

from miner.localnet.validator import free_port
from miner.localnet.validator_rules import MinerState
from miner.pull.validator_state import LOCK_DELAY, USUAL_COOLDOWN
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Snapshot
from miner.subnet.protocol import PullTask, SubmitResults, TextTask, sign_submission
from pipeline import Asset, OnStep, Request
from tests.support.generated import instant_generate, make_asset
from tests.support.miner_parts import HeldGeneration
from tests.support.pulling import FaultyDendrite, PullingMiner
from tests.support.waiting import TIMEOUT, until

# Rows of the answer table.


async def test_a_result_for_another_task_leaves_the_validators_task_open(miner: PullingMiner) -> None:
    """The id is wrong because the validator changed its mind; the next pull brings the task it holds."""

    def reassign(request: Request, on_step: OnStep) -> Asset:
        miner.generate = instant_generate
        miner.state.task = miner.image_task("b")
        return make_asset(request)

    miner.generate = reassign
    miner.give("a")
    miner.update()
    assert await miner.time.pass_sleep() == pytest.approx(LOCK_DELAY, abs=1)
    await miner.time.next_sleep()
    assert miner.verdicts == [("b", "valid")]
    assert (miner.runner.counters["still_open"], miner.runner.counters["generated"]) == (1, 2)


async def test_the_validation_lock_is_waited_for(miner: PullingMiner) -> None:
    """Something of ours is being validated: the submission is ignored, and sent again when it can count."""
    miner.give("a")

    def lock(request: Request, on_step: OnStep) -> Asset:
        miner.state.locked_until = int(miner.time.wall()) + 30
        return make_asset(request)

    miner.generate = lock
    miner.update()
    assert await miner.time.pass_sleep() >= 30
    assert miner.verdicts == []
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    assert miner.runner.counters == {"pulled": 1, "generated": 1, "still_open": 1, "accepted": 1}
    assert miner.violations == 0


async def test_too_soon_after_an_accepted_one_is_tried_again_ever_more_slowly(miner: PullingMiner) -> None:
    """The predecessor in our uid was accepted a minute ago: validators forget the key but not the time."""
    miner.give("a")
    miner.rules.miners[miner.keypair.ss58_address] = MinerState()
    miner.state.last_accepted = int(miner.time.wall()) - 60
    miner.update()
    waits = []
    while not miner.runner.counters["accepted"]:
        waits.append(await miner.time.pass_sleep())
    assert [round(wait) for wait in waits[:3]] == [31, 62, 124]
    assert miner.violations == 0


async def test_a_validator_that_forgot_the_task_is_asked_for_another(
    miner: PullingMiner, caplog: pytest.LogCaptureFixture
) -> None:
    """It restarted while we generated: HTTP 403."""

    def forget(request: Request, on_step: OnStep) -> Asset:
        miner.generate = instant_generate
        miner.rules.restore_state({})
        return make_asset(request)

    miner.generate = forget
    miner.give("a", "b")
    miner.update()
    assert await miner.time.pass_sleep() < 5
    await miner.time.next_sleep()
    assert miner.verdicts == [("b", "valid")]
    assert "no longer holds it" in caplog.text
    assert (miner.runner.counters["not_held"], miner.runner.counters["accepted"]) == (1, 1)


async def test_deregistered_with_that_validator_between_pull_and_submission(miner: PullingMiner) -> None:
    """403 "Unrecognized hotkey", then the advice of an hour, then ten minutes later all is well."""

    def expel(request: Request, on_step: OnStep) -> Asset:
        miner.registered = False
        return make_asset(request)

    miner.generate = expel
    miner.give("a")
    miner.update()
    assert await miner.time.pass_sleep() < 5
    assert await miner.time.next_sleep() == pytest.approx(600, abs=1)
    miner.registered = True
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    assert miner.runner.counters["generated"] == 1


async def test_an_error_of_the_validator_costs_one_more_try(miner: PullingMiner) -> None:
    """HTTP 500, as for a signature that is not base64; the task stays assigned."""

    def broken() -> None:
        miner.validator.checking = lambda: None
        raise ValueError("not base64")

    miner.validator.checking = broken
    miner.give("a")
    miner.update()
    assert await miner.time.pass_sleep() < 5  # then a pull
    assert await miner.time.pass_sleep() == pytest.approx(LOCK_DELAY - 2, abs=1)  # it may be validating
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    assert (miner.runner.counters["unknown"], miner.runner.counters["generated"]) == (1, 1)


@pytest.mark.parametrize("counts", [True, False])
async def test_a_time_out_may_have_counted_and_the_next_pull_tells(
    miner: PullingMiner, counts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = threading.Event()
    miner.validator.checking = lambda: answer.wait(TIMEOUT)
    miner.validator.score = 0.9 if counts else None
    miner.submit_timeout = 0.5
    miner.start_again()
    miner.give("a", "b")
    miner.update()
    assert await miner.time.next_sleep() < 5
    assert miner.runner.counters["unknown"] == 1
    if counts:
        answer.set()
        await until(lambda: bool(miner.verdicts))
        miner.time.wake()
        assert 290 <= await miner.time.next_sleep() <= 303
        assert miner.runner.counters == {"pulled": 1, "generated": 1, "unknown": 1}
        assert "Task a: its submission to validator 0" in caplog.text
        # To learn costs one, which the next submission takes off.
        assert miner.violations == 1
    else:
        miner.time.wake()
        assert await miner.time.next_sleep() == pytest.approx(LOCK_DELAY - 2, abs=1)
        answer.set()
        await until(lambda: bool(miner.verdicts))
        miner.rules.restore_state({})
    miner.validator.score = 0.9
    miner.time.wake()
    while not miner.runner.counters["accepted"]:
        await miner.time.pass_sleep()
    assert miner.verdicts[-1] == ("b", "valid")
    assert miner.violations == 0


async def test_validator_refuses_a_wrong_signature(miner: PullingMiner) -> None:
    """What our own submissions are spared."""
    task = miner.image_task("a")
    miner.validator.add_tasks([task])
    dendrite = Dendrite(miner.keypair)
    await dendrite.ask(miner.neuron, PullTask(), TIMEOUT)
    forged = sign_submission(TextTask(id="a", prompt="other"), "", 1, miner.keypair, miner.validator.hotkey)
    answers = [await dendrite.exchange(miner.neuron, forged, TIMEOUT) for _ in range(2)]
    await dendrite.aclose_session()
    assert miner.verdicts == [("a", "wrong_signature")]
    first, second = answers
    assert isinstance(first.synapse, SubmitResults)
    assert first.synapse.cooldown_until > miner.time.wall() + 890
    assert (second.synapse.dendrite.status_code, second.delivered) == (403, False)


# Restarts.


async def test_our_restart_keeps_the_cooldown(miner: PullingMiner) -> None:
    miner.give("a", "b")
    miner.update()
    await miner.time.next_sleep()
    await miner.puller.stop()
    miner.time.passed += 100
    miner.start_again()
    miner.update()
    assert 198 <= await miner.time.next_sleep() <= 204
    assert miner.verdicts == [("a", "valid")]
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid"), ("b", "valid")]
    assert miner.violations == 0


async def test_a_task_handed_back_after_our_restart_is_done(miner: PullingMiner) -> None:
    held = miner.generate = HeldGeneration()
    miner.give("a")
    miner.update()
    await held.begins()
    before = miner.cooldowns.load(miner.time.clock)[miner.validator.hotkey].task
    assert before is not None
    assert (before.id, before.type, before.submitted_at) == ("a", "image", None)
    await miner.puller.stop()
    held.release()
    miner.time.passed += 60
    miner.generate = instant_generate
    miner.start_again().update(Snapshot(17, 1, (miner.neuron,)))
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    (record,) = miner.puller.records.values()
    assert record.state.held is not None
    assert record.state.held.assigned_at == pytest.approx(before.assigned_at, abs=1)
    assert miner.violations == 0


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_submission_that_was_being_validated_when_we_were_killed_costs_no_violation(
    miner: PullingMiner, accepted: bool
) -> None:
    """The first pull waits until the cooldown of a result that was accepted is over; only then it tells its fate."""
    answer = threading.Event()
    miner.validator.checking = lambda: answer.wait(TIMEOUT)
    miner.give("a", "b")
    miner.update()
    await until(lambda: bool(miner.puller.records) and miner.puller.records[miner.validator.hotkey].state.is_busy)
    await until(lambda: miner.state.locked_until > 0)
    await miner.supervisor.stop()
    if accepted:
        answer.set()
        await until(lambda: bool(miner.verdicts))
    else:
        # The validator restarts as well, and what it had begun to validate is lost.
        miner.rules.restore_state({})
        answer.set()
    assert miner.rows()[0].outcome is None
    miner.start_again()
    miner.update()
    assert await miner.time.next_sleep() == pytest.approx(USUAL_COOLDOWN + 2, abs=3)
    miner.validator.checking = lambda: None
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.violations == 0
    first, second = miner.rows()
    assert (first.task_id, first.outcome, first.submissions) == ("a", "closed_without_a_score", 0)
    assert (second.task_id, second.outcome, second.submissions) == ("b", "accepted", 1)


async def test_the_cooldown_that_a_validator_is_known_for_outlives_a_restart(miner: PullingMiner) -> None:
    miner.rules.timing = replace(miner.rules.timing, task_cooldown=100)
    miner.give("a", "b")
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    await miner.supervisor.stop()
    stored = miner.cooldowns.load(miner.time.clock)[miner.validator.hotkey]
    assert stored.cooldown_seconds == pytest.approx(100, abs=3)
    assert stored.task is None


async def test_a_stop_waits_for_the_task_in_hand(miner: PullingMiner) -> None:
    held = miner.generate = HeldGeneration()
    miner.give("a", "b")
    miner.update()
    await held.begins()
    stopping = asyncio.create_task(miner.puller.stop(TIMEOUT))
    await asyncio.sleep(0)
    held.release()
    await stopping
    assert miner.verdicts == [("a", "valid")]


async def test_a_submission_that_reached_nobody_is_sent_again_without_generating_again(miner: PullingMiner) -> None:
    faults: list[Exception | int | None] = [None, free_port()]
    miner.connect = lambda: FaultyDendrite(miner.keypair, faults)
    miner.start_again()
    miner.give("a")
    miner.update()
    assert await miner.time.pass_sleep() < 5
    assert 297 <= await miner.time.next_sleep() <= 301
    assert miner.verdicts == [("a", "valid")]
    # What reached nobody is no submission, neither in the counters nor in the ledger.
    assert miner.runner.counters == {"pulled": 1, "generated": 1, "accepted": 1}
    assert [(row.outcome, row.submissions) for row in miner.rows()] == [("accepted", 1)]
