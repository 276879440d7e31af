"""What hostile peers may send to an axon, with the answers they should get, and an honest validator beside them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import bittensor as bt

from miner.localnet.validator import LOOPBACK, check_result
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate

MEGABYTE = 1_000_000
# A refusal comes at once; what takes longer than this hangs.
PATIENCE = 60.0
HONEST_TIMEOUT = 180.0


@dataclass(frozen=True)
class Target:
    """The axon under attack."""

    port: int
    hotkey: str


@dataclass(frozen=True)
class Cast:
    """Who plays: an honest validator, two that are allowed and hostile, and a key that nobody knows."""

    honest: bt.Keypair
    hostile: bt.Keypair
    sluggish: bt.Keypair
    stranger: bt.Keypair

    @staticmethod
    def of(seed: str) -> Cast:
        """The same keys for the same seed, in any process."""
        return Cast(*(bt.Keypair.create_from_uri(f"//{seed}//{number}") for number in range(4)))


@dataclass(frozen=True)
class Call:
    """A request as its bytes are made; what is not given is as it should be."""

    keypair: bt.Keypair
    body: bytes = b"{}"
    body_hash: str = Generate().body_hash
    nonce: int = field(default_factory=time.time_ns)
    session: str = field(default_factory=lambda: str(uuid.uuid1()))
    changed: Mapping[str, str] = field(default_factory=dict)

    def head(self, target: Target) -> bytes:
        """Request line and headers."""
        message = f"{self.nonce}.{self.keypair.ss58_address}.{target.hotkey}.{self.session}.{self.body_hash}"
        headers = {
            "host": LOOPBACK,
            "content-type": "application/json",
            "content-length": str(len(self.body)),
            "bt_header_dendrite_hotkey": self.keypair.ss58_address,
            "bt_header_dendrite_nonce": str(self.nonce),
            "bt_header_dendrite_uuid": self.session,
            "bt_header_dendrite_signature": f"0x{self.keypair.sign(message).hex()}",
            "computed_body_hash": self.body_hash,
            **self.changed,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /Generate HTTP/1.1\r\n{lines}\r\n".encode()


def signed_call(keypair: bt.Keypair, request: Generate, claimed: str | None = None) -> Call:
    """A well-made call; `claimed` is the hotkey that its body gives."""
    body = request.model_copy(update={"dendrite": bt.TerminalInfo(hotkey=claimed or keypair.ss58_address)})
    return Call(keypair, body.model_dump_json().encode(), request.body_hash)


@asynccontextmanager
async def connection(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, target.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def exchange(target: Target, *parts: bytes) -> str:
    """Send the parts; the answer's status, or "closed" when the connection ended without one."""
    try:
        async with asyncio.timeout(PATIENCE), connection(target) as (reader, writer):
            with suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
            line = await reader.readline()
            return line.split()[1].decode() if line else "closed"
    except TimeoutError:
        return "hangs"
    except OSError:
        return "closed"


async def send(target: Target, call: Call) -> str:
    """The status that a call gets."""
    return await exchange(target, call.head(target), call.body)


async def dribble(target: Target, *parts: bytes) -> str:
    """Send each part, then a byte each tenth of a second and never an end; how it ended."""
    try:
        async with asyncio.timeout(PATIENCE), connection(target) as (reader, writer):
            answer = asyncio.create_task(reader.readline())
            for part in parts:
                writer.write(part)
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.1)
            line = await answer
            return line.split()[1].decode() if line else "closed"
    except TimeoutError:
        return "hangs"
    except OSError:
        return "closed"


Attack = Callable[[], Awaitable[str]]


def replays(target: Target, cast: Cast) -> Mapping[str, Attack]:
    """A call of the hostile validator that is taken, and its nonce again in three disguises."""
    request = Generate(prompt="AAAA")
    first = signed_call(cast.hostile, request)
    taken = asyncio.Event()

    async def take() -> str:
        try:
            return await send(target, first)
        finally:
            taken.set()

    def later(call: Call) -> Attack:
        async def attack() -> str:
            await taken.wait()
            return await send(target, call)

        return attack

    another_session = replace(first, session=str(uuid.uuid1()))
    another_validator = replace(signed_call(cast.honest, request), nonce=first.nonce)
    return {
        "taken once": take,
        "the same bytes again": later(first),
        "its nonce, another session": later(another_session),
        "its nonce, another validator": later(another_validator),
    }


