"""A client of axons that signs its requests itself, so that any byte of them can be wrong."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import bittensor as bt

from miner.localnet.validator import LOOPBACK
from miner.subnet.protocol import Generate

# A refusal is immediate; an exchange that takes longer than this hangs.
TIMEOUT = 60.0


@dataclass(frozen=True)
class AxonAddress:
    """The port of an axon on this machine, and its hotkey."""

    port: int
    hotkey: str


@dataclass(frozen=True)
class RawRequest:
    """A request with correctly signed headers, unless a field says otherwise; `overrides` replace some of them."""

    keypair: bt.Keypair
    body: bytes = b"{}"
    body_hash: str = Generate().body_hash
    nonce: int = field(default_factory=time.time_ns)
    session: str = field(default_factory=lambda: str(uuid.uuid1()))
    overrides: Mapping[str, str] = field(default_factory=dict)

    def head(self, axon: AxonAddress) -> bytes:
        """Return request line and headers."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(axon).items())
        return f"POST /Generate HTTP/1.1\r\n{lines}\r\n".encode()

    def headers(self, axon: AxonAddress) -> dict[str, str]:
        """Return the headers with the signature."""
        message = f"{self.nonce}.{self.keypair.ss58_address}.{axon.hotkey}.{self.session}.{self.body_hash}"
        return {
            "host": LOOPBACK,
            "content-type": "application/json",
            "content-length": str(len(self.body)),
            "bt_header_dendrite_hotkey": self.keypair.ss58_address,
            "bt_header_dendrite_nonce": str(self.nonce),
            "bt_header_dendrite_uuid": self.session,
            "bt_header_dendrite_signature": f"0x{self.keypair.sign(message).hex()}",
            "computed_body_hash": self.body_hash,
            **self.overrides,
        }


def signed_request(keypair: bt.Keypair, synapse: Generate, claimed_hotkey: str | None = None) -> RawRequest:
    """Sign a synapse; its body names `claimed_hotkey`, by default the keypair's, as the caller."""
    caller = bt.TerminalInfo(hotkey=claimed_hotkey or keypair.ss58_address)
    body = synapse.model_copy(update={"dendrite": caller})
    return RawRequest(keypair, body.model_dump_json().encode(), synapse.body_hash)


@asynccontextmanager
async def connect(axon: AxonAddress) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection for the duration of the context."""
    reader, writer = await asyncio.open_connection(LOOPBACK, axon.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def send(axon: AxonAddress, request: RawRequest) -> str:
    """Send a request; return the status of the answer, "closed" or "hangs", see `send_bytes`."""
    return await send_bytes(axon, request.head(axon), request.body)


async def send_bytes(axon: AxonAddress, *parts: bytes, endlessly: bool = False) -> str:
    """Send bytes; return the status of the answer, "closed" if the connection ended without one, or "hangs".

    endlessly: goes on with a byte every tenth of a second until there is an answer.
    """
    try:
        async with asyncio.timeout(TIMEOUT), connect(axon) as (reader, writer):
            answer = asyncio.create_task(reader.readline())
            with suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
            while endlessly and not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.1)
            line = await answer
            return line.split()[1].decode() if line else "closed"
    except TimeoutError:
        return "hangs"
    except OSError:
        return "closed"
