import asyncio
import base64
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import bittensor as bt
import pytest
import pytest_asyncio

from miner.axon import server as server_module
from miner.axon.server import AxonServer, check_port_free
from miner.config.phase import GateSettings, Phase, ScorerSettings
from miner.config.policy import PolicyRules
from miner.config.settings import ServingSettings, SpzSettings
from miner.errors import MinerError, OperatorError
from miner.gpu.scheduler import Scheduler
from miner.ledger.reader import LedgerReader
from miner.ledger.recorder import TaskRecorder
from miner.ledger.writer import LedgerWriter
from miner.localnet.raw_client import AxonAddress, connect, send, signed_request
from miner.localnet.validator import LOOPBACK, free_port
from miner.policy.policy import decide
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron, Snapshot
from miner.subnet.protocol import Generate
from miner.tasks.runner import TaskRunner
from pipeline import Asset, EmptyForeground, Request, ply, spz
from tests.support.factories import make_asset, selector_with

TIMEOUT = 20.0
SETTINGS = ServingSettings(queue_size=2, max_body_bytes=500_000, header_timeout=0.5, body_timeout=0.5)


@dataclass
class Bench:
    """A served axon and who may call it."""

    neuron: Neuron
    runner: TaskRunner
    ledger: LedgerWriter
    rules: PolicyRules = field(default_factory=PolicyRules)
    generate: Callable[[Request], Asset] = make_asset
    server: AxonServer = field(init=False)

    @property
    def target(self) -> AxonAddress:
        return AxonAddress(self.neuron.port, self.neuron.hotkey)


@pytest_asyncio.fixture
async def bench(
    wallets: dict[str, bt.Wallet], snapshot: Snapshot, phase: Phase, container: SpzSettings, tmp_path: Path
) -> AsyncIterator[Bench]:
    scheduler = Scheduler()
    phases = selector_with(phase, lambda request, on_step: bench.generate(request))
    port = free_port()
    neuron = Neuron(uid=1, hotkey=wallets["miner"].hotkey.ss58_address, coldkey="c", ip=LOOPBACK, port=port)
    bench = Bench(neuron, TaskRunner(scheduler, phases, container), LedgerWriter(tmp_path / "ledger.sqlite"))
    recorder = TaskRecorder(bench.ledger, "1.0", lambda hotkey: 7)
    axon = bt.Axon(wallet=wallets["miner"], port=port, ip=LOOPBACK, external_ip=LOOPBACK)
    server = AxonServer(axon, bench.runner, lambda hotkey: decide(snapshot, bench.rules, hotkey), SETTINGS, recorder)
    bench.server = server
    await server.start()
    yield bench
    await server.stop()
    scheduler.stop(TIMEOUT)
    assert bench.ledger.close(TIMEOUT)
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


async def test_a_result_below_the_gate_is_not_sent(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str, phase: Phase
) -> None:
    gated = phase.model_copy(update={"scorer": ScorerSettings(), "gate": GateSettings(quality=0.3)})
    other = selector_with(gated, lambda request, _: make_asset(request), lambda splats: 0.25)
    bench.runner.selector.swap(other.choice, other.models)
    answer = await ask(bench, wallets["validator"], Generate(prompt=image_base64))
    assert (answer.results, answer.error) == ("", "it has quality 0.250, the phase's gate asks for 0.3")
    assert bench.runner.counters == {"pushed": 1, "Withheld": 1}


@pytest.mark.parametrize("who", ["miner", "stranger"])
async def test_others_are_refused_before_any_work(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str, who: str
) -> None:
    answer = await ask(bench, wallets[who], Generate(prompt=image_base64))
    assert (answer.dendrite.status_code, answer.results) == (403, "")
    assert answer.dendrite.status_message == "this miner does not work for this hotkey"
    assert bench.server.refusals == {"refused_403": 1}
    assert not bench.runner.counters


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


