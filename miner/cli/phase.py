"""sn17-miner phase: the settings that the miner generates with, changed while it runs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miner.cli.help import HelpfulGroup
from miner.cli.options import (
    complete_phase,
    group_operator_files,
    ledger_option,
    load_files,
    load_phase,
    operator_files,
)
from miner.errors import MinerError, OperatorError
from miner.words import plural

if TYPE_CHECKING:
    from miner.phases import Arm, PhaseChoice, PhaseState, StateFile

LATER = "the next start takes over what was written"
# Seconds between two looks at what the miner has answered.
ANSWER_PAUSE = 0.2
SHARE_DIGITS = 6

no_wait_option = click.option("--no-wait", is_flag=True, help="Do not wait for the answer of the running miner.")


@click.group(cls=HelpfulGroup)
@group_operator_files
def phase() -> None:
    """Show, compare and change the phases.

    A phase holds the settings that the miner generates with. A running miner takes a change over within seconds,
    without a restart and without losing a task. If it cannot, it says why and goes on as before.

    What changes the phase waits for the miner's answer. Exit codes: 0 taken over, 1 no miner runs on this state folder,
    or it ended (the next start takes the change over), 2 refused or a mistake.
    """


@phase.command("list")
@operator_files
def list_phases(config: Path | None, state: Path | None) -> None:
    """List all phases, those to run marked with *, each with the hash of its settings."""
    from miner.config import phase_names
    from miner.phases import StateFile

    files = load_files(config, state)
    written = StateFile(files.state_dir).read()
    current = written.current if written else None
    running = {named.name: named for named in current.phases} if current else {}
    for name in sorted({*phase_names(files.config), *running}):
        mark, file_line = " ", ""
        try:
            named = load_phase(name, files.config)
        except OperatorError as error:
            named, file_line = None, f"broken         {error}"
        if current and name in running:
            mark, ran = "*", running[name]
            if named is None:
                file_line = f"its file is {file_line}"
            elif named.config_hash != ran.config_hash:
                file_line = f"its file has   {named.config_hash}, {_when_used(name, current)}"
            named = ran
        if named is not None:
            click.echo(f"{mark} {name:<12} {named.config_hash}   {named.settings.note}".rstrip())
            mark, name = " ", ""
        if file_line:
            click.echo(f"{mark} {name:<12} {file_line}")
    if current:
        click.echo(f"To run: {current.label}" + ("" if written and written.ready else ", which no miner runs yet"))
    else:
        click.echo("Nothing was applied yet: the miner begins with the phase of its settings file")
    if written and written.before:
        click.echo(f"Before: {', '.join(earlier.phases[0].label for earlier in reversed(written.before))}")


def _when_used(name: str, current: "PhaseChoice") -> str:
    """Return when a change of a phase's file takes effect."""
    if current.is_split:
        return "which has no effect while the split runs"
    return "which a running miner takes over" if current.follows else f"which `sn17-miner phase apply {name}` uses"


@phase.command()
@click.argument("name", shell_complete=complete_phase)
@operator_files
def show(name: str, config: Path | None, state: Path | None) -> None:
    """Show all settings of a phase, including those that it inherits."""
    named = load_phase(name, load_files(config, state).config)
    click.echo(f"# {named.label}")
    click.echo(named.yaml, nl=False)


@phase.command(examples=("phase diff phase3 test3",))
@click.argument("first", metavar="A", shell_complete=complete_phase)
@click.argument("second", metavar="B", shell_complete=complete_phase)
@operator_files
def diff(first: str, second: str, config: Path | None, state: Path | None) -> None:
    """Show in which settings two phases differ."""
    files = load_files(config, state)
    a, b = load_phase(first, files.config), load_phase(second, files.config)
    click.echo(f"{a.label} -> {b.label}")
    before, after = a.flat(), b.flat()
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    for key in changed:
        click.echo(f"  {key}: {before.get(key)} -> {after.get(key)}")
    if not changed:
        click.echo("  the same settings")
    elif not a.settings.models_key.can_be_shared(b.settings.models_key):
        click.echo("  they need different models in memory: both are loaded for a change, and no split is possible")


