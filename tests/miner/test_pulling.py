from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import bittensor as bt
import pytest
import pytest_asyncio

from miner.chain import Neuron, Snapshot
from miner.localnet import LOOPBACK, LocalValidator, Timing, free_port
from miner.policy import decide
from miner.protocol import ImageTask, TextTask, signed_submission
from miner.pulling import Puller, ValidatorLoop
from miner.scheduler import Scheduler
from miner.settings import Phase, PolicyRules, PullingSettings, SpzSettings
from miner.tasks import TaskRunner
from pipeline import Asset, OnStep, Request
from tests.miner.conftest import instant_generate, make_asset

TIMEOUT = 20.0


@pytest_asyncio.fixture
async def validator(wallets: dict[str, bt.Wallet]) -> AsyncIterator[LocalValidator]:
    miner = wallets["miner"].hotkey.ss58_address
    validator = LocalValidator(wallets["validator"], free_port(), lambda hotkey: hotkey == miner, Timing())
    await validator.start()
    yield validator
    await validator.stop()


class Bench:
    """A miner's pulling side without a process around it."""

    def __init__(self, wallet: bt.Wallet, validator: LocalValidator, phase: Phase, container: SpzSettings) -> None:
        self.rules = PolicyRules()
        self.generate: Callable[[Request, OnStep], Asset] = instant_generate
        self.scheduler = Scheduler(lambda request, on_step: self.generate(request, on_step))
        self.runner = TaskRunner(self.scheduler, phase, container)
        self.neuron = Neuron(
            uid=0,
            hotkey=validator.hotkey,
            coldkey="c",
            stake=5000,
            validator_permit=True,
            ip=LOOPBACK,
            port=validator.port,
        )
        self.snapshot = Snapshot(17, 1, (self.neuron, Neuron(uid=1, hotkey=wallet.hotkey.ss58_address, coldkey="c")))
        self.wallet = wallet

    def decide(self, hotkey: str) -> object:
        return decide(self.snapshot, self.rules, hotkey)

    def loop(self) -> ValidatorLoop:
        return ValidatorLoop(self.neuron, self.wallet.hotkey, self.runner, self.decide, PullingSettings())  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def bench(
    wallets: dict[str, bt.Wallet], validator: LocalValidator, phase: Phase, container: SpzSettings
) -> AsyncIterator[Bench]:
    bench = Bench(wallets["miner"], validator, phase, container)
    bench.scheduler.start()
    yield bench
    assert bench.scheduler.stop(TIMEOUT)


@asynccontextmanager
async def cycles(bench: Bench) -> AsyncIterator[Callable[[], asyncio.Future[float]]]:
    """One validator loop, a cycle at a time; each returns the seconds it would wait."""
    loop = bench.loop()
    yield lambda: asyncio.wait_for(loop._cycle(), TIMEOUT)  # type: ignore[return-value]
    await loop._dendrite.aclose_session()


async def test_image_task_is_generated_submitted_and_accepted(
    bench: Bench, validator: LocalValidator, image_base64: str
) -> None:
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    async with cycles(bench) as cycle:
        assert 300 <= await cycle() <= 304
        assert 300 <= await cycle() <= 304
    (delivery,) = validator.deliveries
    assert (delivery.task_id, delivery.verdict) == ("i", "valid")
    assert delivery.splats is not None
    assert len(delivery.splats) == 7000
    assert bench.runner.counters == {"pulled": 1, "generated": 1, "accepted": 1}


