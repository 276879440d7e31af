"""Signed requests to an axon, made byte by byte, so that a test can spoil any part of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import bittensor as bt

from miner.localnet.validator import LOOPBACK
from miner.subnet.protocol import Generate

TIMEOUT = 60.0


@dataclass(frozen=True)
class Target:
    """The axon that is called."""

    port: int
    hotkey: str


@dataclass(frozen=True)
class Call:
    """A request before it is signed; `changed` are headers that replace the right ones."""

    keypair: bt.Keypair
    body: bytes = b"{}"
    body_hash: str = Generate().body_hash
    nonce: int = field(default_factory=time.time_ns)
    session: str = field(default_factory=lambda: str(uuid.uuid1()))
    changed: Mapping[str, str] = field(default_factory=dict)

    def head(self, target: Target) -> bytes:
        """Return the request line and the headers."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers(target).items())
        return f"POST /Generate HTTP/1.1\r\n{lines}\r\n".encode()

    def headers(self, target: Target) -> dict[str, str]:
        """Return the headers, with the signature."""
        message = f"{self.nonce}.{self.keypair.ss58_address}.{target.hotkey}.{self.session}.{self.body_hash}"
        return {
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

    def raw_headers(self, target: Target) -> list[tuple[bytes, bytes]]:
        """Return the headers as ASGI passes them."""
        return [(name.encode(), value.encode()) for name, value in self.headers(target).items()]


def signed_call(keypair: bt.Keypair, request: Generate, claimed_hotkey: str | None = None) -> Call:
    """Return a valid call; `claimed_hotkey` is the one in its body, by default the right one."""
    dendrite = bt.TerminalInfo(hotkey=claimed_hotkey or keypair.ss58_address)
    body = request.model_copy(update={"dendrite": dendrite})
    return Call(keypair, body.model_dump_json().encode(), request.body_hash)


@asynccontextmanager
async def connection(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection while the context lasts."""
    reader, writer = await asyncio.open_connection(LOOPBACK, target.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def send(target: Target, call: Call) -> str:
    """Send a call and return the status of the answer, "closed" if there is none."""
    async with asyncio.timeout(TIMEOUT), connection(target) as (reader, writer):
        writer.write(call.head(target) + call.body)
        await writer.drain()
        line = await reader.readline()
        return line.split()[1].decode() if line else "closed"