@phase.command(examples=("phase apply test3",))
@click.argument("name", shell_complete=complete_phase)
@no_wait_option
@operator_files
def apply(name: str, no_wait: bool, config: Path | None, state: Path | None) -> None:
    """Generate with a phase from the next task on."""
    from miner.phases import PhaseChoice, StateFile

    files = load_files(config, state)
    state_file, choice = StateFile(files.state_dir), PhaseChoice.single(load_phase(name, files.config))
    written = state_file.read()
    if written is not None and written.current.same_as(choice) and written.current.follows:
        click.echo(f"{choice.label[0].upper()}{choice.label[1:]} is the one to run already")
    else:
        _announce(choice, _choose(state_file, choice, f"{name} was applied"))
    _report_answer(state_file, choice, no_wait)


@phase.command(examples=("phase split phase3=50 baseline=50", "phase split phase3=50 test3=50 --promote"))
@click.argument("arms", metavar="NAME=SHARE...", nargs=-1, required=True, shell_complete=complete_phase)
@click.option("--promote", is_flag=True, help="Make the arm that wins the phase.")
@click.option("--rollback", is_flag=True, help="Go back to the phase from before once an arm is clearly worse.")
@click.option("--seed", type=int, show_default="random", help="The seed of the tasks' assignment to the arms.")
@no_wait_option
@operator_files
def split(
    arms: tuple[str, ...],
    promote: bool,
    rollback: bool,
    seed: int | None,
    no_wait: bool,
    config: Path | None,
    state: Path | None,
) -> None:
    """Assign tasks to several phases at random, to compare them, as in `phase split phase3=50 baseline=50`."""
    import secrets

    from miner.phases import PhaseChoice, StateFile

    files = load_files(config, state)
    parsed = _parse_arms(arms, files.config)
    seed = secrets.randbelow(2**31) if seed is None else seed
    experiment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{'-'.join(parsed)}"
    choice = PhaseChoice(experiment=experiment, seed=seed, arms=parsed, promote=promote, rollback=rollback)
    try:
        _ = choice.assignment
    except ValueError as error:
        raise OperatorError(f"cannot split: {error}") from None
    state_file = StateFile(files.state_dir)
    _announce(choice, _choose(state_file, choice, f"{choice.label} was applied"))
    click.echo(f"Experiment {experiment}, seed {seed}; `sn17-miner report` shows its result so far")
    _report_answer(state_file, choice, no_wait)


def _parse_arms(texts: Sequence[str], config: Path) -> "dict[str, Arm]":
    from miner.phases import Arm

    arms: dict[str, Arm] = {}
    for text in texts:
        name, _, weight = text.partition("=")
        if not weight.isdecimal() or len(weight) > SHARE_DIGITS or int(weight) < 1:
            raise OperatorError(f"{text[:80]!r} is no arm: write NAME=SHARE, such as phase3=50")
        if name in arms:
            raise OperatorError(f"{name} is named twice")
        arms[name] = Arm(weight=int(weight), settings=load_phase(name, config).settings)
    return arms


@phase.command()
@no_wait_option
@operator_files
def rollback(no_wait: bool, config: Path | None, state: Path | None) -> None:
    """Go back to the phase from before; again, to the one before that."""
    from miner.phases import PhaseFiles, StateFile

    files = load_files(config, state)
    phase_files = PhaseFiles(files.config, StateFile(files.state_dir))

    def roll_back(written: "PhaseState | None") -> "PhaseState":
        if written is None:
            raise OperatorError("there is no phase to go back to: no miner has run and nothing was applied")
        return written.roll_back(phase_files.choose, "rollback", "rolled back")

    before, after = phase_files.state.change(roll_back)
    _announce(after.current, before)
    if not after.current.follows:
        click.echo(
            "Its file has been changed since; the settings it ran with are kept. `sn17-miner phase apply` takes those "
            "of the file."
        )
    left = len(after.before)
    click.echo(f"Left to go back to: {plural(left, 'phase')}")
    _report_answer(phase_files.state, after.current, no_wait)


