"""Calling other axons."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import bittensor as bt

from miner.subnet.metagraph import Neuron

# Answers of an axon, by the SDK's codes, to requests that never reached the function they were for.
REFUSED = frozenset({400, 401, 403, 404})

AnySynapse = TypeVar("AnySynapse", bound=bt.Synapse)


@dataclass(frozen=True, eq=False)
class Reply(Generic[AnySynapse]):
    """An answer, or the lack of one (its dendrite.status_code tells).

    `delivered` is False when no connection came about or the axon turned the request away, so that it certainly had
    no effect; `date` is the other side's unix time in whole seconds from its Date header, None if there was none.
    """

    synapse: AnySynapse
    delivered: bool
    date: float | None


class Transport(Protocol):
    """What the pulling side needs of a Dendrite."""

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse and wait for the answer; raises nothing."""

    async def aclose_session(self) -> None:
        """Close the connections."""


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
        self._delivered = True
        self._date: float | None = None

    def __del__(self) -> None:
        # The SDK's closes the session on a loop of its own, with a warning; our owners close it where it lives.
        pass

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse to a neuron's axon; transport errors are in the answer's status, none is raised."""
        target = bt.AxonInfo(
            version=0, ip=neuron.ip, port=neuron.port, ip_type=4, hotkey=neuron.hotkey, coldkey=neuron.coldkey
        )
        self._delivered, self._date = True, None
        answer: AnySynapse = await self.call(target, synapse, timeout=timeout, deserialize=False)
        # The SDK keeps every answer for ever.
        self.synapse_history.clear()
        return Reply(answer, self._delivered, self._date)

    async def ask(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> AnySynapse:  # noqa: ASYNC109
        """The answer alone of an exchange."""
        return (await self.exchange(neuron, synapse, timeout)).synapse

    def process_server_response(self, server_response: Any, json_response: Any, local_synapse: bt.Synapse) -> None:
        """The SDK's, and note of the other side's clock."""
        self._date = _unix_time(server_response.headers.get("Date"))
        self._delivered = server_response.status not in REFUSED
        super().process_server_response(server_response, json_response, local_synapse)

    def process_error_message(self, synapse: bt.Synapse, request_name: str, exception: Exception) -> bt.Synapse:
        """The SDK's, and note of whether the request can have arrived."""
        self._delivered = not isinstance(exception, aiohttp.ClientConnectorError)
        return super().process_error_message(synapse, request_name, exception)


def _unix_time(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date) if date else None
        if moment is None:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
