"""Pulling from a validator on loopback: real axon, real client, real signatures, clocks that the test moves."""

from __future__ import annotations

import base64
import json

import pytest
import pytest_asyncio

from miner.gpu.scheduler import Work
from miner.ledger.outcomes import Outcome
from miner.localnet.validator import free_port
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import Asset, OnStep, Request
from tests.support.factories import make_asset
from tests.support.pulling import Bench, Faulty, cooling, make_bench

bench = pytest_asyncio.fixture(make_bench)


# Rows of the answer table.


@pytest.mark.parametrize("skew", [-36000.0, -40.0, 0.0, 40.0, 36000.0])
async def test_tasks_are_done_one_after_the_other_without_a_violation(bench: Bench, skew: float) -> None:
    """Pull, free; submit, valid; and whatever the validator's clock shows."""
    bench.skew = skew
    bench.give("a", "b", "c")
    bench.update()
    waits = [await bench.time.pass_sleep() for _ in range(3)]
    assert bench.verdicts == [("a", "valid"), ("b", "valid"), ("c", "valid")]
    # 300 s from the assignment, cut to whole seconds; a second for the Date's, one of margin.
    assert all(299 <= wait <= 303 for wait in waits), waits
    assert bench.violations == 0
    assert bench.runner.counters == {"pulled": 3, "generated": 3, "accepted": 3}


@pytest.mark.parametrize(("skew", "told"), [(3.0, 0), (-40.0, 1), (40.0, 1)])
async def test_a_notable_difference_of_clocks_is_told_once(
    bench: Bench, skew: float, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench.skew = skew
    bench.give("a", "b")
    bench.update()
    await bench.time.pass_sleep()
    await bench.time.next_sleep()
    assert caplog.text.count("differs from ours by") == told


async def test_a_date_from_another_age_is_not_believed(bench: Bench) -> None:
    """A broken proxy's; our own clock has to do then, with a wider margin."""
    bench.connect = lambda: Faulty(bench.keypair, [], date=784111777.0)
    bench.start_again()
    bench.give("a", "b")
    bench.update()
    assert 300 <= await bench.time.pass_sleep() <= 303
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid"), ("b", "valid")]
    assert bench.violations == 0


async def test_a_cooldown_we_knew_nothing_of_is_waited_for(bench: Bench) -> None:
    bench.validator.rules.miners[bench.keypair.ss58_address] = cooling(int(bench.time.wall()) + 200)
    bench.give("a")
    bench.update()
    assert 199 <= await bench.time.pass_sleep() <= 203
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    # The first pull was one; the submission took it off again.
    assert bench.violations == 0


async def test_a_validator_that_does_not_know_us_is_asked_again_in_ten_minutes(bench: Bench) -> None:
    bench.registered = False
    bench.give("a")
    bench.update()
    assert await bench.time.next_sleep() == pytest.approx(600, abs=1)
    bench.registered = True
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]


@pytest.mark.parametrize(
    ("task", "counter"),
    [
        (TextTask(id="x", prompt="  "), "PromptError"),
        (ImageTask(id="x", prompt="???"), "PromptError"),
        (ImageTask(id="x", prompt=base64.b64encode(b"text").decode()), "PromptError"),
        (ImageTask(id="x", prompt=""), "PromptError"),
    ],
)
async def test_what_cannot_be_generated_is_skipped_with_a_signed_empty_result(
    bench: Bench, task: ImageTask | TextTask, counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.validator.add_tasks([task])
    bench.update()
    assert 299 <= await bench.time.next_sleep() <= 303
    assert bench.verdicts == [("x", "skipped")]
    assert bench.runner.counters == {"pulled": 1, counter: 1, "skipped": 1}
    assert len([r for r in caplog.records if counter in r.getMessage()]) == 1


@pytest.mark.parametrize(
    ("score", "outcome", "cooldown"),
    [(0.59, Outcome.REJECTED, 900), (None, Outcome.NOT_VALIDATED, 300), (0.6, Outcome.ACCEPTED, 300)],
)
async def test_what_validation_finds_sets_the_cooldown(
    bench: Bench, score: float | None, outcome: Outcome, cooldown: int
) -> None:
    bench.validator.score = score
    bench.give("a", "b")
    bench.update()
    assert cooldown - 1 <= await bench.time.pass_sleep() <= cooldown + 3
    await bench.time.next_sleep()
    assert bench.runner.counters[outcome.value] == 2
    assert bench.violations == 0


async def test_an_outage_is_sat_out_and_its_end_noticed_within_a_minute(bench: Bench) -> None:
    port, bench.neuron = bench.neuron.port, bench.neuron.model_copy(update={"port": free_port()})
    bench.give("a")
    bench.update()
    assert [round(await bench.time.pass_sleep()) for _ in range(6)] == [2, 4, 8, 16, 32, 60]
    await bench.time.next_sleep()
    bench.neuron = bench.neuron.model_copy(update={"port": port})
    bench.update()
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]


# What comes out.


async def test_invalid_results_are_not_sent(bench: Bench) -> None:
    bench.generate = lambda request, on_step: make_asset(request, 100)
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "skipped")]
    assert bench.runner.counters["InvalidResult"] == 1


async def test_a_crash_of_the_generator_costs_one_task(bench: Bench) -> None:
    def crash(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("a bug")

    bench.generate = crash
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.runner.counters == {"pulled": 1, "internal_error": 1, "skipped": 1}


async def test_deadlines_leave_what_encoding_and_submitting_have_taken(bench: Bench) -> None:
    deadlines = []
    submit = bench.scheduler.submit

    def record(work: Work, priority: float, deadline: float) -> object:
        deadlines.append(deadline - bench.time.now())
        return submit(work, priority, deadline)

    bench.scheduler.submit = record  # type: ignore[method-assign, assignment]
    bench.validator.checking = lambda: bench.time.__dict__.update(passed=bench.time.passed + 4)
    bench.give("a", "b")
    bench.update()
    await bench.time.pass_sleep()
    await bench.time.next_sleep()
    # Nothing measured: five seconds of 30. Then four, and thrice as much in case they vary.
    assert deadlines[0] == pytest.approx(25, abs=1)
    assert deadlines[1] == pytest.approx(30 - 12, abs=2)


async def test_a_file_of_cooldowns_that_is_damaged_is_no_obstacle(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.file.path.write_text('{"5F": {"pull_after": "soon"}}')
    bench.start_again()
    assert "start afresh" in caplog.text
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    assert json.loads(bench.file.path.read_text())[bench.validator.hotkey]["task_id"] == "a"
