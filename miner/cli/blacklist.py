"""sn17-miner blacklist: the validators that the miner works for."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miner.cli.environment import default_chain
from miner.cli.help import HelpfulGroup
from miner.cli.options import FILE, group_operator_files, ledger_option, load_files, operator_files, parse_time
from miner.errors import OperatorError
from miner.words import plural

if TYPE_CHECKING:
    from miner.analytics import AcceptanceRate
    from miner.cli.known_keys import KnownKeys
    from miner.config import ListName, OperatorFiles
    from miner.config.policy_file import PolicyFile

# Fewer outcomes say nothing: of 20, a validator that accepts 20 % rejects all about once in a hundred times.
MIN_OUTCOMES = 50
SUGGESTED_DAYS = 7
MAX_DAYS = 36_500
# The chain counts uids in 16 bits.
UID_DIGITS = 5


class Time(click.ParamType[datetime]):
    """An ISO 8601 time, UTC unless it names a zone."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse a time such as 2026-01-31T12:00."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value)
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-01-31T12:00", param, ctx)


file_option = click.option(
    "--file",
    type=FILE,
    show_default="blacklist.yaml beside the settings file, else the shipped one",
    help="The file of the validator policy.",
)


def _policy_file(file: Path | None, files: "OperatorFiles") -> "PolicyFile":
    from miner.config.policy_file import PolicyFile

    return PolicyFile(file or files.blacklist)


@click.group(cls=HelpfulGroup)
@group_operator_files
def blacklist() -> None:
    """Choose which validators the miner works for.

    A running miner applies a change within seconds.
    """


