"""Whom the miner works for: show and edit config/blacklist.yaml.

    python scripts/blacklist.py add HOTKEY --reason "rejects everything" [--days 7 | --until 2026-01-31T12:00]
    python scripts/blacklist.py add COLDKEY --coldkey --reason ...      the same for all hotkeys of a coldkey
    python scripts/blacklist.py add 180 --uid --reason ...              the hotkey that holds the uid on the chain now
    python scripts/blacklist.py add HOTKEY --allow --reason ...         always work for it
    python scripts/blacklist.py remove KEY [--allow]
    python scripts/blacklist.py list
    python scripts/blacklist.py suggest [--ledger FILE]

A running miner takes a change over within seconds.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bittensor as bt

from miner.analytics.intervals import wilson_interval
from miner.config.loader import load_yaml, shipped_config
from miner.config.policy import PolicyEntry, PolicyRules
from miner.config.yaml_lists import UneditableError, add_item, remove_item
from miner.errors import MinerError, OperatorError
from miner.ledger.schema import DEFAULT_LEDGER
from miner.subnet.metagraph import open_chain

# Fewer outcomes tell nothing: of 20, a validator that accepts 20 % rejects all about once in a hundred times.
MIN_OUTCOMES = 50
SUGGESTED_DAYS = 7
OUTCOMES_TABLE = "validator_outcomes"


@dataclass(frozen=True)
class ValidatorOutcomes:
    """How often one validator accepted what it judged; results that nobody judged do not count."""

    hotkey: str
    accepted: int
    rejected: int

    @property
    def total(self) -> int:
        """All that were judged."""
        return self.accepted + self.rejected


def suggestions(outcomes: Iterable[ValidatorOutcomes], below: float) -> list[tuple[ValidatorOutcomes, str]]:
    """The validators whose share of accepted results is, at 95 % confidence, less than `below`, with the argument."""
    found = []
    for counts in outcomes:
        low, high = wilson_interval(counts.accepted, counts.total)
        if counts.total >= MIN_OUTCOMES and high < below:
            argument = f"accepted {counts.accepted} of {counts.total}: {low:.1%} to {high:.1%} at 95 % confidence"
            found.append((counts, argument))
    return found


def read_outcomes(ledger: Path) -> list[ValidatorOutcomes] | None:
    """The counts that the ledger keeps, None if it keeps none. Raises OperatorError if it is no database."""
    ledger = ledger.expanduser()
    if not ledger.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{ledger.resolve().as_uri()}?mode=ro", uri=True)) as database:
            names = database.execute("SELECT name FROM sqlite_master WHERE name = ?", (OUTCOMES_TABLE,)).fetchall()
            if not names:
                return None
            query = f"SELECT hotkey, accepted, rejected FROM {OUTCOMES_TABLE} ORDER BY hotkey"  # noqa: S608
            return [ValidatorOutcomes(*row) for row in database.execute(query)]
    except sqlite3.Error as error:
        raise OperatorError(f"the ledger {ledger} cannot be read: {error}") from None


def write(path: Path, text: str) -> None:
    """Replace the file whole or not at all, if what it will say is valid. Raises OperatorError."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        load_yaml(partial, PolicyRules)
        partial.chmod(path.stat().st_mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[str, PolicyRules]:
    """The file's text and what it says. Raises OperatorError."""
    rules = load_yaml(path, PolicyRules)
    with path.open(encoding="utf-8", newline="") as file:
        return file.read(), rules


def position(entries: Sequence[PolicyEntry], key: str) -> int | None:
    """Where a hotkey, a coldkey or a uid is listed."""
    keys = [(entry.hotkey, entry.coldkey, None if entry.uid is None else str(entry.uid)) for entry in entries]
    return next((number for number, names in enumerate(keys) if key in names), None)


def list_name(options: argparse.Namespace) -> str:
    """The list that a command is about."""
    if options.allow:
        return "allow"
    return "deny_coldkeys" if options.coldkey else "deny_hotkeys"


def add(options: argparse.Namespace) -> None:
    key, reason, until = options.key, " ".join(options.reason.split()), options.until
    if options.uid:
        if not key.isdecimal():
            raise OperatorError(f"{key} is no uid")
        snapshot = open_chain(options.network, options.netuid).snapshot()
        holder = next((neuron.hotkey for neuron in snapshot.neurons if neuron.uid == int(key)), None)
        if holder is None:
            raise OperatorError(f"nobody holds uid {key} on subnet {options.netuid} at block {snapshot.block}")
        print(f"uid {key} is hotkey {holder} at block {snapshot.block}")
        key, reason = holder, f"{reason} (uid {key} at block {snapshot.block})"
    else:
        try:
            bt.Keypair(ss58_address=key)
        except ValueError as error:
            raise OperatorError(f"{key} is no SS58 address: {error}; a uid needs --uid") from None
    if options.days is not None:
        until = datetime.now(UTC) + timedelta(days=options.days)
    entry: dict[str, Any] = {"coldkey" if options.coldkey else "hotkey": key, "reason": reason}
    if until is not None:
        entry["until"] = until.replace(microsecond=0)
    text, rules = read(options.file)
    name = list_name(options)
    number = position(getattr(rules, name), key)
    if number is not None:
        text = remove_item(text, name, number)
    write(options.file, add_item(text, name, entry))
    print(f"{'Changed' if number is not None else 'Added'} in {name} of {options.file}: {PolicyEntry(**entry).name}")


def remove(options: argparse.Namespace) -> None:
    text, rules = read(options.file)
    names = ("allow",) if options.allow else ("deny_hotkeys", "deny_coldkeys")
    for name in names:
        number = position(getattr(rules, name), options.key)
        if number is not None:
            write(options.file, remove_item(text, name, number))
            print(f"Removed from {name} of {options.file}: {options.key}")
            return
    raise OperatorError(f"{options.key} is not in {' or '.join(names)} of {options.file}")


def show(options: argparse.Namespace) -> None:
    _, rules = read(options.file)
    now = datetime.now(UTC)
    for name in ("allow", "deny_hotkeys", "deny_coldkeys"):
        for entry in getattr(rules, name):
            over = " [over]" if entry.until is not None and entry.until <= now else ""
            print(f"{name:<14} {entry.name}{entry}{over}")
    permit = "must hold a validator permit and" if rules.require_validator_permit else "need no permit but"
    print(f"{'others':<14} {permit} have at least {rules.min_stake:g} stake")


def suggest(options: argparse.Namespace) -> None:
    outcomes = read_outcomes(options.ledger)
    if outcomes is None:
        print(f"There is no ledger of outcomes at {options.ledger}, so there is nothing to suggest.")
        return
    _, rules = read(options.file)
    listed = {entry.hotkey for entry in (*rules.allow, *rules.deny_hotkeys)}
    found = suggestions((counts for counts in outcomes if counts.hotkey not in listed), options.below)
    few = sum(counts.total < MIN_OUTCOMES for counts in outcomes)
    for counts, argument in found:
        print(f"# {argument}")
        print(f"python scripts/blacklist.py add {counts.hotkey} --days {SUGGESTED_DAYS} --reason '{argument}'")
    print(
        f"{len(found)} of {len(outcomes)} validators surely accept less than {options.below:.0%}; "
        f"{few} have fewer than {MIN_OUTCOMES} outcomes, too few to tell"
    )


def parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--file", type=Path, default=shipped_config() / "blacklist.yaml")
    commands = top.add_subparsers(required=True)
    command = commands.add_parser("add", help="deny a hotkey, or change its entry")
    command.add_argument("key", metavar="KEY", help="a hotkey; a coldkey with --coldkey, a uid with --uid")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--coldkey", action="store_true")
    kind.add_argument("--uid", action="store_true")
    command.add_argument("--allow", action="store_true", help="always work for it, instead of never")
    command.add_argument("--reason", required=True)
    end = command.add_mutually_exclusive_group()
    end.add_argument("--until", type=parse_time, metavar="TIME", help="ISO 8601, UTC unless it names a zone")
    end.add_argument("--days", type=float, help="from now on")
    command.add_argument("--netuid", type=int, default=17)
    command.add_argument("--subtensor.network", dest="network", default="finney", help="where to look up --uid")
    command.set_defaults(run=add)
    command = commands.add_parser("remove", help="take an entry out")
    command.add_argument("key", metavar="KEY")
    command.add_argument("--allow", action="store_true", help="from the allow list")
    command.set_defaults(run=remove)
    commands.add_parser("list", help="show what is in force").set_defaults(run=show)
    command = commands.add_parser("suggest", help="validators that reject nearly everything, from the ledger")
    command.add_argument("--ledger", type=Path, default=DEFAULT_LEDGER, help=f"default: {DEFAULT_LEDGER}")
    command.add_argument("--below", type=float, default=0.1, help="share of accepted results (default: 0.1)")
    command.set_defaults(run=suggest)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 after one line on stderr when it cannot be done."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (MinerError, UneditableError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ERROR: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
