"""Answers that no honest validator sends: whatever they hold, an exchange returns and its meaning is a plain value."""

import gzip
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import bittensor as bt
import pytest
from aiohttp import web

from miner.localnet.validator import LOOPBACK, free_port
from miner.pull.responses import MAX_ID_LENGTH, PullFailed, TaskAssigned, is_credible, read_pull, read_submission
from miner.pull.state_machine import PullCompleted, SubmissionCompleted, TimerFired, WaitUntil, transition
from miner.pull.validator_state import MAX_WAIT, Stage, ValidatorState
from miner.subnet.dendrite import Dendrite, Reply
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Feedback, PullTask, SubmitResults, TextTask, sign_submission
from scripts.validation.hostile_answers import HOSTILE, mutate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NOW, WALL = 1000.0, 1.8e9
TASK = TextTask(id="t", prompt="a chair")


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[Neuron]:
    application = web.Application(client_max_size=2**26)
    application.router.add_post("/{route}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, LOOPBACK, port).start()
    try:
        yield Neuron(uid=0, hotkey="5Validator", coldkey="c", ip=LOOPBACK, port=port)
    finally:
        await runner.cleanup()


def submission(wallets: dict[str, bt.Wallet]) -> SubmitResults:
    return sign_submission(TASK, "", 1, wallets["miner"].hotkey, "5Validator")


def advance(reply: Reply[Any]) -> None:
    """Interpret a reply and hand it to the state machine, as a session does."""
    # Whatever it says of the answer, it is not to raise.
    is_credible(reply.date or WALL, reply.synapse.cooldown_until, WALL)
    pulling, _ = transition(ValidatorState(), TimerFired(), NOW, WALL)
    if isinstance(reply.synapse, PullTask):
        response = read_pull(reply.synapse)
        state, action = transition(pulling, PullCompleted(response, NOW, reply.delivered, None), NOW, WALL)
        assert isinstance(response, TaskAssigned) == (state.stage is Stage.HOLDING)
        if isinstance(response, TaskAssigned):
            assert len(response.task.id.encode()) <= 4 * MAX_ID_LENGTH
            assert 0 <= response.throttle_period <= 3600
    else:
        answer = read_submission(reply.synapse, is_skip=True, is_repeat=False, validator_time=WALL)
        assert answer.reason.isprintable()
        assert len(answer.reason) < 400
        assert answer.score is None or math.isfinite(answer.score)
        held, _ = transition(pulling, PullCompleted(TaskAssigned(TASK, 30.0), NOW), NOW, WALL)
        state, action = transition(held, SubmissionCompleted(answer, NOW, reply.delivered, None), NOW, WALL)
    if isinstance(action, WaitUntil):
        assert NOW < action.moment <= NOW + MAX_WAIT + 2


@pytest.mark.parametrize("message", ["PullTask", "SubmitResults"])
async def test_no_value_of_any_field_of_any_answer_does_harm(wallets: dict[str, bt.Wallet], message: str) -> None:
    assert len(HOSTILE) >= 40
    synapse = PullTask() if message == "PullTask" else submission(wallets)
    # Of the fields that all synapses have, those that the SDK takes over from an answer.
    names = (type(synapse).model_fields.keys() - bt.Synapse.model_fields.keys()) | {"dendrite", "axon"}
    paths: list[tuple[str, ...]] = [(name,) for name in sorted(names)]
    paths += [("task", name) for name in TextTask.model_fields]
    paths += [("feedback", name) for name in Feedback.model_fields] if message == "SubmitResults" else []
    bodies = iter(wrap(path, value) for path in paths for value in HOSTILE)

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=next(bodies), content_type="application/json")

    dendrite = Dendrite(wallets["miner"].hotkey)
    async with answering(answer) as neuron:
        for _ in range(len(paths) * len(HOSTILE)):
            advance(await dendrite.exchange(neuron, synapse.model_copy(), 20.0))
        await dendrite.aclose_session()