async def test_a_changed_body_is_refused(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    request = Generate(prompt=image_base64, seed=1)
    good = signed_request(wallets["validator"].hotkey, request)
    for change in ({"prompt": image_base64[:-4] + "AAAA"}, {"seed": 2}, {"data_format": "ply"}, {"task_type": "text"}):
        body = signed_request(wallets["validator"].hotkey, request.model_copy(update=change)).body
        assert await send(bench.target, replace(good, body=body, nonce=time.time_ns())) == "400"
    assert not bench.runner.counters
    assert await send(bench.target, replace(good, nonce=time.time_ns())) == "200"


async def test_behind_the_middleware_the_sdk_compares_the_hash_too(bench: Bench) -> None:
    axon = bench.server.axon

    class Body:
        def __init__(self, prompt: str) -> None:
            self.headers = {"computed_body_hash": Generate(prompt="a").body_hash}
            self.url = SimpleNamespace(path="/Generate")
            self.content = Generate(prompt=prompt).model_dump_json().encode()

        async def body(self) -> bytes:
            return self.content

    assert (await axon.verify_body_integrity(Body("a")))["prompt"] == "a"
    with pytest.raises(ValueError, match="Hash mismatch"):
        await axon.verify_body_integrity(Body("b"))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Generate(prompt="%%%"), "not valid base64"),
        (Generate(prompt=base64.b64encode(b"no image").decode()), "not an image"),
        (Generate(prompt=""), "empty"),
        (Generate(task_type="text", prompt="a chair"), "no checkpoint for text"),
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
    assert (answer.dendrite.status_code, answer.results) == (403, "")
    assert "does not work for this hotkey" in answer.dendrite.status_message


class Held:
    """A generator that is busy until it is let go; remembers the seeds."""

    def __init__(self, bench: Bench) -> None:
        self.started, self.release = threading.Event(), threading.Event()
        self.seeds: list[int] = []
        bench.generate = self

    def __call__(self, request: Request) -> Asset:
        self.seeds.append(request.seed)
        self.started.set()
        assert self.release.wait(TIMEOUT)
        return make_asset(request)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on other threads
            await asyncio.sleep(0.01)