def _choose(state_file: "StateFile", choice: "PhaseChoice", reason: str) -> "PhaseState | None":
    """Write a choice to the state file, and return the state before."""
    import time

    from miner.phases import PhaseState

    def apply_choice(written: "PhaseState | None") -> "PhaseState":
        if written is None:
            return PhaseState(at=time.time(), action="apply", reason=reason, current=choice)
        return written.apply(choice, "apply", reason)

    return state_file.change(apply_choice)[0]


def _announce(choice: "PhaseChoice", before: "PhaseState | None") -> None:
    instead = f" instead of {before.current.label}" if before else ""
    click.echo(f"To run: {choice.label}{instead}")
    needed = choice.to_load.settings.models_key
    if before and not before.current.to_load.settings.models_key.serves(needed):
        click.echo("It needs other models, which a running miner loads while it goes on with those that it has")


def _report_answer(state_file: "StateFile", choice: "PhaseChoice", no_wait: bool) -> None:
    """Say whether a miner runs on the state folder, and wait for what it makes of a choice.

    Raises OperatorError with the miner's reason if it refuses, and MinerError if there is none or if it ends.
    """
    import time

    from miner.runtime import find_owner

    folder = state_file.folder
    owner = find_owner(folder)
    if owner is None:
        missing = f"no miner runs on {folder}; {LATER}"
        if not no_wait:
            raise MinerError(missing)
        click.echo(missing[0].upper() + missing[1:])
        return
    click.echo(f"The miner on {folder} ({owner}) is to take it over")
    if no_wait:
        return
    while True:
        # Asked before the file is read, so that the last answer of a miner that ends is not missed.
        owner = find_owner(folder)
        if _has_taken_over(state_file.read(), choice):
            click.echo("It did: from the next task on")
            return
        if owner is None:
            raise MinerError(
                f"the miner on {folder} ended before it answered; the next start takes over what was written"
            )
        time.sleep(ANSWER_PAUSE)


def _has_taken_over(state: "PhaseState | None", choice: "PhaseChoice") -> bool:
    """Return whether the miner has taken a choice over. Raise OperatorError or MinerError if it will not."""
    if state is None:
        raise MinerError("the file of the phase choice was deleted before the miner answered")
    if state.current.same_as(choice):
        return state.ready
    if state.refusal is not None and state.refusal.choice == choice.label:
        raise OperatorError(f"the miner refused {choice.label}: {state.refusal.reason}; {state.current.label} goes on")
    raise MinerError(f"{state.current.label} was chosen before the miner answered")


@phase.command()
@ledger_option
@operator_files
def history(ledger: Path | None, config: Path | None, state: Path | None) -> None:
    """Show which phases and experiments ran when."""
    from miner.ledger import LedgerReader

    ledger = ledger or load_files(config, state).ledger
    if not ledger.exists():
        click.echo(f"There is no ledger {ledger} yet: the miner records there which phase ran when.")
        return
    with LedgerReader(ledger) as reader:
        events = [(row.at, f"{row.action:<9} {row.phase:<12} {row.config_hash}") for row in reader.phases()]
        for row in reader.experiments():
            shares = " ".join(f"{name}={weight}" for name, weight in row.weights.items())
            events.append((row.started_at, f"split     {shares}, experiment {row.name}"))
            if row.ended_at is not None:
                events.append((row.ended_at, f"ended     experiment {row.name}: {row.decision}"))
    if not events:
        click.echo(f"The ledger {ledger} has no phases yet.")
    for at, line in sorted(events, key=lambda event: event[0]):
        click.echo(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC  {line}")
