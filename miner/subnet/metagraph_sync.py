"""The one owner of the chain: the last good snapshot, its age, our registration and our axon's entry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import bittensor as bt

from miner.errors import ChainError, Deregistered, MinerError
from miner.runtime.clock import SYSTEM_CLOCK, Clock
from miner.runtime.threads import Returned, run_in_daemon
from miner.subnet.metagraph import Chain, Snapshot

log = logging.getLogger(__name__)

# A call that takes longer hangs for good.
CALL_TIMEOUT = 180.0
FIRST_RETRY_DELAY = 15.0


class MetagraphSync:
    """Refreshes the snapshot until it is cancelled; calls are made one at a time, off the event loop."""

    def __init__(
        self,
        open_chain: Callable[[], Chain],
        hotkey: str,
        interval: float,
        clock: Clock = SYSTEM_CLOCK,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        """`open_chain` makes a chain that connects at its first call; `interval`: seconds between two looks."""
        # What is announced; None: nothing is.
        self.axon: bt.Axon | None = None
        self._open_chain = open_chain
        self._chain = open_chain()
        self._hotkey = hotkey
        self._interval = interval
        self._clock = clock
        self._call_timeout = call_timeout
        self._snapshot: Snapshot | None = None
        self._seen_at = clock.now()
        self._failures = 0
        self._announced: tuple[str, int] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The subnet as last seen; there is one after the first look."""
        assert self._snapshot is not None
        return self._snapshot

    async def first_look(self) -> Snapshot:
        """Read the subnet. Raises ChainError or OperatorError; does not mind whether we are registered."""
        return self._keep(await self._call(lambda chain: chain.snapshot()))

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._snapshot, self._seen_at, self._failures = snapshot, self._clock.now(), 0
        return snapshot

    @property
    def age(self) -> float:
        """Seconds since the snapshot was read."""
        return self._clock.now() - self._seen_at

    async def run(self, refreshed: Callable[[Snapshot], None]) -> None:
        """Until cancelled; `refreshed` gets each new snapshot. Raises Deregistered once we are off the subnet."""
        await self._announce()
        while True:
            await self._clock.sleep(self._delay())
            if await self.refresh():
                refreshed(self.snapshot)
                await self._announce()

    def _delay(self) -> float:
        if self._failures == 0:
            return self._interval
        return min(FIRST_RETRY_DELAY * 2.0 ** min(self._failures - 1, 10), self._interval)

    async def refresh(self) -> bool:
        """Whether there is a new snapshot; if not, the last one stays in use and the log tells its age."""
        try:
            snapshot = await self._call(lambda chain: chain.snapshot())
            if snapshot.find(self._hotkey) is None:
                # The end of the miner is worth a second look: an endpoint may lag behind or answer in part.
                snapshot = await self._call(lambda chain: chain.snapshot())
        except MinerError as error:
            self._failures += 1
            log.warning(
                "Metagraph not refreshed, the last one stays in use (block %d, %.0f s old): %s",
                self.snapshot.block,
                self.age,
                error,
            )
            return False
        if snapshot.find(self._hotkey) is None:
            raise Deregistered(f"hotkey {self._hotkey} is no longer registered on subnet {snapshot.netuid}")
        log.debug("Metagraph refreshed at block %d after %.0f s", snapshot.block, self.age)
        self._keep(snapshot)
        return True

    async def _announce(self) -> None:
        axon = self.axon
        if axon is None:
            return
        address = (str(axon.external_ip), int(axon.external_port))
        neuron = self.snapshot.find(self._hotkey)
        if address == self._announced or (neuron is not None and address == (neuron.ip, neuron.port)):
            return
        try:
            await self._call(lambda chain: chain.announce(axon))
        except ChainError as error:
            log.warning("%s; validators cannot push to us until the next try, pulling goes on", error)
            return
        self._announced = address
        log.info("Axon announced at %s:%d", *address)

    async def _call(self, ask: Callable[[Chain], Returned]) -> Returned:
        chain = self._chain
        try:
            async with asyncio.timeout(self._call_timeout):
                return await run_in_daemon(lambda: ask(chain), "chain")
        except TimeoutError:
            # The call that hangs keeps its connection.
            self._chain = self._open_chain()
            raise ChainError(f"the chain did not answer within {self._call_timeout:.0f} s") from None
