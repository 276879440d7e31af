"""The client that calls the axons of other neurons."""

import uuid
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import bittensor as bt

from miner.subnet.metagraph import Neuron

# The HTTP statuses with which the SDK's axon answers requests that never reach the function they are for.
REFUSED_STATUSES = frozenset({400, 401, 403, 404})

AnySynapse = TypeVar("AnySynapse", bound=bt.Synapse)


@dataclass(frozen=True, eq=False)
class Reply(Generic[AnySynapse]):
    """The outcome of an exchange: the synapse, whose dendrite.status_code says whether it was answered.

    `delivered` is False if no connection could be made or the axon refused the request, so that it certainly had no
    effect. `date` is the other side's unix time in whole seconds, from its Date header, or None if there was none.
    """

    synapse: AnySynapse
    delivered: bool
    date: float | None


class Transport(Protocol):
    """The part of a Dendrite that pulling uses."""

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse and wait `timeout` seconds at most for the answer; raise nothing."""

    async def aclose_session(self) -> None:
        """Close the connections."""


class Dendrite(bt.Dendrite):
    """The SDK's client, for one neuron and one call at a time."""

    def __init__(self, keypair: bt.Keypair) -> None:
        """Set what the SDK's constructor sets, except for our address.

        The SDK blocks while it asks third parties on the internet for it; it is only a header that the other side
        overwrites.
        """
        self.uuid = str(uuid.uuid1())
        self.external_ip = "0.0.0.0"  # noqa: S104
        self.keypair = keypair
        self.synapse_history: list[bt.Synapse] = []
        self._session: aiohttp.ClientSession | None = None
        self._delivered = True
        self._date: float | None = None

    def __del__(self) -> None:
        """Do nothing, since owners close the session; the SDK would close it on another event loop, with a warning."""

    async def exchange(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> Reply[AnySynapse]:  # noqa: ASYNC109
        """Send a synapse to a neuron's axon; errors of the transport are in the reply's status and not raised."""
        target = bt.AxonInfo(
            version=0, ip=neuron.ip, port=neuron.port, ip_type=4, hotkey=neuron.hotkey, coldkey=neuron.coldkey
        )
        self._delivered, self._date = True, None
        answer: AnySynapse = await self.call(target, synapse, timeout=timeout, deserialize=False)
        # The SDK would keep every answer.
        self.synapse_history.clear()
        return Reply(answer, self._delivered, self._date)

    async def ask(self, neuron: Neuron, synapse: AnySynapse, timeout: float) -> AnySynapse:  # noqa: ASYNC109
        """Send a synapse to a neuron's axon and return it with the answer."""
        return (await self.exchange(neuron, synapse, timeout)).synapse

    def process_server_response(self, server_response: Any, json_response: Any, local_synapse: bt.Synapse) -> None:
        """Process the answer as the SDK does, and note the other side's clock."""
        self._date = _parse_date(server_response.headers.get("Date"))
        self._delivered = server_response.status not in REFUSED_STATUSES
        super().process_server_response(server_response, json_response, local_synapse)

    def process_error_message(self, synapse: bt.Synapse, request_name: str, exception: Exception) -> bt.Synapse:
        """Process the error as the SDK does, and note whether the request can have arrived."""
        self._delivered = not isinstance(exception, aiohttp.ClientConnectorError)
        return super().process_error_message(synapse, request_name, exception)


def _parse_date(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date) if date else None
        if moment is None:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
