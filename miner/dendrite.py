"""Calling other axons."""

from __future__ import annotations

import uuid
from typing import TypeVar

import aiohttp
import bittensor as bt

from miner.chain import Neuron

AnySynapse = TypeVar("AnySynapse", bound=bt.Synapse)


class Dendrite(bt.Dendrite):
    """The SDK's client, for one validator and one call at a time.

    The SDK's constructor asks third parties on the internet for our own address and blocks meanwhile. The address
    is only a header that the other side overwrites.
    """

    def __init__(self, keypair: bt.Keypair) -> None:
        self.uuid = str(uuid.uuid1())
        self.external_ip = "0.0.0.0"  # noqa: S104
        self.keypair = keypair
        self.synapse_history: list[bt.Synapse] = []
        self._session: aiohttp.ClientSession | None = None

    def __del__(self) -> None:
        # The SDK's closes the session on a loop of its own, with a warning; our owners close it where it lives.
        pass

    async def ask(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> AnySynapse:  # noqa: ASYNC109
        """The answer of a neuron's axon; transport errors are in its dendrite.status_code, none is raised."""
        target = bt.AxonInfo(
            version=0, ip=neuron.ip, port=neuron.port, ip_type=4, hotkey=neuron.hotkey, coldkey=neuron.coldkey
        )
        answer: AnySynapse = await self.call(target, synapse, timeout=timeout, deserialize=False)
        # The SDK keeps every answer for ever.
        self.synapse_history.clear()
        return answer
