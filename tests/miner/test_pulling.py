"""Pulling from a validator on loopback: real axon, real client, real signatures, clocks that the test moves."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import bittensor as bt
import pytest
import pytest_asyncio

from miner.answers import Outcome
from miner.books import Books, unsettled
from miner.chain import Neuron, Snapshot
from miner.cooldowns import CooldownFile
from miner.dendrite import AnySynapse, Dendrite, Reply, Transport
from miner.ledger import Ledger
from miner.ledger_reader import LedgerReader, TaskRow
from miner.localnet import LOOPBACK, Delivery, LocalValidator, free_port
from miner.phase_settings import CandidateSettings, GateSettings, Phase, ScorerSettings
from miner.phases import NamedPhase
from miner.policy import Decision
from miner.protocol import ImageTask, ProtocolTask, PullTask, SubmitResults, TextTask, signed_submission
from miner.pulling import Puller
from miner.scheduler import Scheduler, Work
from miner.settings import PullingSettings, SpzSettings
from miner.supervision import Supervisor
from miner.tasks import TaskRunner
from miner.validator_loop import Environment
from miner.validator_model import MinerState
from miner.validator_state import DENIED_DELAY, LOCK_DELAY, Stage
from pipeline import Asset, OnStep, OutOfMemory, Request, Splats
from pipeline.candidates import candidate_seed
from pipeline.splats import statistics
from tests.miner.conftest import ManualClock, instant_generate, make_asset, phases_with

TIMEOUT = 20.0


class ScriptedValidator(LocalValidator):
    """Keeps the subnet's rules; the test says what its validation finds."""

    score: float | None = 0.9
    checking: Callable[[], object] = staticmethod(lambda: None)  # type: ignore[assignment]

    async def check(self, task: ProtocolTask, results: str) -> tuple[Delivery, float | None]:
        score = self.score
        await asyncio.to_thread(self.checking)
        delivery, _ = await super().check(task, results)
        return delivery, score


class Bench:
    """A miner's pulling side without a process around it, and a validator."""

    def __init__(
        self, wallets: dict[str, bt.Wallet], phase: Phase, container: SpzSettings, image: str, folder: Path
    ) -> None:
        self.time = ManualClock()
        self.skew = 0.0
        self.registered = True
        self.image = image
        self.keypair = wallets["miner"].hotkey
        self.validator_wallet = wallets["validator"]
        self.validator = ScriptedValidator(
            wallets["validator"], free_port(), lambda _: self.registered, now=lambda: self.time.wall() + self.skew
        )
        self.neuron = Neuron(
            uid=0, hotkey=self.validator.hotkey, coldkey="c", stake=5000, ip=LOOPBACK, port=self.validator.port
        )
        self.refused = ""
        self.generate: Callable[[Request, OnStep], Asset] = instant_generate
        self.scheduler = Scheduler()
        self.score: Callable[[Splats], float] = lambda splats: 0.5
        self.phases = phases_with(phase, self.make)
        self.runner = TaskRunner(self.scheduler, self.phases, container)
        self.file = CooldownFile(folder / "cooldowns.json")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.connect: Callable[[], Transport] | None = None
        self.submit_timeout = TIMEOUT
        self.supervisor = Supervisor(self.time.clock)
        self.puller = self.start_again()

    def make(self, request: Request, on_step: OnStep) -> Asset:
        return self.generate(request, on_step)

    def run_phase(self, phase: Phase) -> None:
        """From the next task on, this phase, and a scorer with it."""
        other = phases_with(phase, self.make, lambda splats: self.score(splats))
        self.phases.swap(other.choice, other.loaded)

    def start_again(self) -> Puller:
        """A miner's pulling side that knows what is on the disk."""
        settings = PullingSettings(submit_timeout=self.submit_timeout)
        books = Books(self.ledger, "1.0", lambda _: self.neuron.uid, unsettled(self.ledger.path))
        environment = Environment(self.keypair, self.runner, self.decide, settings, self.time.clock, books)
        self.puller = Puller(environment, self.supervisor, self.file, self.connect)
        return self.puller

    def decide(self, hotkey: str) -> Decision:
        return Decision(not self.refused, self.refused, 5000.0)

    def update(self) -> None:
        own = Neuron(uid=1, hotkey=self.keypair.ss58_address, coldkey="c", ip=LOOPBACK, port=1)
        self.puller.update(Snapshot(17, 1, (self.neuron, own)))

    def give(self, *ids: str) -> None:
        self.validator.add_tasks(ImageTask(id=name, prompt=self.image) for name in ids)

    @property
    def state(self) -> MinerState:
        """What the validator knows of us."""
        return self.validator.model.miners[self.keypair.ss58_address]

    def rows(self) -> list[TaskRow]:
        """What the ledger knows."""
        assert self.ledger.flush(TIMEOUT)
        with LedgerReader(self.ledger.path) as reader:
            return reader.tasks()

    @property
    def violations(self) -> int:
        return self.state.violations

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(delivery.task_id, delivery.verdict) for delivery in self.validator.deliveries]


