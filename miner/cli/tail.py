"""sn17-miner tail: the latest tasks of the ledger and what became of them."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miner.cli.help import HelpfulCommand
from miner.cli.options import ledger_option, load_files, operator_files
from miner.cli.task_filter import CHOICE_NAMES, task_choice_options
from miner.cli.task_lines import HEAD, Json, task_line

if TYPE_CHECKING:
    from miner.analytics import TaskFilter

# Seconds between two looks at the ledger.
INTERVAL = 1.0
# Seconds after which no validator answers any more.
MAX_WAIT = 7200.0


@dataclass
class Follower:
    """Finds the tasks that were answered since the last look, whose ledger need not exist yet."""

    ledger: Path
    task_filter: "TaskFilter"
    _told: dict[str, str | None] = field(default_factory=dict)

    def begin(self) -> list[Json]:
        """Return the latest tasks, answered or not."""
        self._told = {task["key"]: task["answer"] for task in self._read(self._recent())}
        return self._read(self.task_filter)

    def look(self) -> list[Json]:
        """Return the tasks with an answer that was not told yet, in the order of their answers."""
        tasks = self._read(self._recent())
        answered = [task for task in tasks if task["answer"] not in (None, self._told.get(task["key"]))]
        self._told = {task["key"]: task["answer"] for task in tasks}
        return sorted(answered, key=lambda task: task["answered_at"])

    def _recent(self) -> "TaskFilter":
        since = max(self.task_filter.since, time.time() - MAX_WAIT)
        return replace(self.task_filter, since=since, last=None)

    def _read(self, task_filter: "TaskFilter") -> list[Json]:
        from miner.analytics import task_figures
        from miner.ledger import LedgerReader

        if not self.ledger.exists():
            return []
        # Opened anew each time, since the file may be replaced meanwhile.
        with LedgerReader(self.ledger) as reader:
            return [task_figures(task) for task in task_filter.read(reader)]


@click.command(
    cls=HelpfulCommand,
    option_groups={"Which tasks": ("last", *CHOICE_NAMES)},
    examples=("tail -f --validator 27", "tail -n 100 --phase test3 --json"),
)
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, help="So many tasks at first.")
@click.option("-f", "--follow", is_flag=True, help="Go on with every answer that comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@task_choice_options
@ledger_option
@operator_files
def tail(
    last: int,
    follow: bool,
    as_json: bool,
    task_filter: "TaskFilter",
    ledger: Path | None,
    config: Path | None,
    state: Path | None,
) -> None:
    """Show the latest tasks with phase, validator, answer, score and seconds.

    The miner need not run: the tasks are read from its ledger. A task without an answer yet is `open`.
    """
    path = ledger or load_files(config, state).ledger
    if not path.exists():
        click.echo(f"There is no ledger {path} yet; the miner creates it with its first task.", err=True)
    follower = Follower(path, replace(task_filter, last=last))
    if not as_json:
        click.echo(HEAD)
    with suppress(KeyboardInterrupt):
        _show(follower.begin(), as_json)
        while follow:
            time.sleep(INTERVAL)
            _show(follower.look(), as_json)


def _show(tasks: Iterable[Json], as_json: bool) -> None:
    for task in tasks:
        click.echo(json.dumps(task) if as_json else task_line(task))
