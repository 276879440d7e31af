from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import bittensor as bt
import pytest
import pytest_asyncio

from miner.chain import Neuron, Snapshot
from miner.dendrite import Dendrite
from miner.errors import OperatorError
from miner.localnet import LOOPBACK, free_port
from miner.policy import decide
from miner.protocol import Generate
from miner.scheduler import Scheduler
from miner.serving import AxonServer, check_port_free
from miner.settings import Phase, PolicyRules, SpzSettings
from miner.tasks import TaskRunner
from pipeline import Asset, EmptyForeground, Request, ply, spz
from tests.miner.conftest import make_asset

TIMEOUT = 20.0


@dataclass
class Bench:
    """A served axon and who may call it."""

    neuron: Neuron
    runner: TaskRunner
    rules: PolicyRules = field(default_factory=PolicyRules)
    generate: Callable[[Request], Asset] = make_asset


@pytest_asyncio.fixture
async def bench(
    wallets: dict[str, bt.Wallet], snapshot: Snapshot, phase: Phase, container: SpzSettings
) -> AsyncIterator[Bench]:
    scheduler = Scheduler(lambda request, on_step: bench.generate(request))
    scheduler.start()
    port = free_port()
    neuron = Neuron(uid=1, hotkey=wallets["miner"].hotkey.ss58_address, coldkey="c", ip=LOOPBACK, port=port)
    bench = Bench(neuron, TaskRunner(scheduler, phase, container))
    axon = bt.Axon(wallet=wallets["miner"], port=port, ip=LOOPBACK, external_ip=LOOPBACK)
    server = AxonServer(axon, LOOPBACK, bench.runner, lambda hotkey: decide(snapshot, bench.rules, hotkey), limit=2)
    await server.start()
    yield bench
    await server.stop()
    scheduler.stop(TIMEOUT)
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(LOOPBACK, port)


async def ask(bench: Bench, wallet: bt.Wallet, request: Generate) -> Generate:
    dendrite = Dendrite(wallet.hotkey)
    try:
        return await dendrite.ask(bench.neuron, request, TIMEOUT)
    finally:
        await dendrite.aclose_session()


@pytest.mark.parametrize("data_format", ["spz", "ply"])
async def test_a_validator_gets_its_result(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str, data_format: str
) -> None:
    request = Generate(prompt=image_base64, seed=7, data_format=data_format)
    answer = await ask(bench, wallets["validator"], request)
    assert answer.dendrite.status_code == 200
    data = base64.b64decode(answer.results, validate=True)
    assert len((spz if data_format == "spz" else ply).from_bytes(data)) == answer.gaussians == 7000
    assert (answer.error, answer.seconds["structure"]) == ("", 0.25)
    assert bench.runner.counters == {"pushed": 1, "generated": 1}


async def test_the_seed_is_the_validators(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    answers = [await ask(bench, wallets["validator"], Generate(prompt=image_base64, seed=s)) for s in (3, 3, 4)]
    assert answers[0].results == answers[1].results != answers[2].results


@pytest.mark.parametrize("who", ["miner", "stranger"])
async def test_others_are_refused_before_any_work(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str, who: str
) -> None:
    answer = await ask(bench, wallets[who], Generate(prompt=image_base64))
    assert answer.dendrite.status_code == 403
    assert answer.results == ""
    assert bench.runner.counters == {"refused": 1}


async def test_a_forged_signature_is_refused(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    class Forger(Dendrite):
        def preprocess_synapse_for_request(self, *args: object, **kwargs: object) -> bt.Synapse:
            synapse = super().preprocess_synapse_for_request(*args, **kwargs)
            synapse.dendrite.hotkey = wallets["validator"].hotkey.ss58_address
            return synapse

    forger = Forger(wallets["stranger"].hotkey)
    answer = await forger.ask(bench.neuron, Generate(prompt=image_base64), TIMEOUT)
    await forger.aclose_session()
    assert answer.dendrite.status_code == 401
    assert "generated" not in bench.runner.counters


async def test_a_changed_prompt_is_refused(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    dendrite = Dendrite(wallets["validator"].hotkey)
    target = bt.AxonInfo(0, LOOPBACK, bench.neuron.port, 4, bench.neuron.hotkey, "c")
    request = dendrite.preprocess_synapse_for_request(target, Generate(prompt=image_base64), TIMEOUT)
    body = request.model_dump() | {"prompt": image_base64[:-4] + "AAAA"}
    url = f"http://{LOOPBACK}:{bench.neuron.port}/Generate"
    async with aiohttp.ClientSession() as session, session.post(url, headers=request.to_headers(), json=body) as reply:
        assert reply.status != 200
    assert "generated" not in bench.runner.counters


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Generate(prompt="%%%"), "not valid base64"),
        (Generate(prompt=base64.b64encode(b"no image").decode()), "not an image"),
        (Generate(prompt=""), "empty"),
        (Generate(task_type="text", prompt="a chair"), "no text checkpoint"),
    ],
)
async def test_bad_prompts_get_a_reason_and_the_miner_goes_on(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str, request_: Generate, error: str
) -> None:
    answer = await ask(bench, wallets["validator"], request_)
    assert (answer.dendrite.status_code, answer.results) == (200, "")
    assert error in answer.error
    assert (await ask(bench, wallets["validator"], Generate(prompt=image_base64))).results


async def test_failed_generation_is_told(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    def no_object(request: Request) -> Asset:
        raise EmptyForeground("the image shows no object")

    def broken(request: Request) -> Asset:
        raise RuntimeError("secret detail")

    def too_few(request: Request) -> Asset:
        return make_asset(request, 6999)

    for generate, error in ((no_object, "no object"), (broken, "unexpectedly"), (too_few, "score it 0")):
        bench.generate = generate
        answer = await ask(bench, wallets["validator"], Generate(prompt=image_base64))
        assert error in answer.error
        assert "secret" not in answer.error
        assert answer.results == ""


async def test_a_validator_blacklisted_meanwhile_gets_nothing(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    def blacklist_meanwhile(request: Request) -> Asset:
        bench.rules = PolicyRules(min_stake=1e9)
        return make_asset(request)

    bench.generate = blacklist_meanwhile
    answer = await ask(bench, wallets["validator"], Generate(prompt=image_base64))
    assert answer.results == ""
    assert "stake" in answer.error


async def test_a_full_queue_says_so(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(request: Request) -> Asset:
        started.set()
        release.wait(TIMEOUT)
        return make_asset(request)

    def push() -> asyncio.Task[Generate]:
        return asyncio.create_task(ask(bench, wallets["validator"], Generate(prompt=image_base64)))

    bench.generate = slow
    asks = [push()]
    assert await asyncio.to_thread(started.wait, TIMEOUT)
    asks += [push(), push()]
    async with asyncio.timeout(TIMEOUT):
        while bench.runner.waiting < 2:  # noqa: ASYNC110 - the queue is another thread's
            await asyncio.sleep(0.01)
    assert "busy" in (await push()).error
    release.set()
    assert all(done.results for done in await asyncio.gather(*asks))


def test_a_taken_port_is_the_operators_mistake() -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"{port}.*--axon.port"):
            check_port_free(LOOPBACK, port)
    check_port_free(LOOPBACK, port)