def cooling(until: int) -> MinerState:
    return MinerState(cooldown_until=until)


@pytest_asyncio.fixture
async def bench(
    wallets: dict[str, bt.Wallet], phase: Phase, container: SpzSettings, image_base64: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    bench = Bench(wallets, phase, container, image_base64, tmp_path)
    await bench.validator.start()
    bench.scheduler.start()
    bench.ledger.start()
    yield bench
    await bench.puller.stop()
    await bench.validator.stop()
    assert bench.scheduler.stop(TIMEOUT)
    assert bench.ledger.close(TIMEOUT)


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
    bench.validator.model.miners[bench.keypair.ss58_address] = cooling(int(bench.time.wall()) + 200)
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
    assert (bench.runner.counters["still open"], bench.runner.counters["generated"]) == (1, 2)


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
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "still open": 1, "accepted": 1}
    assert bench.violations == 0


async def test_too_soon_after_an_accepted_one_is_tried_again_ever_more_slowly(bench: Bench) -> None:
    """The predecessor in our uid was accepted a minute ago: validators forget the key but not the time."""
    bench.give("a")
    bench.validator.model.miners[bench.keypair.ss58_address] = cooling(0)
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
        bench.validator.model.restart({})
        return make_asset(request)

    bench.generate = forget
    bench.give("a", "b")
    bench.update()
    assert await bench.time.pass_sleep() < 5
    await bench.time.next_sleep()
    assert bench.verdicts == [("b", "valid")]
    assert "holds it no longer" in caplog.text
    assert (bench.runner.counters["not held"], bench.runner.counters["accepted"]) == (1, 1)


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
        bench.validator.model.restart({})
    bench.validator.score = 0.9
    bench.time.wake()
    while not bench.runner.counters["accepted"]:
        await bench.time.pass_sleep()
    assert bench.verdicts[-1] == ("b", "valid")
    assert bench.violations == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - the validator's thread decides
            await asyncio.sleep(0.01)


# Restarts and outages.


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
    begun, release = threading.Event(), threading.Event()

    def hang(request: Request, on_step: OnStep) -> Asset:
        begun.set()
        release.wait(TIMEOUT)
        return make_asset(request)

    bench.generate = hang
    bench.give("a")
    bench.update()
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    assigned = json.loads(bench.file.path.read_text())[bench.validator.hotkey]["assigned_at"]
    await bench.puller.stop()
    release.set()
    bench.time.passed += 60
    bench.generate = instant_generate
    bench.start_again().update(Snapshot(17, 1, (bench.neuron,)))
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    saved = json.loads(bench.file.path.read_text())[bench.validator.hotkey]
    assert saved["assigned_at"] == pytest.approx(assigned, abs=1)
    assert bench.violations == 0


async def test_a_stop_waits_for_the_task_in_hand(bench: Bench) -> None:
    begun, release = threading.Event(), threading.Event()

    def hang(request: Request, on_step: OnStep) -> Asset:
        begun.set()
        release.wait(TIMEOUT)
        return make_asset(request)

    bench.generate = hang
    bench.give("a", "b")
    bench.update()
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    stopping = asyncio.create_task(bench.puller.stop(TIMEOUT))
    await asyncio.sleep(0)
    release.set()
    await stopping
    assert bench.verdicts == [("a", "valid")]


async def test_a_validator_set_back_hands_out_a_closed_task_and_gets_the_same_result(bench: Bench) -> None:
    states = []

    def save(request: Request, on_step: OnStep) -> Asset:
        states.append(bench.validator.model.state())
        return make_asset(request)

    bench.generate = save
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    bench.validator.model.restart(states[0])
    bench.time.wake()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid"), ("a", "valid")]
    first, second = bench.validator.deliveries
    assert first.data == second.data
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "accepted": 2}


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


class Faulty(Dendrite):
    """Does to chosen exchanges what the test wants."""

    def __init__(self, keypair: bt.Keypair, faults: list[Exception | int | None], date: float | None = None) -> None:
        super().__init__(keypair)
        self.faults = faults
        self.date = date

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        port = neuron.port if fault is None else fault
        reply = await super().exchange(neuron.model_copy(update={"port": port}), synapse, timeout)
        return reply if self.date is None else replace(reply, date=self.date)


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
    moved.model = bench.validator.model
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
    begun, release = threading.Event(), threading.Event()

    def hang(request: Request, on_step: OnStep) -> Asset:
        begun.set()
        release.wait(TIMEOUT)
        return make_asset(request)

    bench.generate = hang
    bench.give("a", "b")
    bench.update()
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    bench.neuron = bench.neuron.model_copy(update={"port": 0})
    bench.update()
    bench.puller.records[bench.validator.hotkey].neuron = bench.neuron.model_copy(update={"port": bench.validator.port})
    release.set()
    await until(lambda: bench.runner.counters["accepted"] == 1)
    await bench.puller.stop(TIMEOUT)
    assert bench.verdicts == [("a", "valid")]


