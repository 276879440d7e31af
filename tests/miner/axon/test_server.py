import asyncio
import base64
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bittensor as bt
import pytest

from miner.axon import server as server_module
from miner.axon.server import check_port_free
from miner.config.choice_sections import GateSettings, ScorerSettings
from miner.config.phase import Phase
from miner.config.policy import PolicyRules
from miner.errors import MinerError, OperatorError
from miner.gpu import GenerationOrder
from miner.ledger.reader import LedgerReader
from miner.localnet.raw_client import connect, send, signed_request
from miner.localnet.validator import LOOPBACK, free_port
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Snapshot
from miner.subnet.protocol import Generate
from pipeline import Asset, BestOfN, BestResult, EmptyForeground, OnStep, Request, ply, spz
from tests.support.generated import make_asset
from tests.support.miner_parts import HeldGeneration
from tests.support.serving import ServingMiner, ask
from tests.support.waiting import TIMEOUT, until


# The SDK's server ends its thread with SystemExit.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_server_that_cannot_start_says_so_and_can_be_stopped(
    wallets: dict[str, bt.Wallet],
    snapshot: Snapshot,
    phase: Phase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "START_TIMEOUT", 0.3)
    miner = ServingMiner(tmp_path, phase, wallets["miner"], snapshot)
    with socket.create_server((LOOPBACK, miner.neuron.port)):
        with pytest.raises(MinerError, match="did not start"):
            await miner.server.start()
        await miner.server.stop()
    miner.close()


@pytest.mark.parametrize("data_format", ["spz", "ply"])
async def test_a_validator_gets_its_result(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, data_format: str
) -> None:
    request = Generate(prompt=image_base64, seed=7, data_format=data_format)
    answer = await ask(miner, wallets["validator"], request)
    assert answer.dendrite.status_code == 200
    data = base64.b64decode(answer.results, validate=True)
    assert len((spz if data_format == "spz" else ply).from_bytes(data)) == answer.gaussians == 7000
    assert (answer.error, answer.seconds["structure"]) == ("", 0.25)
    assert miner.runner.counters == {"pushed": 1, "generated": 1}


