"""Requests that hostile peers may send to an axon, with the answers they should get, and an honest validator."""

import asyncio
import base64
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import bittensor as bt
from PIL import Image, ImageDraw

from miner.localnet import LOOPBACK, check_result
from miner.localnet.raw_client import AxonAddress, RawRequest, send, send_bytes, signed_request
from miner.subnet.dendrite import Dendrite
from miner.subnet.metagraph import Neuron
from miner.subnet.protocol import Generate
from scripts.validation.picture_bombs import encode, jpeg_of_scans, png_of_chunks, tiff_of_strips

MEGABYTE = 1_000_000
HONEST_TIMEOUT = 180.0

Send = Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Peers:
    """The callers: an honest validator, four that are allowed and hostile, and a key that is not registered.

    Each hostile one has its own ways, so that none of them comes to its rate limit.
    """

    honest: bt.Keypair
    hostile: bt.Keypair
    slow: bt.Keypair
    bomber: bt.Keypair
    deaf: bt.Keypair
    unregistered: bt.Keypair

    @staticmethod
    def from_seed(seed: str) -> "Peers":
        """Derive the keys, which are the same for the same seed in any process."""
        return Peers(*(bt.Keypair.create_from_uri(f"//{seed}//{number}") for number in range(6)))


@dataclass(frozen=True)
class Attack:
    """A request, the answers that are right, and how many times it is sent at once."""

    send: Send
    expected: frozenset[str]
    count: int = 1


@dataclass(frozen=True)
class AttackOutcome:
    """How often each answer came, and whether all were expected."""

    answers: Counter[str]
    is_expected: bool

    def __add__(self, other: "AttackOutcome") -> "AttackOutcome":
        """Return the outcome of both."""
        return AttackOutcome(self.answers + other.answers, self.is_expected and other.is_expected)


def make_attacks(axon: AxonAddress, peers: Peers, connections: int, megabytes: int) -> dict[str, Attack]:
    """Return the attacks by name; floods have `connections` connections, huge bodies the given size."""
    synapse = Generate(prompt="AAAA")
    picture = large_task()
    empty_post = b"POST /Generate HTTP/1.1\r\nhost: a\r\n\r\n"
    get = b"GET /Generate HTTP/1.1\r\nhost: a\r\n\r\n"
    huge = b"x" * (megabytes * MEGABYTE)
    old_nonce = time.time_ns() - 3600 * 10**9
    forged = signed_request(peers.hostile, synapse, claimed_hotkey=peers.honest.ss58_address)
    tampered = RawRequest(peers.hostile, signed_request(peers.hostile, Generate(prompt="BBBB")).body, synapse.body_hash)

    def raw(data: bytes, *expected: str) -> Attack:
        return Attack(lambda: send_bytes(axon, data), frozenset(expected))

    def request(make: Callable[[], RawRequest], *expected: str, count: int = 1) -> Attack:
        return Attack(lambda: send(axon, make()), frozenset(expected), count)

    def unregistered(headers: Mapping[str, str], *expected: str, count: int = 1) -> Attack:
        return request(lambda: RawRequest(peers.unregistered, overrides=headers), *expected, count=count)

    def chunked(keypair: bt.Keypair, *expected: str, count: int = 1) -> Attack:
        head = RawRequest(keypair, overrides={"transfer-encoding": "chunked"}).head(axon)
        lines = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
        parts = (lines, b"%x\r\n" % len(huge), huge, b"\r\n0\r\n\r\n")
        return Attack(lambda: send_bytes(axon, *parts), frozenset(expected), count)

    def endless(make_head: Callable[[], bytes], *expected: str, count: int) -> Attack:
        return Attack(lambda: send_bytes(axon, make_head(), endlessly=True), frozenset(expected), count)

    bad_signature = {"bt_header_dendrite_signature": "0x" + "12" * 64}
    # A refused client that is still sending may see the end of the connection before it sees why: "closed".
    return {
        "no headers of ours": raw(empty_post, "415"),
        "not HTTP": raw(b"\x16\x03\x01\x00\xa5\r\n\r\n", "400"),
        "GET": raw(get, "405"),
        "the SDK's ping": raw(get.replace(b"Generate", b"Synapse"), "404"),
        "empty signature": unregistered({"bt_header_dendrite_signature": "0x"}, "401"),
        "the honest one's hotkey": unregistered({"bt_header_dendrite_hotkey": peers.honest.ss58_address}, "401"),
        "a stranger": unregistered({}, "403"),
        "old nonce": request(lambda: RawRequest(peers.hostile, nonce=old_nonce), "401"),
        "forged body hotkey": request(lambda: forged, "401"),
        "changed prompt": request(lambda: tampered, "400"),
        **_replays(axon, peers, synapse),
        "wrong content type": unregistered({"content-type": "text/plain"}, "415"),
        "deeply nested JSON": request(lambda: RawRequest(peers.hostile, b'{"dendrite":' * 10_000), "400"),
        "huge headers": unregistered({"x": "y" * MEGABYTE}, "400", "closed"),
        "huge body": request(lambda: RawRequest(peers.unregistered, huge), "413", "closed", count=4),
        "huge body in chunks": chunked(peers.unregistered, "403", "closed", count=4),
        "huge body in chunks, allowed": chunked(peers.hostile, "413", "closed"),
        "flood of a stranger": unregistered({}, "403", "closed", count=connections),
        "flood of bad signatures": unregistered(bad_signature, "401", "closed", count=connections),
        "slow headers": endless(lambda: b"POST /Generate HTTP/1.1\r\nx: ", "closed", count=connections),
        "slow bodies, allowed": endless(
            lambda: RawRequest(peers.slow, b"x" * 10_000).head(axon), "408", "503", count=20
        ),
        **_pictures(axon, peers, megabytes),
        "answers that nobody reads": Attack(
            lambda: send_without_reading(axon, signed_request(peers.deaf, picture)), frozenset({"closed"}), count=3
        ),
    }


