"""sn17-miner blacklist: the validators that the miner works for."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miner.cli.options import FILE, group_operator_files, ledger_option, load_files, operator_files, parse_time
from miner.errors import OperatorError
from miner.words import plural

if TYPE_CHECKING:
    from miner.analytics import AcceptanceRate
    from miner.config import ListName
    from miner.config.policy_file import PolicyFile

# Fewer outcomes say nothing: of 20, a validator that accepts 20 % rejects all about once in a hundred times.
MIN_OUTCOMES = 50
SUGGESTED_DAYS = 7


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


def _policy_file(file: Path | None, config: Path | None, state: Path | None) -> "PolicyFile":
    from miner.config.policy_file import PolicyFile

    return PolicyFile(file or load_files(config, state).blacklist)


@click.group()
@group_operator_files
def blacklist() -> None:
    """Choose which validators the miner works for.

    A running miner applies a change within seconds.
    """


@blacklist.command()
@click.argument("key")
@click.option("--coldkey", is_flag=True, help="KEY is a coldkey: deny all of its hotkeys.")
@click.option("--uid", is_flag=True, help="KEY is a uid: list the hotkey that holds it on the chain now.")
@click.option("--allow", is_flag=True, help="Always work for KEY, instead of never.")
@click.option("--reason", required=True, help="Why; shown by `list` and in the miner's log.")
@click.option("--until", type=Time(), show_default="for good", help="When the entry ends, ISO 8601.")
@click.option("--days", type=float, show_default="for good", help="After how many days from now the entry ends.")
@click.option("--netuid", type=int, default=17, help="The subnet on which to look up --uid.")
@click.option("--subtensor.network", "network", default="finney", help="The chain on which to look up --uid.")
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
    network: str,
    file: Path | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Deny a hotkey or change its entry.

    KEY is a hotkey, a coldkey with --coldkey, or a uid with --uid.
    """
    from miner.config import PolicyEntry

    if coldkey and uid:
        raise click.UsageError("--coldkey and --uid exclude each other.")
    if until is not None and days is not None:
        raise click.UsageError("--until and --days exclude each other.")
    policy = _policy_file(file, config, state)
    policy.read()
    reason = " ".join(reason.split())
    if uid:
        key, source = _holder_of_uid(key, network, netuid)
        reason = f"{reason} ({source})"
    else:
        _check_address(key)
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


def _check_address(key: str) -> None:
    from miner.config import check_address

    try:
        check_address(key)
    except ValueError as error:
        raise OperatorError(f"{error}; a uid needs --uid") from None


def _holder_of_uid(uid: str, network: str, netuid: int) -> tuple[str, str]:
    """Return the hotkey that holds a uid, and the uid and block in words. Raise OperatorError or ChainError."""
    from miner.subnet.metagraph import open_chain

    if not uid.isdecimal():
        raise OperatorError(f"{uid} is no uid")
    snapshot = open_chain(network, netuid).snapshot()
    holder = next((neuron.hotkey for neuron in snapshot.neurons if neuron.uid == int(uid)), None)
    if holder is None:
        raise OperatorError(f"nobody holds uid {uid} on subnet {netuid} at block {snapshot.block}")
    click.echo(f"uid {uid} is hotkey {holder} at block {snapshot.block}")
    return holder, f"uid {uid} at block {snapshot.block}"


@blacklist.command()
@click.argument("key")
@click.option("--allow", is_flag=True, help="Remove it from the allow list.")
@file_option
@operator_files
def remove(key: str, allow: bool, file: Path | None, config: Path | None, state: Path | None) -> None:
    """Remove the entry of a hotkey, coldkey or uid."""
    policy = _policy_file(file, config, state)
    list_names: tuple[ListName, ...] = ("allow",) if allow else ("deny_hotkeys", "deny_coldkeys")
    for list_name in list_names:
        if policy.remove(list_name, key):
            click.echo(f"Removed from {list_name} of {policy.path}: {key}")
            return
    raise OperatorError(f"{key} is not in {' or '.join(list_names)} of {policy.path}")


@blacklist.command("list")
@file_option
@operator_files
def list_entries(file: Path | None, config: Path | None, state: Path | None) -> None:
    """Show all entries and the conditions for everybody else."""
    from miner.config import LIST_NAMES

    rules = _policy_file(file, config, state).read()
    now = datetime.now(UTC)
    for list_name in LIST_NAMES:
        for entry in rules.entries(list_name):
            click.echo(f"{list_name:<14} {entry.name}{entry}{' [over]' if entry.has_expired(now) else ''}")
    permit = "must hold a validator permit and" if rules.require_validator_permit else "need no permit but"
    click.echo(f"{'others':<14} {permit} have at least {rules.min_stake:g} stake")


@blacklist.command()
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
    rules = _policy_file(file, config, state).read()
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