async def test_pushed_tasks_are_generated_on_the_miners_own_event_loop(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's server has a thread and a loop of its own; pulled tasks share the workers with pushed ones."""
    threads: list[int] = []
    run = miner.pool.run

    async def noting(order: GenerationOrder, choice: BestOfN) -> BestResult:
        threads.append(threading.get_ident())
        return await run(order, choice)

    monkeypatch.setattr(miner.pool, "run", noting)
    miner.runner.on_result = lambda *_: threads.append(threading.get_ident())
    answer = await ask(miner, wallets["validator"], Generate(prompt=image_base64))
    assert answer.dendrite.status_code == 200
    assert threads == [threading.get_ident()] * 2


async def test_the_seed_is_the_validators(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    answers = [await ask(miner, wallets["validator"], Generate(prompt=image_base64, seed=s)) for s in (3, 3, 4)]
    assert answers[0].results == answers[1].results != answers[2].results


async def test_a_result_below_the_gate_is_not_sent(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, phase: Phase
) -> None:
    gated = phase.model_copy(update={"scorer": ScorerSettings(), "gate": GateSettings(quality=0.3)})
    miner.score = lambda _: 0.25
    miner.use_phase(gated)
    answer = await ask(miner, wallets["validator"], Generate(prompt=image_base64))
    assert (answer.results, answer.error) == ("", "it has quality 0.250, the phase's gate asks for 0.3")
    assert miner.runner.counters == {"pushed": 1, "Withheld": 1}


@pytest.mark.parametrize("who", ["miner", "stranger"])
async def test_others_are_refused_before_any_work(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, who: str
) -> None:
    answer = await ask(miner, wallets[who], Generate(prompt=image_base64))
    assert (answer.dendrite.status_code, answer.results) == (403, "")
    assert answer.dendrite.status_message == "this miner does not work for this hotkey"
    assert miner.server.refusals == {"refused_403": 1}
    assert not miner.runner.counters


async def test_a_forged_signature_is_refused(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    class Forger(Dendrite):
        def preprocess_synapse_for_request(self, *args: object, **kwargs: object) -> bt.Synapse:
            synapse = super().preprocess_synapse_for_request(*args, **kwargs)
            synapse.dendrite.hotkey = wallets["validator"].hotkey.ss58_address
            return synapse

    forger = Forger(wallets["stranger"].hotkey)
    answer = await forger.ask(miner.neuron, Generate(prompt=image_base64), TIMEOUT)
    await forger.aclose_session()
    assert answer.dendrite.status_code == 401
    assert "generated" not in miner.runner.counters


async def test_a_changed_body_is_refused(miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    request = Generate(prompt=image_base64, seed=1)
    good = signed_request(wallets["validator"].hotkey, request)
    for change in ({"prompt": image_base64[:-4] + "AAAA"}, {"seed": 2}, {"data_format": "ply"}, {"task_type": "text"}):
        body = signed_request(wallets["validator"].hotkey, request.model_copy(update=change)).body
        assert await send(miner.address, replace(good, body=body, nonce=time.time_ns())) == "400"
    assert not miner.runner.counters
    assert await send(miner.address, replace(good, nonce=time.time_ns())) == "200"


async def test_behind_the_middleware_the_sdk_compares_the_hash_too(miner: ServingMiner) -> None:
    axon = miner.server.axon

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
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, request_: Generate, error: str
) -> None:
    answer = await ask(miner, wallets["validator"], request_)
    assert (answer.dendrite.status_code, answer.results) == (200, "")
    assert error in answer.error
    assert (await ask(miner, wallets["validator"], Generate(prompt=image_base64))).results


async def test_a_prompt_that_breaks_its_decoder_costs_only_its_own_task(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    with monkeypatch.context() as patched:
        patched.setattr(miner.runner.decoder, "decode", fail)
        answer = await ask(miner, wallets["validator"], Generate(prompt=image_base64))
    assert (answer.dendrite.status_code, answer.error) == (200, "the prompt could not be decoded")
    assert miner.runner.counters == {"pushed": 1, "internal_error": 1}
    assert (await ask(miner, wallets["validator"], Generate(prompt=image_base64))).results


async def test_failed_generation_is_told(miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    def no_object(request: Request, on_step: OnStep) -> Asset:
        raise EmptyForeground("the image shows no object")

    def broken(request: Request, on_step: OnStep) -> Asset:
        raise RuntimeError("secret detail")

    def too_few(request: Request, on_step: OnStep) -> Asset:
        return make_asset(request, 6999)

    for generate, error in ((no_object, "no object"), (broken, "unexpectedly"), (too_few, "score it 0")):
        miner.generate = generate
        answer = await ask(miner, wallets["validator"], Generate(prompt=image_base64))
        assert error in answer.error
        assert "secret" not in answer.error
        assert answer.results == ""


async def test_a_validator_blacklisted_meanwhile_gets_nothing(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    def blacklist_meanwhile(request: Request, on_step: OnStep) -> Asset:
        miner.rules = PolicyRules(min_stake=1e9)
        return make_asset(request)

    miner.generate = blacklist_meanwhile
    answer = await ask(miner, wallets["validator"], Generate(prompt=image_base64))
    assert (answer.dendrite.status_code, answer.results) == (403, "")
    assert "does not work for this hotkey" in answer.dendrite.status_message


async def test_a_full_queue_says_so(miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str) -> None:
    def push() -> asyncio.Task[Generate]:
        return asyncio.create_task(ask(miner, wallets["validator"], Generate(prompt=image_base64)))

    miner.generate = held = HeldGeneration()
    asks = [push()]
    await held.begins()
    asks += [push(), push()]
    await until(lambda: miner.pool.waiting == 2)
    refused = await push()
    assert refused.dendrite.status_code == 503
    assert "busy" in refused.dendrite.status_message
    held.release()
    assert all(done.results for done in await asyncio.gather(*asks))
    assert (await push()).results


async def test_the_validator_with_more_stake_goes_first(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """The stranger is allowed by hotkey and has no stake."""
    miner.rules = PolicyRules.model_validate({"allow": [wallets["stranger"].hotkey.ss58_address]})

    def push(who: str, seed: int) -> asyncio.Task[Generate]:
        return asyncio.create_task(ask(miner, wallets[who], Generate(prompt=image_base64, seed=seed)))

    miner.generate = held = HeldGeneration()
    asks = [push("stranger", 1)]
    await held.begins()
    for waiting, who in enumerate(("stranger", "validator"), 1):
        asks.append(push(who, waiting + 1))
        await until(lambda waiting=waiting: miner.pool.waiting == waiting)  # type: ignore[misc]
    held.release()
    assert all(done.results for done in await asyncio.gather(*asks))
    assert [request.seed for request in miner.requests] == [1, 3, 2]


async def test_what_nobody_waits_for_is_not_made(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    miner.generate = held = HeldGeneration()
    first = asyncio.create_task(ask(miner, wallets["validator"], Generate(prompt=image_base64, seed=1)))
    await held.begins()
    call = signed_request(wallets["validator"].hotkey, Generate(prompt=image_base64, seed=2))
    async with connect(miner.address) as (_, writer):
        writer.write(call.head(miner.address) + call.body)
        await until(lambda: miner.pool.waiting == 1)
    await until(lambda: miner.pool.waiting == 0)
    held.release()
    assert (await first).results
    assert (await ask(miner, wallets["validator"], Generate(prompt=image_base64, seed=3))).results
    assert [request.seed for request in miner.requests] == [1, 3]


async def test_concurrent_requests_of_one_dendrite_are_all_served(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    """Whatever order their nonces arrive in."""
    hotkey, now = wallets["validator"].hotkey, time.time_ns()
    call = signed_request(hotkey, Generate(prompt=image_base64))
    for nonce in (now + 2, now + 1, now):
        assert await send(miner.address, replace(call, nonce=nonce)) == "200"


async def test_the_answer_is_ours_whatever_the_body_says(miner: ServingMiner, wallets: dict[str, bt.Wallet]) -> None:
    hotkey = wallets["validator"].hotkey
    request = Generate(prompt="", results="mine", axon=bt.TerminalInfo(status_code=418, status_message="a\r\nb: c"))
    assert await send(miner.address, signed_request(hotkey, request)) == "200"


async def test_only_the_address_asked_for_is_bound(miner: ServingMiner) -> None:
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.2", miner.neuron.port)


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
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    good = await ask(miner, wallets["validator"], Generate(prompt=image_base64, seed=7))
    bad = await ask(miner, wallets["validator"], Generate(prompt="???"))
    assert (bool(good.results), bool(bad.error)) == (True, True)
    assert miner.ledger.flush(TIMEOUT)
    with LedgerReader(miner.ledger.path) as reader:
        first, second = reader.tasks()
    hotkey = wallets["validator"].hotkey.ss58_address
    for row in (first, second):
        assert (row.transport, row.validator, row.uid, row.task_type) == ("push", hotkey, 7, "image")
        assert (row.outcome, row.score) == ("unknown", None)
    assert (first.seed, first.gaussians, first.submission_bytes) == (7, 7000, len(good.results))
    assert second.error is not None
    assert second.error.startswith("PromptError: ")


async def test_requests_that_are_refused_are_not_in_the_ledger(
    miner: ServingMiner, wallets: dict[str, bt.Wallet], image_base64: str
) -> None:
    await ask(miner, wallets["stranger"], Generate(prompt=image_base64))
    assert miner.ledger.status.waiting == miner.ledger.status.written == 0