async def test_only_serving_validators_other_than_ourselves_are_pulled_from(bench: Bench) -> None:
    silent = bench.neuron.model_copy(update={"port": 0})
    own = Neuron(uid=1, hotkey=bench.keypair.ss58_address, coldkey="c", stake=5000, ip=LOOPBACK, port=1)
    bench.puller.update(Snapshot(17, 1, (silent, own)))
    assert bench.puller.records == {}


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
    assert bench.runner.counters == {"pulled": 1, "internal error": 1, "skipped": 1}


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


async def test_validator_refuses_a_wrong_signature(bench: Bench) -> None:
    """What our own submissions are spared."""
    task = ImageTask(id="a", prompt=bench.image)
    bench.validator.add_tasks([task])
    dendrite = Dendrite(bench.keypair)
    await dendrite.ask(bench.neuron, PullTask(), TIMEOUT)
    forged = signed_submission(TextTask(id="a", prompt="other"), "", 1, bench.keypair, bench.validator.hotkey)
    answers = [await dendrite.exchange(bench.neuron, forged, TIMEOUT) for _ in range(2)]
    await dendrite.aclose_session()
    assert bench.verdicts == [("a", "wrong signature")]
    first, second = answers
    assert isinstance(first.synapse, SubmitResults)
    assert first.synapse.cooldown_until > bench.time.wall() + 890
    assert (second.synapse.dendrite.status_code, second.delivered) == (403, False)


# What the ledger is told.


async def test_an_accepted_task_is_in_the_ledger_from_assignment_to_feedback(bench: Bench, phase: Phase) -> None:
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.transport, row.validator, row.uid, row.task_id) == ("pull", bench.validator.hotkey, 0, "a")
    assert (row.task_type, row.phase, row.code_version) == ("image", "demo", "1.0")
    assert row.config_hash == NamedPhase("demo", phase).config_hash
    assert row.generated_at is not None
    assert row.answered_at is not None
    assert row.assigned_at <= row.generated_at <= row.answered_at
    assert row.seconds == {
        "background": 0.25,
        "conditioning": 0.25,
        "structure": 0.25,
        "latents": 0.25,
        "gaussians": 0.25,
    }
    assert (row.gaussians, row.all_seeds) == (7000, (row.seed,))
    (delivery,) = bench.validator.deliveries
    assert delivery.splats is not None
    assert row.submission_bytes == len(base64.b64encode(delivery.data))
    expected = statistics(make_asset(Request(None, row.seed, None, None)).splats)  # type: ignore[arg-type]
    assert (row.density_max, row.opacity_min) == (expected.density_max, pytest.approx(expected.opacity_min))
    assert row.volume == pytest.approx(expected.volume)
    assert (row.outcome, row.score, row.submissions, row.error) == ("accepted", 0.9, 1, None)
    assert row.cooldown_until == bench.state.cooldown_until


@pytest.mark.parametrize(("score", "outcome"), [(0.59, "rejected"), (None, "not validated")])
async def test_a_result_without_a_score_has_none_in_the_ledger(bench: Bench, score: float | None, outcome: str) -> None:
    bench.validator.score = score
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.outcome, row.score, row.gaussians) == (outcome, None, 7000)


async def test_a_failed_task_is_in_the_ledger_with_its_error(bench: Bench) -> None:
    bench.validator.add_tasks([ImageTask(id="x", prompt="???"), TextTask(id="y", prompt="a chair")])
    bench.update()
    await bench.time.pass_sleep()
    await bench.time.next_sleep()
    first, second = bench.rows()
    assert (first.task_id, first.outcome, first.gaussians) == ("x", "skipped", None)
    assert first.error is not None
    assert first.error.startswith("PromptError: ")
    assert (second.task_type, second.outcome) == ("text", "skipped")
    assert second.error == "UnsupportedPrompt: the phase has no checkpoint for text tasks"


async def test_the_lock_and_the_verdict_after_it_are_one_row(bench: Bench) -> None:
    def lock(request: Request, on_step: OnStep) -> Asset:
        bench.state.locked_until = int(bench.time.wall()) + 30
        return make_asset(request)

    bench.generate = lock
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in bench.rows()] == [("still open", 1)]
    bench.time.wake()
    await bench.time.next_sleep()
    assert [(row.outcome, row.submissions) for row in bench.rows()] == [("accepted", 2)]