def large_task() -> Generate:
    """Return a request whose answer has some 20 MB: a picture of an object that is cut out already, for a PLY."""
    image = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(image).ellipse((24, 24, 104, 104), fill=(200, 60, 40, 255))
    return Generate(prompt=base64.b64encode(encode(image, "PNG")).decode(), data_format="ply")


def _pictures(axon: AxonAddress, peers: Peers, megabytes: int) -> dict[str, Attack]:
    """Return requests for pictures that cost a decoder much; 413 is right where the axon takes shorter bodies only."""
    files = {
        "a JPEG of 200 scans": jpeg_of_scans(200),
        "a JPEG of as many scans as pass": jpeg_of_scans(90),
        "a TIFF of 1.5 million strips": tiff_of_strips(min(30_000 * megabytes, 1_500_000)),
        "a PNG of 900,000 chunks": png_of_chunks(min(18_000 * megabytes, 900_000)),
    }

    def attack(file: bytes) -> Attack:
        synapse = Generate(prompt=base64.b64encode(file).decode())
        return Attack(lambda: send(axon, signed_request(peers.bomber, synapse)), frozenset({"200", "413"}))

    return {name: attack(file) for name, file in files.items()}


def page_attack(port: int, count: int) -> Attack:
    """Return connections to the monitor on which nothing is sent.

    The client cannot tell one that the system never handed to the monitor, since too many came at once: it hangs.
    """
    page = AxonAddress(port, "")
    return Attack(lambda: send_bytes(page, b""), frozenset({"closed", "hangs"}), count)


async def send_without_reading(axon: AxonAddress, request: RawRequest) -> str:
    """Send a request and read nothing; return "closed" once the connection is, or "hangs"."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HONEST_TIMEOUT):
                await loop.sock_connect(client, (LOOPBACK, axon.port))
                await loop.sock_sendall(client, request.head(axon) + request.body)
                while True:
                    # What is sent behind the request is never looked at, but tells whether there is still a peer.
                    await loop.sock_sendall(client, b"x")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return "hangs"
        except OSError:
            return "closed"


def _replays(axon: AxonAddress, peers: Peers, synapse: Generate) -> dict[str, Attack]:
    """Return a request of the hostile validator that is accepted, and its nonce again in three disguises."""
    first, from_another = signed_request(peers.hostile, synapse), signed_request(peers.honest, synapse)
    is_sent = asyncio.Event()

    async def send_first() -> str:
        try:
            return await send(axon, first)
        finally:
            is_sent.set()

    def replay(request: RawRequest) -> Attack:
        async def send_again() -> str:
            await is_sent.wait()
            return await send(axon, request)

        return Attack(send_again, frozenset({"401"}))

    return {
        "replay: taken once": Attack(send_first, frozenset({"200"})),
        "replay: the same bytes again": replay(first),
        "replay: its nonce, another session": replay(replace(first, session=str(uuid.uuid1()))),
        "replay: its nonce, another validator": replay(replace(from_another, nonce=first.nonce)),
    }


async def run_attacks(attacks: Mapping[str, Attack]) -> dict[str, AttackOutcome]:
    """Run all attacks at once; return their outcomes by name."""

    async def run(attack: Attack) -> AttackOutcome:
        answers = Counter(await asyncio.gather(*(attack.send() for _ in range(attack.count))))
        return AttackOutcome(answers, set(answers) <= attack.expected)

    return dict(zip(attacks, await asyncio.gather(*map(run, attacks.values())), strict=True))


async def push_tasks(
    axon: AxonAddress, keypair: bt.Keypair, prompt: str, stopping: asyncio.Event
) -> list[tuple[str, float]]:
    """Push one task after another as an honest validator, the last after `stopping` is set.

    Returns the verdict and the seconds of each.
    """
    neuron = Neuron(uid=1, hotkey=axon.hotkey, coldkey="c", ip=LOOPBACK, port=axon.port)
    dendrite, is_last = Dendrite(keypair), False
    results: list[tuple[str, float]] = []
    while not is_last:
        is_last = stopping.is_set()
        started = time.monotonic()
        answer = await dendrite.ask(neuron, Generate(prompt=prompt, seed=len(results)), HONEST_TIMEOUT)
        verdict = check_result("honest", "push", answer.results).verdict
        if verdict != "valid":
            verdict += f" (HTTP {answer.dendrite.status_code}: {answer.dendrite.status_message} {answer.error})"
        results.append((verdict, time.monotonic() - started))
    await dendrite.aclose_session()
    return results