@pytest.mark.parametrize(
    ("task", "counter"),
    [
        (TextTask(id="t", prompt="a red chair"), "NoTextCheckpoint"),
        (TextTask(id="s", prompt="  "), "PromptError"),
        (ImageTask(id="b", prompt="???"), "PromptError"),
        (ImageTask(id="n", prompt=base64.b64encode(b"text").decode()), "PromptError"),
        (ImageTask(id="e", prompt=""), "PromptError"),
    ],
)
async def test_what_cannot_be_generated_is_skipped_with_a_signed_empty_result(
    bench: Bench,
    validator: LocalValidator,
    image_base64: str,
    task: ImageTask | TextTask,
    counter: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    validator.add_tasks([task])
    async with cycles(bench) as cycle:
        assert 300 <= await cycle() <= 304
    assert [d.verdict for d in validator.deliveries] == ["skipped"]
    assert bench.runner.counters == {"pulled": 1, counter: 1, "skipped": 1}
    assert len([r for r in caplog.records if counter in r.getMessage()]) == 1


async def test_invalid_results_are_not_sent(bench: Bench, validator: LocalValidator, image_base64: str) -> None:
    bench.generate = lambda request, on_step: make_asset(request, 100)
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    async with cycles(bench) as cycle:
        await cycle()
    assert [d.verdict for d in validator.deliveries] == ["skipped"]
    assert bench.runner.counters["InvalidResult"] == 1


async def test_a_crash_of_the_generator_costs_one_task(
    bench: Bench, validator: LocalValidator, image_base64: str
) -> None:
    def crash(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench.generate = crash
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    async with cycles(bench) as cycle:
        await cycle()
    assert bench.runner.counters == {"pulled": 1, "internal error": 1, "skipped": 1}


async def test_result_is_withheld_from_a_validator_blacklisted_meanwhile(
    bench: Bench, validator: LocalValidator, image_base64: str
) -> None:
    def blacklist(request: Request, on_step: OnStep) -> Asset:
        bench.rules = PolicyRules(deny_hotkeys=(validator.hotkey,))
        return make_asset(request)

    bench.generate = blacklist
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    async with cycles(bench) as cycle:
        await cycle()
    assert validator.deliveries == []


async def test_a_task_handed_back_is_not_generated_again(
    bench: Bench, validator: LocalValidator, image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first submission reaches nobody, as when the validator is being restarted."""
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    loop = bench.loop()
    ask = loop._dendrite.ask

    async def lose_first(neuron: Neuron, synapse: bt.Synapse, timeout: float) -> bt.Synapse:  # noqa: ASYNC109
        if synapse.name == "SubmitResults" or type(synapse).__name__ == "SubmitResults":
            monkeypatch.setattr(loop._dendrite, "ask", ask)
            return await ask(neuron.model_copy(update={"port": free_port()}), synapse, timeout)
        return await ask(neuron, synapse, timeout)

    monkeypatch.setattr(loop._dendrite, "ask", lose_first)
    delay = await loop._cycle()
    assert delay < 30
    assert validator.deliveries == []
    await loop._cycle()
    await loop._dendrite.aclose_session()
    assert [d.verdict for d in validator.deliveries] == ["valid"]
    assert bench.runner.counters["generated"] == 1


async def test_an_unreachable_validator_is_asked_again_later(bench: Bench) -> None:
    bench.neuron = bench.neuron.model_copy(update={"port": free_port()})
    async with cycles(bench) as cycle:
        assert [await cycle(), await cycle()] == [10.0, 20.0]


async def test_validator_refuses_a_wrong_signature_and_a_wrong_id(
    bench: Bench, validator: LocalValidator, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    task = ImageTask(id="i", prompt=image_base64)
    validator.add_tasks([task])
    loop = bench.loop()
    from miner.protocol import PullTask

    await loop._dendrite.ask(bench.neuron, PullTask(), TIMEOUT)
    keypair = wallets["miner"].hotkey
    wrong_id = signed_submission(task.model_copy(update={"id": "j"}), "AAAA", 1, keypair, validator.hotkey)
    answer = await loop._dendrite.ask(bench.neuron, wrong_id, TIMEOUT)
    assert (answer.dendrite.status_code, answer.cooldown_until) == (200, 0)
    wrong_prompt = signed_submission(task.model_copy(update={"prompt": "other"}), "", 1, keypair, validator.hotkey)
    answer = await loop._dendrite.ask(bench.neuron, wrong_prompt, TIMEOUT)
    assert answer.cooldown_until > 0
    assert [d.verdict for d in validator.deliveries] == ["wrong signature"]
    answer = await loop._dendrite.ask(bench.neuron, wrong_prompt, TIMEOUT)
    await loop._dendrite.aclose_session()
    assert answer.dendrite.status_code == 403


async def test_puller_follows_the_snapshot(
    bench: Bench, validator: LocalValidator, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    puller = Puller(wallets["miner"].hotkey, bench.runner, bench.decide, PullingSettings())  # type: ignore[arg-type]
    validator.add_tasks([ImageTask(id="i", prompt=image_base64)])
    puller.update(bench.snapshot)
    (task,) = puller._loops.values()
    richer = bench.neuron.model_copy(update={"stake": 6000.0})
    puller.update(Snapshot(17, 2, (richer, bench.snapshot.neurons[1])))
    assert list(puller._loops.values()) == [task]
    async with asyncio.timeout(TIMEOUT):
        while not bench.runner.counters["accepted"]:  # noqa: ASYNC110 - the validator's thread decides
            await asyncio.sleep(0.01)
    bench.rules = PolicyRules(deny_hotkeys=(validator.hotkey,))
    puller.update(bench.snapshot)
    assert puller._loops == {}
    await puller.stop()
