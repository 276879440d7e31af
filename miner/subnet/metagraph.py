"""Who is on the subnet: snapshots of the metagraph from the chain or from a file.

A snapshot file is {"netuid": 17, "block": 1000, "neurons": [{"hotkey", "coldkey", "stake", "validator_permit", "ip",
"port", "incentive"}]}; a neuron's uid is its index, and all but hotkey and coldkey may be missing.
"""

from __future__ import annotations

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

# Calls in a row that may fail on one connection.
FAILURES_PER_CONNECTION = 2


class Neuron(BaseModel):
    """One registered hotkey; stake in alpha, ip and port of its axon ("0.0.0.0" and 0: it serves none)."""

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
        """Whether it announced an axon."""
        return self.ip != "0.0.0.0" and self.port != 0  # noqa: S104


@dataclass(frozen=True)
class Snapshot:
    """The subnet at one block."""

    netuid: int
    block: int
    neurons: tuple[Neuron, ...]

    def find(self, hotkey: str) -> Neuron | None:
        """The neuron of a hotkey, None if it is not registered."""
        return next((neuron for neuron in self.neurons if neuron.hotkey == hotkey), None)


class Chain(Protocol):
    """Blocking calls; the node makes them off its event loop."""

    def snapshot(self) -> Snapshot:
        """The subnet now. Raises ChainError if it cannot be read."""

    def announce(self, axon: bt.Axon) -> None:
        """Tell the network where our axon is. Raises ChainError if that fails."""


class FileChain:
    """A snapshot file, read again at each call; for trying things out without a chain."""

    def __init__(self, path: Path, netuid: int) -> None:
        self._path = path
        self._netuid = netuid

    def snapshot(self) -> Snapshot:
        """Raises OperatorError naming the file and what is wrong with it."""
        try:
            content: Any = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise OperatorError(f"the chain file {self._path} does not exist (--subtensor.network file:PATH)") from None
        except (OSError, ValueError) as error:
            raise OperatorError(f"the chain file {self._path} cannot be read as JSON: {error}") from None
        try:
            neurons = tuple(Neuron(uid=uid, **entry) for uid, entry in enumerate(content["neurons"]))
            netuid, block = int(content.get("netuid", self._netuid)), int(content.get("block", 0))
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            where = f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            raise OperatorError(f"the chain file {self._path} has a neuron with {where}") from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise OperatorError(
                f'the chain file {self._path} must be {{"netuid": .., "block": .., "neurons": '
                '[{"hotkey", "coldkey", ..}]}'
            ) from None
        if netuid != self._netuid:
            raise OperatorError(f"the chain file {self._path} is of netuid {netuid}, not {self._netuid}")
        return Snapshot(netuid, block, neurons)

    def announce(self, axon: bt.Axon) -> None:
        """Nobody to tell: the file says where neurons are."""


class SubtensorChain:
    """The real chain through the SDK; one connection, made at the first call and anew after failures in a row."""

    def __init__(self, network: str, netuid: int) -> None:
        self._network = network
        self._netuid = netuid
        self._subtensor: Any = None
        self._failures = 0

    def snapshot(self) -> Snapshot:
        """Raises ChainError if the chain cannot be reached or its answer is incomplete."""
        return self._call(
            f"the chain {self._network} cannot be read",
            lambda subtensor: _read(subtensor.metagraph(self._netuid), self._netuid),
        )

    def announce(self, axon: bt.Axon) -> None:
        """Raises ChainError if the extrinsic fails."""

        def serve(subtensor: Any) -> None:
            response = subtensor.serve_axon(netuid=self._netuid, axon=axon)
            if not response.success:
                raise ChainError(str(response.message))

        self._call("the axon could not be announced", serve)

    def _call(self, failure: str, ask: Callable[[Any], Returned]) -> Returned:
        try:
            if self._subtensor is None:
                self._subtensor = bt.Subtensor(network=self._network)
            answer = ask(self._subtensor)
        except Exception as error:  # the SDK and its transport raise whatever they meet
            self._failures += 1
            # The SDK mends a connection that dropped; one that fails again is beyond that.
            if self._failures >= FAILURES_PER_CONNECTION:
                self._disconnect()
            what = str(error) if isinstance(error, ChainError) else f"{type(error).__name__}: {error}"
            raise ChainError(f"{failure}: {what}") from error
        self._failures = 0
        return answer

    def _disconnect(self) -> None:
        # An open connection that nobody owns is never closed, and endpoints limit their number.
        connection, self._subtensor, self._failures = self._subtensor, None, 0
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # as above
                log.debug("Closing the connection to %s: %s", self._network, error)


def _read(metagraph: Any, netuid: int) -> Snapshot:
    """The SDK's metagraph as a snapshot. Raises ChainError if parts of it are missing.

    The SDK logs a failed query of the stakes at debug level and goes on with an empty array.
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
    """The chain that --subtensor.network names."""
    if network.startswith("file:"):
        return FileChain(Path(network.removeprefix("file:")), netuid)
    return SubtensorChain(network, netuid)
