"""The only user of the chain: refreshes the snapshot of the subnet, watches our registration and announces our axon."""

import asyncio
import logging
from collections.abc import Callable
from typing import Self

import bittensor as bt

from miner.errors import ChainError, HotkeyNotRegistered, MinerError
from miner.runtime import SYSTEM_CLOCK, Clock, Returned, backoff, run_in_daemon
from miner.subnet.metagraph import Chain, Snapshot

log = logging.getLogger(__name__)

# Seconds after which a call is taken to hang for ever.
CALL_TIMEOUT = 180.0
FIRST_RETRY_DELAY = 15.0


class _ChainCaller:
    """Calls to the chain, one at a time, off the event loop."""

    def __init__(self, open_chain: Callable[[], Chain], timeout: float) -> None:
        self._open_chain = open_chain
        self._chain = open_chain()
        self._timeout = timeout

    async def call(self, function: Callable[[Chain], Returned]) -> Returned:
        chain = self._chain
        try:
            async with asyncio.timeout(self._timeout):
                return await run_in_daemon(lambda: function(chain), "chain")
        except TimeoutError:
            # The call that hangs keeps its connection, so the next call gets a new one.
            self._chain = self._open_chain()
            raise ChainError(f"the chain did not answer within {self._timeout:.0f} s") from None


class MetagraphSync:
    """The subnet as last seen, `snapshot`, kept up to date by `run`."""

    def __init__(self, caller: _ChainCaller, hotkey: str, interval: float, snapshot: Snapshot, clock: Clock) -> None:
        """Begin with a snapshot that has just been read; `open` reads it."""
        self._caller = caller
        self._hotkey = hotkey
        self._interval = interval
        self._clock = clock
        self.snapshot = snapshot
        self._seen_at = clock.now()
        self._failures = 0
        self._announced: tuple[str, int] | None = None

    @classmethod
    async def open(
        cls,
        open_chain: Callable[[], Chain],
        hotkey: str,
        interval: float,
        clock: Clock = SYSTEM_CLOCK,
        call_timeout: float = CALL_TIMEOUT,
    ) -> Self:
        """Read the subnet for the first time, whether or not our hotkey is registered on it.

        `open_chain` returns a chain that connects at its first call, and `interval` is the time between two refreshes
        in seconds. Raises ChainError or OperatorError if the subnet cannot be read.
        """
        caller = _ChainCaller(open_chain, call_timeout)
        snapshot = await caller.call(lambda chain: chain.snapshot())
        return cls(caller, hotkey, interval, snapshot, clock)

    @property
    def age(self) -> float:
        """The seconds since the snapshot was read."""
        return self._clock.now() - self._seen_at

    def uid_of(self, hotkey: str) -> int | None:
        """Return the uid of a hotkey, or None if it is not registered."""
        neuron = self.snapshot.find(hotkey)
        return None if neuron is None else neuron.uid

    async def run(self, axon: bt.Axon | None, on_refresh: Callable[[Snapshot], None]) -> None:
        """Refresh the snapshot, tell `on_refresh`, announce the axon, until cancelled. Raises HotkeyNotRegistered."""
        await self._announce(axon)
        while True:
            failures = self._failures
            delay = backoff(failures, FIRST_RETRY_DELAY, self._interval) if failures else self._interval
            await self._clock.sleep(delay)
            if await self.refresh():
                on_refresh(self.snapshot)
                await self._announce(axon)

    async def refresh(self) -> bool:
        """Read the subnet; return whether it succeeded. Raise HotkeyNotRegistered if two snapshots in a row lack us."""
        try:
            snapshot = await self._caller.call(lambda chain: chain.snapshot())
            if snapshot.find(self._hotkey) is None:
                # An endpoint may lag behind or answer in part, and a mistake here would end the miner.
                snapshot = await self._caller.call(lambda chain: chain.snapshot())
        except MinerError as error:
            self._failures += 1
            last = f"block {self.snapshot.block}, {self.age:.0f} s old"
            log.warning("Metagraph not refreshed, the last one stays in use (%s): %s", last, error)
            return False
        if snapshot.find(self._hotkey) is None:
            raise HotkeyNotRegistered(f"hotkey {self._hotkey} is no longer registered on subnet {snapshot.netuid}")
        log.debug("Metagraph refreshed at block %d after %.0f s", snapshot.block, self.age)
        self.snapshot, self._seen_at, self._failures = snapshot, self._clock.now(), 0
        return True

    async def _announce(self, axon: bt.Axon | None) -> None:
        if axon is None:
            return
        address = (str(axon.external_ip), int(axon.external_port))
        neuron = self.snapshot.find(self._hotkey)
        if address == self._announced or (neuron is not None and address == (neuron.ip, neuron.port)):
            return
        try:
            await self._caller.call(lambda chain: chain.announce(axon))
        except ChainError as error:
            log.warning("%s; validators cannot push tasks until the next try succeeds, pulling goes on", error)
            return
        self._announced = address
        log.info("Axon announced at %s:%d", *address)
