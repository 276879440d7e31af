"""Submitting to a validator on loopback: what is sent again, and when; time-outs, and restarts of the miner."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest
import pytest_asyncio

from miner.localnet.validator import free_port
from miner.pull.state_machine import LOCK_DELAY
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Snapshot
from miner.subnet.protocol import ImageTask, PullTask, SubmitResults, TextTask, sign_submission
from pipeline import Asset, OnStep, Request
from tests.support.factories import instant_generate, make_asset
from tests.support.pulling import TIMEOUT, Bench, Faulty, Held, cooling, make_bench, until

bench = pytest_asyncio.fixture(make_bench)


# Rows of the answer table.


async def test_a_result_for_another_task_leaves_the_validators_task_open(bench: Bench) -> None:
    """The id is wrong because the validator changed its mind; the next pull brings the task it holds."""

    def reassign(request: Request, on_step: OnStep) -> Asset:
        bench.generate = instant_generate
        bench.state.task = ImageTask(id="b", prompt=bench.image)
        return make_asset(request)

    bench.generate = reassign
    bench.give("a")
    bench.update()
    assert await bench.time.pass_sleep() == pytest.approx(LOCK_DELAY, abs=1)
    await bench.time.next_sleep()
    assert bench.verdicts == [("b", "valid")]
    assert (bench.runner.counters["still_open"], bench.runner.counters["generated"]) == (1, 2)


async def test_the_validation_lock_is_waited_for(bench: Bench) -> None:
    """Something of ours is being validated: the submission is ignored, and sent again when it can count."""
    bench.give("a")

    def lock(request: Request, on_step: OnStep) -> Asset:
        bench.state.locked_until = int(bench.time.wall()) + 30
        return make_asset(request)

    bench.generate = lock
    bench.update()
    assert await bench.time.pass_sleep() >= 30
    assert bench.verdicts == []
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "still_open": 1, "accepted": 1}
    assert bench.violations == 0


async def test_too_soon_after_an_accepted_one_is_tried_again_ever_more_slowly(bench: Bench) -> None:
    """The predecessor in our uid was accepted a minute ago: validators forget the key but not the time."""
    bench.give("a")
    bench.validator.rules.miners[bench.keypair.ss58_address] = cooling(0)
    bench.state.last_accepted = int(bench.time.wall()) - 60
    bench.update()
    waits = []
    while not bench.runner.counters["accepted"]:
        waits.append(await bench.time.pass_sleep())
    assert [round(wait) for wait in waits[:3]] == [31, 62, 124]
    assert bench.violations == 0


async def test_a_validator_that_forgot_the_task_is_asked_for_another(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It restarted while we generated: HTTP 403."""

    def forget(request: Request, on_step: OnStep) -> Asset:
        bench.generate = instant_generate
        bench.validator.rules.restore_state({})
        return make_asset(request)

    bench.generate = forget
    bench.give("a", "b")
    bench.update()
    assert await bench.time.pass_sleep() < 5
    await bench.time.next_sleep()
    assert bench.verdicts == [("b", "valid")]
    assert "holds it no longer" in caplog.text
    assert (bench.runner.counters["not_held"], bench.runner.counters["accepted"]) == (1, 1)


async def test_deregistered_with_that_validator_between_pull_and_submission(bench: Bench) -> None:
    """403 "Unrecognized hotkey", then the advice of an hour, then ten minutes later all is well."""

    def expel(request: Request, on_step: OnStep) -> Asset:
        bench.registered = False
        return make_asset(request)

    bench.generate = expel
    bench.give("a")
    bench.update()
    assert await bench.time.pass_sleep() < 5
    assert await bench.time.next_sleep() == pytest.approx(600, abs=1)
    bench.registered = True
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    assert bench.runner.counters["generated"] == 1


async def test_an_error_of_the_validator_costs_one_more_try(bench: Bench) -> None:
    """HTTP 500, as for a signature that is not base64; the task stays assigned."""

    def broken() -> None:
        bench.validator.checking = lambda: None
        raise ValueError("not base64")

    bench.validator.checking = broken
    bench.give("a")
    bench.update()
    assert await bench.time.pass_sleep() < 5  # then a pull
    assert await bench.time.pass_sleep() == pytest.approx(LOCK_DELAY - 2, abs=1)  # it may be validating
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    assert (bench.runner.counters["unknown"], bench.runner.counters["generated"]) == (1, 1)


