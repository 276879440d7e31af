"""Hotkeys and coldkeys that this machine knows without asking the chain, so that nobody has to type them whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from miner.errors import OperatorError

if TYPE_CHECKING:
    from miner.config import ListName, OperatorFiles, PolicyEntry, PolicyRules
    from miner.ledger import ValidatorRow
    from miner.subnet.metagraph import Neuron, Snapshot


@dataclass(frozen=True)
class KnownKeys:
    """The metagraph as the miner last saw it, None if it saw none, and the validators of the ledger."""

    snapshot: "Snapshot | None"
    validators: "Sequence[ValidatorRow]"

    @staticmethod
    def load(files: "OperatorFiles", netuid: int) -> "KnownKeys":
        """Read what the miner has kept; what is damaged is told on stderr and left out."""
        from miner.ledger import LedgerReader, query_ledger
        from miner.subnet.metagraph import read_snapshot

        try:
            snapshot = read_snapshot(files.metagraph, netuid)
        except FileNotFoundError:
            snapshot = None
        except OperatorError as error:
            click.echo(f"WARNING: {error}", err=True)
            snapshot = None
        return KnownKeys(snapshot, query_ledger(files.ledger, LedgerReader.validators, []))

    @property
    def neurons(self) -> "tuple[Neuron, ...]":
        """The neurons of the snapshot."""
        return self.snapshot.neurons if self.snapshot else ()

    def complete(self, text: str, is_coldkey: bool) -> str:
        """Return the key that a text is, or that alone begins with it. Raise OperatorError."""
        from miner.config import check_address

        try:
            return check_address(text)
        except ValueError as error:
            invalid = str(error)
        if is_coldkey:
            keys = {neuron.coldkey for neuron in self.neurons}
        else:
            keys = {neuron.hotkey for neuron in self.neurons} | {row.validator for row in self.validators}
        found = sorted(key for key in keys if key.startswith(text))
        if len(found) > 1:
            raise OperatorError(f"several known keys begin with {text}: {', '.join(found)}")
        if not found:
            kind = "coldkey" if is_coldkey else "hotkey"
            raise OperatorError(f"{invalid}; and no known {kind} begins with it; a uid needs --uid")
        return found[0]

    def holder(self, uid: int) -> tuple[str, str] | None:
        """Return the hotkey that holds a uid, and when it was seen to, in words; None if nobody is known to.

        Raises OperatorError if the ledger and the metagraph know different holders.
        """
        seen = max((row for row in self.validators if row.uid == uid), key=lambda row: row.assigned_at, default=None)
        neuron = next((neuron for neuron in self.neurons if neuron.uid == uid), None)
        if seen is not None and neuron is not None and seen.validator != neuron.hotkey:
            raise OperatorError(
                f"uid {uid} was {seen.validator} when the ledger recorded it on {_day(seen.assigned_at)}, and is "
                f"{neuron.hotkey} in the metagraph by now: name the hotkey that you mean"
            )
        if seen is not None:
            return seen.validator, f"on {_day(seen.assigned_at)}"
        if neuron is not None and self.snapshot is not None:
            return neuron.hotkey, f"at block {self.snapshot.block}"
        return None

    def affected(self, rules: "PolicyRules", list_name: "ListName", entry: "PolicyEntry") -> Iterable[str]:
        """Yield the neurons, in words, whose tasks an entry decides about now, the first list that has them winning."""
        for neuron in self.neurons:
            if not _means(entry, neuron):
                continue
            is_allowed = list_name != "allow" and any(_means(other, neuron) for other in rules.allow)
            permit = "a permit" if neuron.validator_permit else "no permit"
            facts = f"uid {neuron.uid}, stake {neuron.stake:g}, {permit}"
            yield f"{neuron.hotkey} ({facts})" + (", but the allow list has it" if is_allowed else "")


def _means(entry: "PolicyEntry", neuron: "Neuron") -> bool:
    return entry.hotkey == neuron.hotkey or entry.coldkey == neuron.coldkey or entry.uid == neuron.uid


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