async def test_a_cooldown_settles_a_submission_of_unknown_fate_in_the_ledger_too(bench: Bench) -> None:
    answer = threading.Event()
    bench.validator.checking = lambda: answer.wait(TIMEOUT)
    bench.submit_timeout = 0.5
    bench.start_again()
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert [row.outcome for row in bench.rows()] == ["unknown"]
    answer.set()
    await until(lambda: bool(bench.verdicts))
    bench.time.wake()
    await bench.time.next_sleep()
    (row,) = bench.rows()
    assert (row.outcome, row.score, row.cooldown_until) == (
        "closed without a score",
        None,
        bench.state.cooldown_until,
    )


async def test_a_task_handed_back_after_our_restart_goes_on_in_its_row(bench: Bench) -> None:
    begun, release = threading.Event(), threading.Event()

    def hang(request: Request, on_step: OnStep) -> Asset:
        begun.set()
        release.wait(TIMEOUT)
        return make_asset(request)

    bench.generate = hang
    bench.give("a")
    bench.update()
    assert await asyncio.to_thread(begun.wait, TIMEOUT)
    (before,) = bench.rows()
    assert (before.generated_at, before.outcome) == (None, None)
    await bench.puller.stop()
    release.set()
    bench.generate = instant_generate
    bench.start_again()
    bench.update()
    await until(lambda: bench.runner.counters["accepted"] == 1)
    (row,) = bench.rows()
    assert (row.key, row.assigned_at, row.outcome) == (before.key, before.assigned_at, "accepted")


async def test_a_locked_ledger_holds_up_no_task(bench: Bench) -> None:
    bench.give("a", "b", "c")
    bench.update()
    await bench.time.next_sleep()
    assert bench.ledger.flush(TIMEOUT)
    with closing(sqlite3.connect(bench.ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        bench.time.wake()
        await bench.time.pass_sleep()
        await bench.time.next_sleep()
        assert bench.verdicts == [("a", "valid"), ("b", "valid"), ("c", "valid")]
        other.execute("ROLLBACK")
    await asyncio.to_thread(bench.ledger.flush, TIMEOUT)
    assert [row.outcome for row in bench.rows()] == ["accepted"] * 3


# Quality.


def gated(phase: Phase, quality: float, count: int = 1) -> Phase:
    candidates = CandidateSettings(count=count, seconds=600.0)
    changes = {"candidates": candidates, "scorer": ScorerSettings(), "gate": GateSettings(quality=quality)}
    return phase.model_copy(update=changes)


async def test_a_result_below_the_gate_is_answered_with_the_signed_empty_result(
    bench: Bench, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    """No penalty: the next task comes after the plain cooldown, and no result was seen by the validator."""
    qualities = iter([0.41, 0.55, 0.3, 0.7])
    bench.score = lambda splats: next(qualities)
    bench.run_phase(gated(phase, 0.6, count=2))
    bench.give("low", "high")
    bench.update()
    with caplog.at_level("INFO", "miner"):
        assert 299 <= await bench.time.pass_sleep() <= 303
        await bench.time.next_sleep()
    assert bench.verdicts == [("low", "skipped"), ("high", "valid")]
    assert bench.violations == 0
    assert bench.runner.counters == {"pulled": 2, "Withheld": 1, "generated": 1, "skipped": 1, "accepted": 1}
    low = "Task low: no result, Withheld: the best of 2 has quality 0.550, the phase's gate asks for 0.6"
    assert low in caplog.text
    assert "Task low: empty result submitted to validator 0" in caplog.text
    withheld, sent = bench.rows()
    assert (withheld.outcome, withheld.local_score, withheld.submission_bytes) == ("skipped", 0.55, None)
    assert withheld.gaussians == 7000
    assert withheld.error is not None
    assert withheld.error.startswith("Withheld: the best of 2 has quality 0.550")
    assert (sent.outcome, sent.local_score, sent.error) == ("accepted", 0.7, None)
    for row, told in ((withheld, [0.41, 0.55]), (sent, [0.3, 0.7])):
        assert [candidate["quality"] for candidate in row.all_candidates] == told
        assert row.all_seeds == tuple(candidate["seed"] for candidate in row.all_candidates)
        assert row.seed == row.all_seeds[1] == candidate_seed(row.all_seeds[0], 1)
        assert all(candidate["seconds"] >= 0 and not candidate["problem"] for candidate in row.all_candidates)


async def test_what_could_not_be_scored_passes_the_gate(bench: Bench, phase: Phase) -> None:
    def fail(_: Splats) -> float:
        raise OutOfMemory("no room to score")

    bench.score = fail
    bench.run_phase(gated(phase, 0.6))
    bench.give("a")
    bench.update()
    await bench.time.next_sleep()
    assert bench.verdicts == [("a", "valid")]
    (row,) = bench.rows()
    assert (row.local_score, row.all_candidates[0]["problem"]) == (None, "not scored, OutOfMemory: no room to score")
