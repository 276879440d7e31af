"""Pulling from a validator on loopback: real axon, real client, real signatures, clocks that the test moves."""

import base64
from collections.abc import Awaitable

import pytest

from miner.gpu.order import GenerationOrder
from miner.ledger.outcomes import Outcome
from miner.localnet.validator import free_port
from miner.localnet.validator_rules import MinerState
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import Asset, BestOfN, BestResult, NonFiniteOutput, OnStep, OutOfMemory, PipelineError, Request
from tests.support.generated import make_asset
from tests.support.pulling import FaultyDendrite, PullingMiner

# Rows of the answer table.


@pytest.mark.parametrize("skew", [-1_728_000.0, -36000.0, -40.0, 0.0, 40.0, 36000.0, 1_728_000.0])
async def test_tasks_are_done_one_after_the_other_without_a_violation(miner: PullingMiner, skew: float) -> None:
    """Pull, free; submit, valid; and whatever the validator's clock shows."""
    miner.skew = skew
    miner.give("a", "b", "c")
    miner.update()
    waits = [await miner.time.pass_sleep() for _ in range(3)]
    assert miner.verdicts == [("a", "valid"), ("b", "valid"), ("c", "valid")]
    # 300 s from the assignment, cut to whole seconds; a second for the Date's, one of margin.
    assert all(299 <= wait <= 303 for wait in waits), waits
    assert miner.violations == 0
    assert miner.runner.counters == {"pulled": 3, "generated": 3, "accepted": 3}


@pytest.mark.parametrize(("skew", "told"), [(3.0, 0), (-40.0, 1), (40.0, 1)])
async def test_a_notable_difference_of_clocks_is_told_once(
    miner: PullingMiner, skew: float, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    miner.skew = skew
    miner.give("a", "b")
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    assert caplog.text.count("differs from ours by") == told


async def test_a_date_from_another_age_is_not_believed(miner: PullingMiner) -> None:
    """A broken proxy's; our own clock has to do then, with a wider margin."""
    miner.connect = lambda: FaultyDendrite(miner.keypair, [], date=784111777.0)
    miner.start_again()
    miner.give("a", "b")
    miner.update()
    assert 300 <= await miner.time.pass_sleep() <= 303
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid"), ("b", "valid")]
    assert miner.violations == 0


async def test_a_cooldown_we_knew_nothing_of_is_waited_for(miner: PullingMiner) -> None:
    miner.rules.miners[miner.keypair.ss58_address] = MinerState(cooldown_until=int(miner.time.wall()) + 200)
    miner.give("a")
    miner.update()
    assert 199 <= await miner.time.pass_sleep() <= 203
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    # The first pull was one; the submission took it off again.
    assert miner.violations == 0


async def test_a_validator_that_does_not_know_us_is_asked_again_in_ten_minutes(miner: PullingMiner) -> None:
    miner.registered = False
    miner.give("a")
    miner.update()
    assert await miner.time.next_sleep() == pytest.approx(600, abs=1)
    miner.registered = True
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]


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
    miner: PullingMiner, task: ImageTask | TextTask, counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    miner.validator.add_tasks([task])
    miner.update()
    assert 299 <= await miner.time.next_sleep() <= 303
    assert miner.verdicts == [("x", "skipped")]
    assert miner.runner.counters == {"pulled": 1, counter: 1, "skipped": 1}
    assert len([r for r in caplog.records if counter in r.getMessage()]) == 1


@pytest.mark.parametrize(
    ("score", "outcome", "cooldown"),
    [(0.59, Outcome.REJECTED, 900), (None, Outcome.NOT_VALIDATED, 300), (0.6, Outcome.ACCEPTED, 300)],
)
async def test_what_validation_finds_sets_the_cooldown(
    miner: PullingMiner, score: float | None, outcome: Outcome, cooldown: int
) -> None:
    miner.validator.score = score
    miner.give("a", "b")
    miner.update()
    assert cooldown - 1 <= await miner.time.pass_sleep() <= cooldown + 3
    await miner.time.next_sleep()
    assert miner.runner.counters[outcome] == 2
    assert miner.violations == 0


async def test_an_outage_is_sat_out_and_its_end_noticed_within_a_minute(miner: PullingMiner) -> None:
    port, miner.neuron = miner.neuron.port, miner.neuron.model_copy(update={"port": free_port()})
    miner.give("a")
    miner.update()
    assert [round(await miner.time.pass_sleep()) for _ in range(6)] == [2, 4, 8, 16, 32, 60]
    await miner.time.next_sleep()
    miner.neuron = miner.neuron.model_copy(update={"port": port})
    miner.update()
    miner.time.wake()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]


# What comes out.


async def test_invalid_results_are_not_sent(miner: PullingMiner) -> None:
    miner.generate = lambda request, on_step: make_asset(request, 100)
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "skipped")]
    assert miner.runner.counters["InvalidResult"] == 1


@pytest.mark.parametrize("error", [OutOfMemory("the GPU's memory does not suffice"), NonFiniteOutput("returned NaN")])
async def test_a_generation_that_fails_costs_one_task(
    miner: PullingMiner, error: PipelineError, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_for_the_first(request: Request, on_step: OnStep) -> Asset:
        if not miner.verdicts:
            raise error
        return make_asset(request)

    miner.generate = fail_for_the_first
    miner.give("a", "b")
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "skipped"), ("b", "valid")]
    assert f"{type(error).__name__}: {error}" in caplog.text
    assert miner.violations == 0


async def test_a_crash_of_the_generator_costs_one_task(miner: PullingMiner) -> None:
    def crash(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("a bug")

    miner.generate = crash
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.runner.counters == {"pulled": 1, "internal_error": 1, "skipped": 1}


async def test_deadlines_leave_what_encoding_and_submitting_have_taken(miner: PullingMiner) -> None:
    deadlines = []
    run = miner.pool.run

    def record(order: GenerationOrder, choice: BestOfN) -> Awaitable[BestResult]:
        deadlines.append(choice.deadline - miner.time.now())
        return run(order, choice)

    miner.pool.run = record  # type: ignore[method-assign, assignment]
    miner.validator.checking = lambda: miner.time.__dict__.update(passed=miner.time.passed + 4)
    miner.give("a", "b")
    miner.update()
    await miner.time.pass_sleep()
    await miner.time.next_sleep()
    # Nothing measured: five seconds of 30. Then four, and thrice as much in case they vary.
    assert deadlines[0] == pytest.approx(25, abs=1)
    assert deadlines[1] == pytest.approx(30 - 12, abs=2)


async def test_a_file_of_cooldowns_that_is_damaged_is_no_obstacle(
    miner: PullingMiner, caplog: pytest.LogCaptureFixture
) -> None:
    miner.cooldowns.path.write_text('{"5F": {"pull_after": "soon"}}')
    miner.start_again()
    assert "start afresh" in caplog.text
    miner.give("a")
    miner.update()
    await miner.time.next_sleep()
    assert miner.verdicts == [("a", "valid")]
    assert miner.validator.hotkey in miner.cooldowns.load(miner.time.clock)