@blacklist.command(
    examples=(
        'blacklist add 5F3sa2TJ --reason "rejects everything" --days 7',
        'blacklist add 27 --uid --reason "rejects everything"',
    )
)
@click.argument("key")
@click.option("--coldkey", is_flag=True, help="KEY is a coldkey: deny all of its hotkeys.")
@click.option("--uid", is_flag=True, help="KEY is a uid: list the hotkey that holds it.")
@click.option("--allow", is_flag=True, help="Always work for KEY, instead of never.")
@click.option("--reason", required=True, help="Why; shown by `list` and in the miner's log.")
@click.option("--until", type=Time(), show_default="for good", help="When the entry ends, ISO 8601.")
@click.option("--days", type=float, show_default="for good", help="After how many days from now the entry ends.")
@click.option("--netuid", type=int, default=17, help="The subnet on which to look up --uid.")
@click.option(
    "--subtensor.network",
    "network",
    show_default="the ledger and the metagraph that the miner saw last, else BT_SUBTENSOR_NETWORK or finney",
    help="The chain on which to look up --uid.",
)
@file_option
@operator_files
def add(
    key: str,
    coldkey: bool,
    uid: bool,
    allow: bool,
    reason: str,
    until: datetime | None,
    days: float | None,
    netuid: int,
    network: str | None,
    file: Path | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Deny a hotkey or change its entry.

    KEY is a hotkey, a coldkey with --coldkey, or a uid with --uid. The beginning of a key is enough if the ledger and
    the metagraph that the miner saw last have only one that begins so.
    """
    from miner.cli.known_keys import KnownKeys
    from miner.config import PolicyEntry

    if coldkey and uid:
        raise click.UsageError("--coldkey and --uid exclude each other.")
    if until is not None and days is not None:
        raise click.UsageError("--until and --days exclude each other.")
    if days is not None and not 0 < days <= MAX_DAYS:
        raise click.UsageError(f"--days must be more than 0 and at most {MAX_DAYS}.")
    files = load_files(config, state)
    policy = _policy_file(file, files)
    policy.read()
    reason = " ".join(reason.split())
    known = KnownKeys.load(files, netuid)
    if uid:
        number = key
        key, seen = _find_holder(number, known, network, netuid)
        click.echo(f"uid {number} is hotkey {key} {seen}")
        reason = f"{reason} (uid {number} {seen})"
    else:
        key = known.complete(key, coldkey)
    if days is not None:
        until = datetime.now(UTC) + timedelta(days=days)
    entry = PolicyEntry(
        hotkey=None if coldkey else key,
        coldkey=key if coldkey else None,
        reason=reason,
        until=until and until.replace(microsecond=0),
    )
    list_name: ListName = "allow" if allow else "deny_coldkeys" if coldkey else "deny_hotkeys"
    was_listed = policy.add(list_name, entry)
    click.echo(f"{'Changed' if was_listed else 'Added'} in {list_name} of {policy.path}: {entry.name}")


def _find_holder(uid: str, known: "KnownKeys", network: str | None, netuid: int) -> tuple[str, str]:
    """Return the hotkey that holds a uid, and when it was seen to, in words. Raise OperatorError or ChainError."""
    if not uid.isdecimal() or len(uid) > UID_DIGITS:
        raise OperatorError(f"{uid} is no uid")
    found = known.holder(int(uid)) if network is None else None
    if found is None:
        from miner.subnet.metagraph import open_chain

        snapshot = open_chain(network or default_chain(), netuid).snapshot()
        holder = next((neuron.hotkey for neuron in snapshot.neurons if neuron.uid == int(uid)), None)
        if holder is None:
            raise OperatorError(f"nobody holds uid {uid} on subnet {netuid} at block {snapshot.block}")
        found = holder, f"at block {snapshot.block}"
    return found


@blacklist.command()
@click.argument("key")
@click.option("--allow", is_flag=True, help="Remove it from the allow list.")
@file_option
@operator_files
def remove(key: str, allow: bool, file: Path | None, config: Path | None, state: Path | None) -> None:
    """Remove the entry of a hotkey, coldkey or uid; the beginning of a key is enough if one entry begins so."""
    policy = _policy_file(file, load_files(config, state))
    list_names: tuple[ListName, ...] = ("allow",) if allow else ("deny_hotkeys", "deny_coldkeys")
    rules = policy.read()
    entries = [entry for name in list_names for entry in rules.entries(name)]
    matching = sorted({entry.key for entry in entries if entry.uid is None and entry.key.startswith(key)})
    if any(entry.key == key for entry in entries):
        matching = [key]
    if len(matching) > 1:
        raise OperatorError(f"several entries begin with {key}: {', '.join(matching)}")
    key = next(iter(matching), key)
    for list_name in list_names:
        if policy.remove(list_name, key):
            click.echo(f"Removed from {list_name} of {policy.path}: {key}")
            return
    raise OperatorError(f"{key} is not in {' or '.join(list_names)} of {policy.path}")


@blacklist.command("list")
@file_option
@operator_files
def list_entries(file: Path | None, config: Path | None, state: Path | None) -> None:
    """Show all entries, whom each affects now, and the conditions for everybody else.

    Whom they affect is as of the metagraph that the miner on the state folder saw last.
    """
    from miner.cli.known_keys import KnownKeys
    from miner.config import LIST_NAMES

    files = load_files(config, state)
    rules = _policy_file(file, files).read()
    now = datetime.now(UTC)
    known, in_force = KnownKeys.load(files, netuid=17), rules.in_force(now)
    for list_name in LIST_NAMES:
        for entry in rules.entries(list_name):
            is_over = entry.has_expired(now)
            click.echo(f"{list_name:<14} {entry.name}{entry}{' [over]' if is_over else ''}")
            if known.snapshot is not None:
                affected = [] if is_over else list(known.affected(in_force, list_name, entry))
                for words in affected or ["nobody on the subnet"]:
                    click.echo(f"{'':<14}   now {words}")
    permit = "must hold a validator permit and" if rules.require_validator_permit else "need no permit but"
    click.echo(f"{'others':<14} {permit} have at least {rules.min_stake:g} stake")
    if known.snapshot is not None and any(map(rules.entries, LIST_NAMES)):
        click.echo(f"{'':<14} now as of block {known.snapshot.block}, which the miner on {files.state_dir} saw last")


@blacklist.command(examples=("blacklist suggest", "blacklist suggest --below 0.05"))
@ledger_option
@click.option("--below", type=float, default=0.1, help="The share of accepted results that is too low.")
@file_option
@operator_files
def suggest(ledger: Path | None, below: float, file: Path | None, config: Path | None, state: Path | None) -> None:
    """Suggest validators to deny, those that reject nearly everything according to the ledger."""
    from miner.analytics import TaskTable
    from miner.ledger import LedgerReader, TaskRow

    files = load_files(config, state)
    ledger = ledger or files.ledger
    if not ledger.exists():
        click.echo(f"There is no ledger {ledger} yet, so there is nothing to suggest.")
        return
    with LedgerReader(ledger) as reader:
        needed = ("validator", "outcome", "assigned_at")
        table = TaskTable(reader.tasks(without=[name for name in TaskRow._fields if name not in needed]))
    rates = {group.key: table.rate(group.indices) for group in table.group("validator")}
    rules = _policy_file(file, files).read()
    listed = {entry.hotkey for entry in (*rules.allow, *rules.deny_hotkeys)}
    suggestions = suggest_denials(((key, rate) for key, rate in rates.items() if key not in listed), below)
    for hotkey, argument in suggestions:
        click.echo(f"# {argument}")
        click.echo(f"sn17-miner blacklist add {hotkey} --days {SUGGESTED_DAYS} --reason '{argument}'")
    few = sum(rate.judged < MIN_OUTCOMES for rate in rates.values())
    click.echo(
        f"{len(suggestions)} of {plural(len(rates), 'validator')} with a rate surely below {below:.0%}; {few} with "
        f"fewer than {MIN_OUTCOMES} outcomes, too few to tell"
    )


def suggest_denials(rates: "Iterable[tuple[str, AcceptanceRate]]", below: float) -> list[tuple[str, str]]:
    """Return the hotkeys whose acceptance rate is, at 95 % confidence, less than `below`, each with the argument."""
    suggestions = []
    for hotkey, rate in rates:
        low, high = rate.interval
        if rate.judged >= MIN_OUTCOMES and high < below:
            argument = f"accepted {rate.accepted} of {rate.judged}: {low:.1%} to {high:.1%} at 95 % confidence"
            suggestions.append((hotkey, argument))
    return suggestions
