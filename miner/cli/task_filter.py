"""Options that choose tasks of the ledger, for the commands that read it."""

import functools
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from miner.cli.options import complete_phase, parse_time

if TYPE_CHECKING:
    from miner.analytics import TaskFilter

Command = TypeVar("Command", bound=Callable[..., Any])
SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Moment(click.ParamType[float]):
    """A moment as unix seconds, given as a period before now or as an ISO 8601 time, UTC unless it names a zone."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse a period such as 24h (m, h, d, w) or a time such as 2025-11-04."""
        if not isinstance(value, str):
            return value
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value):
            return time.time() - float(match[1]) * SECONDS[match[2]]
        try:
            return parse_time(value).timestamp()
        except ValueError:
            self.fail(f"{value!r} is neither a period such as 24h or 7d nor a time such as 2025-11-04", param, ctx)


# The parameters of the options for phase, validator and type, and of all that choose tasks.
CHOICE_NAMES = ("phases", "validators", "types")
FILTER_NAMES = ("since", "until", *CHOICE_NAMES, "last")
PERIOD = (
    click.option("--since", type=Moment(), default=0.0, show_default="everything", help="24h, 7d or an ISO 8601 time."),
    click.option("--until", type=Moment(), default=math.inf, show_default="now", help="24h ago or an ISO 8601 time."),
)
CHOICE = (
    click.option(
        "--phase",
        "phases",
        multiple=True,
        shell_complete=complete_phase,
        help="Only tasks of this phase, by its name, its hash or the beginning of that. Repeatable.",
    ),
    click.option(
        "--validator",
        "validators",
        multiple=True,
        help="Only tasks of this validator, by its uid, its hotkey or the beginning of that. Repeatable.",
    ),
    click.option("--type", "types", type=click.Choice(["text", "image"]), multiple=True, help="Only tasks of a type."),
)
LAST = click.option("--last", type=click.IntRange(min=1), show_default="all", help="Only so many, the latest ones.")


def task_choice_options(command: Command) -> Command:
    """Add options for phase, validator and type; the command gets a miner.analytics.TaskFilter as `task_filter`."""

    @functools.wraps(command)
    def run(*, phases: tuple[str, ...], validators: tuple[str, ...], types: tuple[str, ...], **others: Any) -> Any:
        from miner.analytics import TaskFilter

        return command(task_filter=TaskFilter(phases=phases, validators=validators, types=types), **others)

    for option in reversed(CHOICE):
        run = option(run)
    return run  # type: ignore[return-value]  # as wraps says


def task_filter_options(command: Command) -> Command:
    """Add all options that choose tasks; the command gets a miner.analytics.TaskFilter as `task_filter`."""

    @functools.wraps(command)
    def run(*, since: float, until: float, last: int | None, task_filter: "TaskFilter", **others: Any) -> Any:
        if since > until:
            raise click.UsageError("--since lies after --until")
        return command(task_filter=replace(task_filter, since=since, until=until, last=last), **others)

    chosen: Callable[..., Any] = task_choice_options(LAST(run))
    for option in reversed(PERIOD):
        chosen = option(chosen)
    return chosen  # type: ignore[return-value]  # as wraps says
