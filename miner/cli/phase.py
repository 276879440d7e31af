"""With what the miner generates: show, compare, change, split, and go back, while it runs.

    python scripts/phase.py list
    python scripts/phase.py show NAME                 all settings of a phase, with those that it extends
    python scripts/phase.py diff A B
    python scripts/phase.py apply NAME                from the next task on
    python scripts/phase.py split A=50 B=50 [--promote] [--rollback]
    python scripts/phase.py rollback                  to the phase from before; again: to the one before that
    python scripts/phase.py history

A running miner takes a change over within seconds, without a restart and without losing a task. Its log says so, or why
not; then it goes on with what ran before.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from miner.config.loader import load_yaml, shipped_config
from miner.config.phase_files import flat, load_phase, phase_names
from miner.config.settings import MinerSettings
from miner.errors import OperatorError
from miner.ledger.reader import ExperimentRow, LedgerReader, PhaseRow
from miner.config.settings import LEDGER_NAME
from miner.phases.manager import PhaseFiles
from miner.phases.state import Arm, Choice, Chosen, ChosenSplit, PhaseState, StateFile

FOLLOWS = "A running miner takes this over with its next task and says so in its log."
LOADS = "A running miner loads its networks first, goes on with the others meanwhile, and says in its log how it went."


def put(state: StateFile, choice: Choice, reason: str) -> PhaseState | None:
    """Write a choice down; what was before."""
    before: list[PhaseState] = []

    def change(written: PhaseState | None) -> PhaseState:
        if written is None:
            return PhaseState(at=time.time(), action="apply", reason=reason, current=choice)
        before.append(written)
        return written.apply(choice, "apply", reason)

    state.change(change)
    return before[0] if before else None


def tell(choice: Choice, before: PhaseState | None) -> None:
    instead = f" instead of {before.current.label}" if before else ""
    print(f"To run: {choice.label}{instead}")
    was = before.current.phases[0].settings.loaded if before else None
    print(LOADS if was not in (None, choice.phases[0].settings.loaded) else FOLLOWS)


def apply(options: argparse.Namespace) -> None:
    choice = Chosen.of(load_phase(options.name, options.config))
    written = options.state.read()
    if written is not None and written.current.is_same(choice) and written.current.follows:
        print(f"{choice.label[0].upper()}{choice.label[1:]} is the one to run already")
        return
    tell(choice, put(options.state, choice, f"{options.name} was applied"))


def split(options: argparse.Namespace) -> None:
    arms: dict[str, Arm] = {}
    for text in options.arms:
        name, _, weight = text.partition("=")
        if not weight.isdecimal() or int(weight) < 1:
            raise OperatorError(f"{text!r} is no arm: write NAME=SHARE, such as phase3=50")
        if name in arms:
            raise OperatorError(f"{name} is named twice")
        arms[name] = Arm(weight=int(weight), settings=load_phase(name, options.config).settings)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{'-'.join(arms)}"
    choice = ChosenSplit(experiment=name, seed=seed, arms=arms, promote=options.promote, rollback=options.rollback)
    try:
        _ = choice.drawing
    except ValueError as error:
        raise OperatorError(f"cannot split: {error}") from None
    tell(choice, put(options.state, choice, f"{choice.label} took its place"))
    print(f"Experiment {name}, seed {seed}; `python scripts/report.py` shows how it stands")


def rollback(options: argparse.Namespace) -> None:
    before: list[PhaseState] = []
    files = PhaseFiles(options.config, options.state)

    def change(written: PhaseState | None) -> PhaseState:
        if written is None:
            raise OperatorError("there is no phase to go back to: no miner has run and nothing was applied")
        before.append(written)
        return written.roll_back(files.find, "rollback", "rolled back")

    after = options.state.change(change)
    tell(after.current, before[0])
    if not after.current.follows:
        print(
            "Its file says something else by now; the settings it ran with are kept, `apply` takes those of the file."
        )
    left = len(after.before)
    print(f"{left} phases to go back to are left" if left != 1 else "One phase to go back to is left")


def show_list(options: argparse.Namespace) -> None:
    written = options.state.read()
    current = written.current if written else None
    running = {phase.name: phase for phase in current.phases} if current else {}
    for name in phase_names(options.config):
        mark = "*" if name in running else " "
        try:
            phase = load_phase(name, options.config)
        except OperatorError as error:
            print(f"{mark} {name:<12} broken         {error}")
            continue
        print(f"{mark} {name:<12} {phase.config_hash}   {phase.settings.note}")
        if name in running and running[name].config_hash != phase.config_hash:
            print(f"  {'':<12} {running[name].config_hash}   is what runs, from before the file was changed")
    print(
        f"To run: {current.label}" if current else "Nothing was applied yet: the miner begins with its settings' phase"
    )
    if written and written.before:
        print(f"Before: {', '.join(phase.named.label for phase in reversed(written.before))}")


def show(options: argparse.Namespace) -> None:
    phase = load_phase(options.name, options.config)
    print(f"# {phase.label}")
    print(phase.yaml, end="")


def diff(options: argparse.Namespace) -> None:
    first, second = (load_phase(name, options.config) for name in (options.first, options.second))
    a, b = flat(first), flat(second)
    changed = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    print(f"{first.label} -> {second.label}")
    for key in changed:
        print(f"  {key}: {a.get(key)} -> {b.get(key)}")
    if not changed:
        print("  the same settings")
    elif first.settings.loaded != second.settings.loaded:
        print("  other networks have to be in memory: they are loaded beside those that run, and no split is possible")


def history(options: argparse.Namespace) -> None:
    if not options.ledger.expanduser().exists():
        print(f"There is no ledger {options.ledger} yet: the miner writes down there which phase ran when.")
        return
    with LedgerReader(options.ledger) as reader:
        phases, experiments = reader.phases(), reader.experiments()
    if not phases:
        print(f"The ledger {options.ledger} knows of no phase yet.")
        return
    for at, line in sorted(lines(phases, experiments), key=lambda entry: entry[0]):
        print(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC  {line}")


def lines(phases: Sequence[PhaseRow], experiments: Sequence[ExperimentRow]) -> list[tuple[float, str]]:
    """What happened, with its moment in unix seconds."""
    found = [(row.at, f"{row.action:<9} {row.phase:<12} {row.config_hash}") for row in phases]
    for row in experiments:
        shares = " ".join(f"{name}={weight}" for name, weight in row.weights.items())
        found.append((row.started_at, f"split     {shares}, experiment {row.name}"))
        if row.ended_at is not None:
            found.append((row.ended_at, f"ended     experiment {row.name}: {row.decision}"))
    return found


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--config", type=Path, default=shipped_config() / "miner.yaml", help="the miner's settings file")
    top.add_argument("--state", type=Path, metavar="FOLDER", help="the miner's state folder, if not the settings' one")
    top.add_argument("--ledger", type=Path, metavar="FILE", help="for history, if not the settings' one")
    commands = top.add_subparsers(required=True)
    command = commands.add_parser("list", help="what phases there are, which is to run, which ran before")
    command.set_defaults(run=show_list)
    command = commands.add_parser("show", help="all settings of a phase")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=show)
    command = commands.add_parser("diff", help="what two phases differ in")
    command.add_argument("first", metavar="A")
    command.add_argument("second", metavar="B")
    command.set_defaults(run=diff)
    command = commands.add_parser("apply", help="generate with a phase from the next task on")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=apply)
    command = commands.add_parser("split", help="draw a phase for each task, to compare them")
    command.add_argument("arms", metavar="NAME=SHARE", nargs="+")
    command.add_argument("--promote", action="store_true", help="make the arm that wins the phase")
    command.add_argument(
        "--rollback", action="store_true", help="go back to the phase from before once an arm is clearly worse"
    )
    command.add_argument("--seed", type=int, help="of the draw (default: any)")
    command.set_defaults(run=split)
    commands.add_parser("rollback", help="back to the phase from before").set_defaults(run=rollback)
    commands.add_parser("history", help="which phase ran when").set_defaults(run=history)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 after one line on stderr when it cannot be done."""
    options = parser().parse_args(arguments)
    try:
        settings = load_yaml(options.config, MinerSettings)
        folder = options.state or settings.pulling.state_folder.expanduser()
        options.ledger = options.ledger or settings.ledger.path or folder / LEDGER_NAME
        options.state = StateFile(folder)
        options.run(options)
    except OperatorError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
