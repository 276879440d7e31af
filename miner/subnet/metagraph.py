"""Snapshots of the metagraph, the list of a subnet's neurons, from the chain or from a file.

A snapshot file, in JSON or YAML, is {"netuid": 17, "block": 1000, "neurons": [{"hotkey", "coldkey", "stake",
"validator_permit", "ip", "port", "incentive"}]}; a neuron's uid is its index, and all but its hotkey and coldkey may be
left out.
"""

import ipaddress
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from miner.config import check_address, parse_json_or_yaml
from miner.errors import ChainError, OperatorError
from miner.runtime import write_atomically
from miner.words import plural

if TYPE_CHECKING:
    import bittensor as bt

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

    def announce(self, axon: "bt.Axon") -> None:
        """Publish the address of our axon. Raises ChainError if that fails."""


@dataclass(frozen=True)
class FileChain:
    """A snapshot file, which must hold the subnet `netuid`, that stands in for the chain and is read at each call."""

    path: Path
    netuid: int

    def snapshot(self) -> Snapshot:
        """Read the file. Raises OperatorError naming the file and what is wrong with it."""
        try:
            snapshot = read_snapshot(self.path, self.netuid)
        except FileNotFoundError:
            raise OperatorError(f"the chain file {self.path} does not exist (--subtensor.network file:PATH)") from None
        if snapshot.netuid != self.netuid:
            raise OperatorError(f"the chain file {self.path} is for netuid {snapshot.netuid}, not {self.netuid}")
        return snapshot

    def announce(self, axon: "bt.Axon") -> None:
        """Do nothing: the file holds the addresses of all neurons."""


def read_snapshot(path: Path, netuid: int) -> Snapshot:
    """Read a snapshot file, of the subnet `netuid` unless it names another.

    Raises FileNotFoundError, or OperatorError naming the file and what is wrong with it.
    """
    try:
        content: Any = parse_json_or_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise OperatorError(f"the chain file {path} cannot be read as JSON or YAML: {problem}") from None
    try:
        neurons = tuple(Neuron(uid=uid, **entry) for uid, entry in enumerate(content["neurons"]))
        _check_keys(neurons)
        return Snapshot(int(content.get("netuid", netuid)), int(content.get("block", 0)), neurons)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise OperatorError(f"the chain file {path} has an invalid neuron: {where}") from None
    except InvalidAddressError as invalid_address:
        raise OperatorError(f"the chain file {path} has an invalid neuron: {invalid_address}") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise OperatorError(
            f'the chain file {path} must be {{"netuid": .., "block": .., "neurons": [{{"hotkey", "coldkey", ..}}]}}'
        ) from None


class InvalidAddressError(ValueError):
    """A neuron of a file has a key that is no address, or another one's hotkey."""


def _check_keys(neurons: tuple[Neuron, ...]) -> None:
    """Raise InvalidAddressError for a key that is no address, and for a hotkey that is there twice."""
    seen: dict[str, int] = {}
    for neuron in neurons:
        _check_addresses(neuron)
        if (first := seen.setdefault(neuron.hotkey, neuron.uid)) != neuron.uid:
            raise InvalidAddressError(f"neurons.{neuron.uid}.hotkey: {neuron.hotkey} is that of neurons.{first}, too")


def _check_addresses(neuron: Neuron) -> None:
    for name, address in (("hotkey", neuron.hotkey), ("coldkey", neuron.coldkey)):
        try:
            check_address(address)
        except ValueError as error:
            raise InvalidAddressError(f"neurons.{neuron.uid}.{name}: {error}") from None


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot file. Raise OSError."""
    neurons = [neuron.model_dump(exclude={"uid"}) for neuron in snapshot.neurons]
    content = {"netuid": snapshot.netuid, "block": snapshot.block, "neurons": neurons}
    write_atomically(path, json.dumps(content, indent=1))


@dataclass(frozen=True)
class SavingChain:
    """A chain whose latest snapshot is kept in a file, for commands that are not to ask the chain."""

    chain: Chain
    path: Path

    def snapshot(self) -> Snapshot:
        """Read the subnet, and keep it if that is possible."""
        snapshot = self.chain.snapshot()
        try:
            write_snapshot(self.path, snapshot)
        except OSError as error:
            log.warning("The metagraph is not kept in %s: %s", self.path, error.strerror)
        return snapshot

    def announce(self, axon: "bt.Axon") -> None:
        """Publish the address of our axon."""
        self.chain.announce(axon)


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

    def announce(self, axon: "bt.Axon") -> None:
        """Publish the address of our axon. Raises ChainError if the extrinsic fails."""

        def serve(subtensor: Any) -> None:
            response = subtensor.serve_axon(netuid=self.netuid, axon=axon)
            if not response.success:
                raise ChainError(str(response.message))

        self._call("the axon could not be announced", serve)

    def _call(self, failure: str, function: Callable[[Any], Returned]) -> Returned:
        try:
            if self._subtensor is None:
                # Commands that only read snapshots must not wait for this import.
                import bittensor as bt

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
            raise ChainError(f"incomplete metagraph, {len(column)} {name} for {plural(count, 'neuron')}")
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
