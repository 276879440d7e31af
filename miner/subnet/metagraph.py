"""Snapshots of the metagraph, the list of a subnet's neurons, from the chain or from a file.

A snapshot file is {"netuid": 17, "block": 1000, "neurons": [{"hotkey", "coldkey", "stake", "validator_permit", "ip",
"port", "incentive"}]}; a neuron's uid is its index, and all but its hotkey and coldkey may be left out.
"""

import ipaddress
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import bittensor as bt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from miner.errors import ChainError, OperatorError

log = logging.getLogger(__name__)

Returned = TypeVar("Returned")

# Failures in a row after which a connection is given up.
FAILURES_PER_CONNECTION = 2


class Neuron(BaseModel):
    """A registered hotkey, its stake in alpha, and the address of its axon: 0.0.0.0 and port 0 if it serves none."""

    model_config = ConfigDict(frozen=True)

    uid: int
    hotkey: str = Field(min_length=1)
    coldkey: str
    stake: float = 0.0
    validator_permit: bool = False
    ip: str = "0.0.0.0"  # noqa: S104 - the chain's way to say that there is no axon
    port: int = 0
    incentive: float = 0.0

    @property
    def is_serving(self) -> bool:
        """Whether this neuron has announced an axon, at an address that can be one."""
        try:
            return not ipaddress.ip_address(self.ip).is_unspecified and 0 < self.port < 65536
        except ValueError:
            return False


@dataclass(frozen=True)
class Snapshot:
    """The neurons of a subnet at one block."""

    netuid: int
    block: int
    neurons: tuple[Neuron, ...]

    def find(self, hotkey: str) -> Neuron | None:
        """Return the neuron of a hotkey, or None if the hotkey is not registered."""
        return next((neuron for neuron in self.neurons if neuron.hotkey == hotkey), None)


class Chain(Protocol):
    """The blocking calls of a chain, which callers make off the event loop."""

    def snapshot(self) -> Snapshot:
        """Read the subnet as it is now. Raises ChainError if that fails."""

    def announce(self, axon: bt.Axon) -> None:
        """Publish the address of our axon. Raises ChainError if that fails."""


@dataclass(frozen=True)
class FileChain:
    """A snapshot file, which must hold the subnet `netuid`, that stands in for the chain and is read at each call."""

    path: Path
    netuid: int

    def snapshot(self) -> Snapshot:
        """Read the file. Raises OperatorError naming the file and what is wrong with it."""
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise OperatorError(f"the chain file {self.path} does not exist (--subtensor.network file:PATH)") from None
        except (OSError, ValueError) as error:
            raise OperatorError(f"the chain file {self.path} cannot be read as JSON: {error}") from None
        try:
            neurons = tuple(Neuron(uid=uid, **entry) for uid, entry in enumerate(content["neurons"]))
            netuid, block = int(content.get("netuid", self.netuid)), int(content.get("block", 0))
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            where = f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            raise OperatorError(f"the chain file {self.path} has an invalid neuron: {where}") from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise OperatorError(
                f'the chain file {self.path} must be {{"netuid": .., "block": .., "neurons": '
                '[{"hotkey", "coldkey", ..}]}'
            ) from None
        if netuid != self.netuid:
            raise OperatorError(f"the chain file {self.path} is for netuid {netuid}, not {self.netuid}")
        return Snapshot(netuid, block, neurons)

    def announce(self, axon: bt.Axon) -> None:
        """Do nothing: the file holds the addresses of all neurons."""


@dataclass(eq=False)
class SubtensorChain:
    """The chain by name or address, connected to at the first call, and anew after some failures in a row."""

    network: str
    netuid: int
    _subtensor: Any = None
    _failures: int = 0

    def snapshot(self) -> Snapshot:
        """Read the subnet. Raises ChainError if the chain cannot be reached or its answer is incomplete."""
        return self._call(
            f"the chain {self.network} cannot be read",
            lambda subtensor: read_metagraph(subtensor.metagraph(self.netuid), self.netuid),
        )

    def announce(self, axon: bt.Axon) -> None:
        """Publish the address of our axon. Raises ChainError if the extrinsic fails."""

        def serve(subtensor: Any) -> None:
            response = subtensor.serve_axon(netuid=self.netuid, axon=axon)
            if not response.success:
                raise ChainError(str(response.message))

        self._call("the axon could not be announced", serve)

    def _call(self, failure: str, function: Callable[[Any], Returned]) -> Returned:
        try:
            if self._subtensor is None:
                self._subtensor = bt.Subtensor(network=self.network)
            answer = function(self._subtensor)
        except Exception as error:  # the SDK and its transport raise all kinds
            self._failures += 1
            # The SDK restores a connection that was dropped; one that fails again will not recover.
            if self._failures >= FAILURES_PER_CONNECTION:
                self._disconnect()
            reason = str(error) if isinstance(error, ChainError) else f"{type(error).__name__}: {error}"
            raise ChainError(f"{failure}: {reason}") from error
        self._failures = 0
        return answer

    def _disconnect(self) -> None:
        # A connection that is only dropped stays open, and endpoints limit their number.
        connection, self._subtensor, self._failures = self._subtensor, None, 0
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # as above
                log.debug("Closing the connection to %s: %s", self.network, error)


def read_metagraph(metagraph: Any, netuid: int) -> Snapshot:
    """Convert the SDK's metagraph into a snapshot. Raises ChainError if parts of it are missing.

    When its query of the stakes fails, the SDK only logs that at debug level and goes on with an empty array.
    """
    count = len(metagraph.hotkeys)
    columns = {
        "coldkeys": metagraph.coldkeys,
        "stakes": metagraph.S,
        "incentives": metagraph.I,
        "validator permits": metagraph.validator_permit,
        "axons": metagraph.axons,
    }
    for name, column in columns.items():
        if count == 0 or len(column) != count:
            raise ChainError(f"incomplete metagraph, {len(column)} {name} for {count} neurons")
    neurons = tuple(
        Neuron(
            uid=uid,
            hotkey=metagraph.hotkeys[uid],
            coldkey=metagraph.coldkeys[uid],
            stake=float(metagraph.S[uid]),
            validator_permit=bool(metagraph.validator_permit[uid]),
            ip=metagraph.axons[uid].ip,
            port=metagraph.axons[uid].port,
            incentive=float(metagraph.I[uid]),
        )
        for uid in range(count)
    )
    return Snapshot(netuid, int(metagraph.block), neurons)


def open_chain(network: str, netuid: int) -> Chain:
    """Return the chain that --subtensor.network names: file:PATH, a network's name or a websocket address."""
    if network.startswith("file:"):
        return FileChain(Path(network.removeprefix("file:")), netuid)
    return SubtensorChain(network, netuid)