def wrap(path: tuple[str, ...], value: str) -> str:
    """An answer with one field replaced; the others are such that the field is looked at."""
    if len(path) == 1:
        return f'{{"cooldown_until": {int(WALL) + 300}, "{path[0]}": {value}}}'
    whole = '"id": "i", "type": "text", "prompt": "p", ' if path[0] == "task" else ""
    return f'{{"cooldown_until": {int(WALL) + 300}, "{path[0]}": {{{whole}"{path[1]}": {value}}}}}'


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b'{"dendrite": null}', b'{"axon": 5, "name": {}}', b"[" * 10**6],
)
async def test_no_body_does_harm(wallets: dict[str, bt.Wallet], body: bytes) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    reply = await pull(wallets, answer)
    advance(reply)
    assert reply.synapse.dendrite.status_code in (200, 0)


async def pull(wallets: dict[str, bt.Wallet], handler: Handler, limit: int = 1_000_000) -> Reply[PullTask]:
    dendrite = Dendrite(wallets["miner"].hotkey, limit)
    async with answering(handler) as neuron:
        reply = await dendrite.exchange(neuron, PullTask(), 20.0)
        await dendrite.aclose_session()
    return reply


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A quarter of a gigabyte, compressed."""
    return gzip.compress(b" " * 2**28)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "", "br", "zstd"])
async def test_the_size_of_an_answer_is_limited_after_decompression(
    wallets: dict[str, bt.Wallet], bomb: bytes, encoding: str
) -> None:

    async def answer(_request: web.Request) -> web.Response:
        body = bomb if encoding else b" " * 1_000_001
        return web.Response(body=body, headers={"Content-Encoding": encoding} if encoding else None)

    response = read_pull((await pull(wallets, answer)).synapse)
    assert isinstance(response, PullFailed)
    reason = "not asked for" if encoding in ("br", "zstd") else "more than 1000000 bytes"
    assert reason in response.reason


async def test_compressed_answers_within_the_limit_are_read(wallets: dict[str, bt.Wallet]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b'{"cooldown_until": 7}'), headers={"Content-Encoding": "gzip"})

    assert (await pull(wallets, answer)).synapse.cooldown_until == 7


async def test_an_answer_without_end_is_given_up(wallets: dict[str, bt.Wallet]) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    response = read_pull((await pull(wallets, answer)).synapse)
    assert response == PullFailed("no usable answer: ValueError: the answer has more than 1000000 bytes")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_never_followed(wallets: dict[str, bt.Wallet], status: int) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/PullTask":
            return web.Response(status=status, headers={"Location": "/internal"})
        return web.json_response({"task": {"id": "1", "type": "text", "prompt": "p"}})

    response = read_pull((await pull(wallets, answer)).synapse)
    assert isinstance(response, PullFailed)
    assert f"HTTP {status}" in response.reason
    assert asked == ["/PullTask"]


@pytest.mark.parametrize(
    ("task_id", "problem"),
    [("x" * 129, "id has 129 characters, more than 128"), ("\ud800", "no usable answer|not valid Unicode")],
)
async def test_ids_that_cannot_be_kept_are_refused(wallets: dict[str, bt.Wallet], task_id: str, problem: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"task": {"id": task_id, "type": "text", "prompt": "p"}})

    response = read_pull((await pull(wallets, answer)).synapse)
    assert isinstance(response, PullFailed)
    assert any(words in response.reason for words in problem.split("|"))


async def test_no_mutation_of_an_honest_answer_does_harm(wallets: dict[str, bt.Wallet]) -> None:
    feedback = Feedback(task_fidelity_score=0.7, average_fidelity_score=0.7, generations_within_the_window=9)
    answers = (
        PullTask(task=TextTask(id="1b4e28ba", prompt="a chair"), throttle_period=30),
        PullTask(cooldown_until=int(WALL) + 300, cooldown_violations=1),
        submission(wallets).model_copy(update={"feedback": feedback, "cooldown_until": int(WALL) + 300}),
    )
    rng = random.Random(17)
    synapses: dict[str, Any] = {"PullTask": PullTask(), "SubmitResults": submission(wallets)}
    route = ""

    async def answer(_request: web.Request) -> web.Response:
        honest = next(answer for answer in rng.sample(answers, 3) if type(answer).__name__ == route)
        return web.Response(body=mutate(honest.model_dump_json().encode(), rng), content_type="application/json")

    dendrite = Dendrite(wallets["miner"].hotkey)
    async with answering(answer) as neuron:
        for _ in range(300):
            route = rng.choice(list(synapses))
            advance(await dendrite.exchange(neuron, synapses[route].model_copy(), 20.0))
        await dendrite.aclose_session()