def attacks(target: Target, cast: Cast, connections: int, megabytes: int) -> dict[str, tuple[Attack, set[str], int]]:
    """Name -> what to do, the outcomes that are right, and how many times at once."""
    honest = cast.honest.ss58_address
    request = Generate(prompt="AAAA")
    huge = b"x" * (megabytes * MEGABYTE)
    nested = b'{"dendrite":' * 10_000
    # A refused client that is still sending may see the end of the connection before it sees why.
    cut = {"closed"}

    def calls(**changed: str) -> Call:
        return Call(cast.stranger, changed=changed)

    def chunked(keypair: bt.Keypair) -> Attack:
        head = Call(keypair, changed={"transfer-encoding": "chunked"}).head(target)
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
        return lambda: exchange(target, b"\r\n".join(lines), b"%x\r\n" % len(huge), huge, b"\r\n0\r\n\r\n")

    taken = replays(target, cast)
    forged = signed_call(cast.hostile, request, claimed=honest)
    tampered = Call(cast.hostile, signed_call(cast.hostile, Generate(prompt="BBBB")).body, request.body_hash)
    get = b"GET /Generate HTTP/1.1\r\nhost: a\r\n\r\n"
    return {
        "no headers of ours": (lambda: exchange(target, b"POST /Generate HTTP/1.1\r\nhost: a\r\n\r\n"), {"415"}, 1),
        "not HTTP": (lambda: exchange(target, b"\x16\x03\x01\x00\xa5\r\n\r\n"), {"400"}, 1),
        "GET": (lambda: exchange(target, get), {"405"}, 1),
        "the SDK's ping": (lambda: exchange(target, get.replace(b"Generate", b"Synapse")), {"404"}, 1),
        "empty signature": (lambda: send(target, calls(bt_header_dendrite_signature="0x")), {"401"}, 1),
        "the honest one's hotkey": (lambda: send(target, calls(bt_header_dendrite_hotkey=honest)), {"401"}, 1),
        "a stranger": (lambda: send(target, calls()), {"403"}, 1),
        "old nonce": (lambda: send(target, Call(cast.hostile, nonce=time.time_ns() - 3600 * 10**9)), {"401"}, 1),
        "forged body hotkey": (lambda: send(target, forged), {"401"}, 1),
        "changed prompt": (lambda: send(target, tampered), {"400"}, 1),
        **{
            f"replay: {name}": (attack, {"200" if name == "taken once" else "401"}, 1) for name, attack in taken.items()
        },
        "wrong content type": (lambda: send(target, calls(**{"content-type": "text/plain"})), {"415"}, 1),
        "deeply nested JSON": (lambda: send(target, Call(cast.hostile, nested)), {"400"}, 1),
        "huge headers": (lambda: send(target, calls(x="y" * MEGABYTE)), {"400"} | cut, 1),
        "huge body": (lambda: send(target, Call(cast.stranger, huge)), {"413"} | cut, 4),
        "huge body in chunks": (chunked(cast.stranger), {"403"} | cut, 4),
        "huge body in chunks, allowed": (chunked(cast.hostile), {"413"} | cut, 1),
        "flood of a stranger": (lambda: send(target, calls()), {"403"} | cut, connections),
        "flood of bad signatures": (
            lambda: send(target, calls(bt_header_dendrite_signature="0x" + "12" * 64)),
            {"401"} | cut,
            connections,
        ),
        "slow headers": (lambda: dribble(target, b"POST /Generate HTTP/1.1\r\nx: "), cut, connections),
        "slow bodies, allowed": (
            lambda: dribble(target, Call(cast.sluggish, b"x" * 10_000).head(target)),
            {"408", "503"},
            20,
        ),
    }


Outcomes = dict[str, tuple[Counter[str], bool]]


async def run_attacks(chosen: Mapping[str, tuple[Attack, set[str], int]]) -> Outcomes:
    """All at once; by name how they ended, and whether that is right."""

    async def run(attack: Attack, times: int) -> Counter[str]:
        return Counter(await asyncio.gather(*(attack() for _ in range(times))))

    outcomes = await asyncio.gather(*(run(attack, times) for attack, _, times in chosen.values()))
    return {
        name: (outcome, set(outcome) <= right)
        for (name, (_, right, _)), outcome in zip(chosen.items(), outcomes, strict=True)
    }


async def push(target: Target, keypair: bt.Keypair, prompt: str, until: asyncio.Event) -> list[tuple[str, float]]:
    """The honest validator: one task after another, a last one after the attacks; verdicts and seconds."""
    neuron = Neuron(uid=1, hotkey=target.hotkey, coldkey="c", ip=LOOPBACK, port=target.port)
    dendrite, last = Dendrite(keypair), False
    results: list[tuple[str, float]] = []
    while not last:
        last = until.is_set()
        started = time.monotonic()
        answer = await dendrite.ask(neuron, Generate(prompt=prompt, seed=len(results)), HONEST_TIMEOUT)
        verdict = check_result("honest", "push", answer.results).verdict
        if verdict != "valid":
            verdict += f" (HTTP {answer.dendrite.status_code}: {answer.dendrite.status_message} {answer.error})"
        results.append((verdict, time.monotonic() - started))
    await dendrite.aclose_session()
    return results