@pytest.mark.parametrize("counts", [True, False])
async def test_a_time_out_may_have_counted_and_the_next_pull_tells(
    bench: Bench, counts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = threading.Event()
    bench.validator.checking = lambda: answer.wait(TIMEOUT)
    bench.validator.score = 0.9 if counts else None
    bench.submit_timeout = 0.5
    bench.start_again()
    bench.give("a", "b")
    bench.update()
    assert await bench.time.next_sleep() < 5
    assert bench.runner.counters["unknown"] == 1
    if counts:
        answer.set()
        await until(lambda: bool(bench.verdicts))
        bench.time.wake()
        assert 290 <= await bench.time.next_sleep() <= 303
        assert bench.runner.counters == {"pulled": 1, "generated": 1, "unknown": 1}
        assert "Task a: its submission to validator 0" in caplog.text
        # To learn costs one, which the next submission takes off.
        assert bench.violations == 1
    else:
        bench.time.wake()
        assert await bench.time.next_sleep() == pytest.approx(LOCK_DELAY - 2, abs=1)
        answer.set()
        await until(lambda: bool(bench.verdicts))
        bench.validator.rules.restore_state({})
    bench.validator.score = 0.9
    bench.time.wake()
    while not bench.runner.counters["accepted"]:
        await bench.time.pass_sleep()
    assert bench.verdicts[-1] == ("b", "valid")
    assert bench.violations == 0


async def test_validator_refuses_a_wrong_signature(bench: Bench) -> None:
    """What our own submissions are spared."""
    task = ImageTask(id="a", prompt=bench.image)
    bench.validator.add_tasks([task])
    dendrite = Dendrite(bench.keypair)
    await dendrite.ask(bench.neuron, PullTask(), TIMEOUT)
    forged = sign_submission(TextTask(id="a", prompt="other"), "", 1, bench.keypair, bench.validator.hotkey)
    answers = [await dendrite.exchange(bench.neuron, forged, TIMEOUT) for _ in range(2)]
    await dendrite.aclose_session()
    assert bench.verdicts == [("a", "wrong_signature")]
    first, second = answers
    assert isinstance(first.synapse, SubmitResults)
    assert first.synapse.cooldown_until > bench.time.wall() + 890
    assert (second.synapse.dendrite.status_code, second.delivered) == (403, False)


# Restarts.


async def test_our_restart_keeps_the_cooldown(bench: Bench) -> None:
    bench.give("a", "b")
    bench.update()
    await bench.time.next_sleep()
    await bench.puller.stop()
    bench.time.passed += 100
    bench.start_again()
    bench.update()
    assert 198 <= await bench.time.next_sleep() <= 204
    assert bench.verdicts == [("a", "valid")]
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid"), ("b", "valid")]
    assert bench.violations == 0


async def test_a_task_handed_back_after_our_restart_is_done(bench: Bench) -> None:
    held = bench.generate = Held()
    bench.give("a")
    bench.update()
    await held.begins()
    assigned = json.loads(bench.file.path.read_text())[bench.validator.hotkey]["assigned_at"]
    await bench.puller.stop()
    held.release.set()
    bench.time.passed += 60
    bench.generate = instant_generate
    bench.start_again().update(Snapshot(17, 1, (bench.neuron,)))
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    saved = json.loads(bench.file.path.read_text())[bench.validator.hotkey]
    assert saved["assigned_at"] == pytest.approx(assigned, abs=1)
    assert bench.violations == 0


async def test_a_stop_waits_for_the_task_in_hand(bench: Bench) -> None:
    held = bench.generate = Held()
    bench.give("a", "b")
    bench.update()
    await held.begins()
    stopping = asyncio.create_task(bench.puller.stop(TIMEOUT))
    await asyncio.sleep(0)
    held.release.set()
    await stopping
    assert bench.verdicts == [("a", "valid")]


async def test_a_submission_that_reached_nobody_is_sent_again_without_generating_again(bench: Bench) -> None:
    faults: list[Exception | int | None] = [None, free_port()]
    bench.connect = lambda: Faulty(bench.keypair, faults)
    bench.start_again()
    bench.give("a")
    bench.update()
    assert await bench.time.pass_sleep() < 5
    assert 297 <= await bench.time.next_sleep() <= 301
    assert bench.verdicts == [("a", "valid")]
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "unknown": 1, "accepted": 1}