async def test_a_full_queue_says_so(bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    def push() -> asyncio.Task[Generate]:
        return asyncio.create_task(ask(bench, wallets["validator"], Generate(prompt=image_base64)))

    held = Held(bench)
    asks = [push()]
    assert await asyncio.to_thread(held.started.wait, TIMEOUT)
    asks += [push(), push()]
    await until(lambda: bench.runner.scheduler.waiting == 2)
    refused = await push()
    assert refused.dendrite.status_code == 503
    assert "busy" in refused.dendrite.status_message
    held.release.set()
    assert all(done.results for done in await asyncio.gather(*asks))
    assert (await push()).results


async def test_the_validator_with_more_stake_goes_first(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """The stranger is allowed by hotkey and has no stake."""
    bench.rules = PolicyRules.model_validate({"allow": [wallets["stranger"].hotkey.ss58_address]})

    def push(who: str, seed: int) -> asyncio.Task[Generate]:
        return asyncio.create_task(ask(bench, wallets[who], Generate(prompt=image_base64, seed=seed)))

    held = Held(bench)
    asks = [push("stranger", 1)]
    assert await asyncio.to_thread(held.started.wait, TIMEOUT)
    for waiting, who in enumerate(("stranger", "validator"), 1):
        asks.append(push(who, waiting + 1))
        await until(lambda waiting=waiting: bench.runner.scheduler.waiting == waiting)  # type: ignore[misc]
    held.release.set()
    assert all(done.results for done in await asyncio.gather(*asks))
    assert held.seeds == [1, 3, 2]


async def test_what_nobody_waits_for_is_not_made(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    held = Held(bench)
    first = asyncio.create_task(ask(bench, wallets["validator"], Generate(prompt=image_base64, seed=1)))
    assert await asyncio.to_thread(held.started.wait, TIMEOUT)
    call = signed_request(wallets["validator"].hotkey, Generate(prompt=image_base64, seed=2))
    async with connect(bench.target) as (_, writer):
        writer.write(call.head(bench.target) + call.body)
        await until(lambda: bench.runner.scheduler.waiting == 1)
    await until(lambda: bench.runner.scheduler.waiting == 0)
    held.release.set()
    assert (await first).results
    assert (await ask(bench, wallets["validator"], Generate(prompt=image_base64, seed=3))).results
    assert held.seeds == [1, 3]


async def test_concurrent_requests_of_one_dendrite_are_all_served(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """Whatever order their nonces arrive in."""
    hotkey, now = wallets["validator"].hotkey, time.time_ns()
    call = signed_request(hotkey, Generate(prompt=image_base64))
    for nonce in (now + 2, now + 1, now):
        assert await send(bench.target, replace(call, nonce=nonce)) == "200"


async def test_the_answer_is_ours_whatever_the_body_says(bench: Bench, wallets: dict[str, bt.Wallet]) -> None:
    hotkey = wallets["validator"].hotkey
    request = Generate(prompt="", results="mine", axon=bt.TerminalInfo(status_code=418, status_message="a\r\nb: c"))
    assert await send(bench.target, signed_request(hotkey, request)) == "200"


async def test_a_refused_client_that_is_still_sending_learns_why(bench: Bench, wallets: dict[str, bt.Wallet]) -> None:
    answer = await ask(bench, wallets["validator"], Generate(prompt="A" * 900_000))
    assert answer.dendrite.status_code == 413
    assert "longer than 500000 bytes" in answer.dendrite.status_message


@pytest.mark.parametrize("part", [b"POST /Generate HTTP/1.1\r\nhost: ", b""])
async def test_whoever_does_not_finish_its_headers_is_cut_off(bench: Bench, part: bytes) -> None:
    async with connect(bench.target) as (reader, writer), asyncio.timeout(TIMEOUT):
        writer.write(part)
        assert await reader.read() == b""
    assert len(bench.server.unauthenticated) == 0


async def test_an_admitted_connection_is_no_longer_limited(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """Unauthenticated connections cannot push it out, nor does the time limit of headers apply to its generation."""
    held = Held(bench)
    asked = asyncio.create_task(ask(bench, wallets["validator"], Generate(prompt=image_base64)))
    assert await asyncio.to_thread(held.started.wait, TIMEOUT)
    assert len(bench.server.unauthenticated) == 0
    async with connect(bench.target) as (reader, _), asyncio.timeout(TIMEOUT):
        await until(lambda: len(bench.server.unauthenticated) == 1)
        assert await reader.read() == b""
    held.release.set()
    assert (await asked).results


async def test_a_server_that_ends_by_itself_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WATCH_INTERVAL", 0.01)
    watching = asyncio.create_task(bench.server.watch())
    done, _ = await asyncio.wait([watching], timeout=0.1)
    assert not done
    bench.server.axon.stop()
    with pytest.raises(MinerError, match="ended by itself"):
        await asyncio.wait_for(watching, TIMEOUT)


async def test_only_the_address_asked_for_is_bound(bench: Bench) -> None:
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.2", bench.neuron.port)


def test_a_taken_port_is_the_operators_mistake() -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(OperatorError, match=rf"{port}.*--axon.port"):
            check_port_free(LOOPBACK, port)
    check_port_free(LOOPBACK, port)
    check_port_free("::1", port)


def test_an_address_that_is_not_ours_is_the_operators_mistake() -> None:
    with pytest.raises(OperatorError, match=r"203.0.113.7.*--axon.ip"):
        check_port_free("203.0.113.7", free_port())


async def test_pushed_tasks_are_in_the_ledger_without_a_verdict(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    good = await ask(bench, wallets["validator"], Generate(prompt=image_base64, seed=7))
    bad = await ask(bench, wallets["validator"], Generate(prompt="???"))
    assert (bool(good.results), bool(bad.error)) == (True, True)
    assert bench.ledger.flush(TIMEOUT)
    with LedgerReader(bench.ledger.path) as reader:
        first, second = reader.tasks()
    hotkey = wallets["validator"].hotkey.ss58_address
    for row in (first, second):
        assert (row.transport, row.validator, row.uid, row.task_type) == ("push", hotkey, 7, "image")
        assert (row.outcome, row.score) == ("unknown", None)
    assert (first.seed, first.gaussians, first.submission_bytes) == (7, 7000, len(good.results))
    assert second.error is not None
    assert second.error.startswith("PromptError: ")


async def test_requests_that_are_refused_are_not_in_the_ledger(
    bench: Bench, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    await ask(bench, wallets["stranger"], Generate(prompt=image_base64))
    assert bench.ledger.status.waiting == bench.ledger.status.written == 0
