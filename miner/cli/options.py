"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from miner.config.settings import OperatorFiles

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

config_option = click.option("--config", type=FILE, show_default="config/miner.yaml", help="The miner's settings file.")
state_option = click.option(
    "--state",
    type=FOLDER,
    metavar="FOLDER",
    show_default="state_dir of the settings file",
    help="The folder of the ledger, the applied phase, cooldowns and results.",
)


def operator_files(command: Command) -> Command:
    """Add --config and --state; the command gets what they name as `config` and `state`, see `load_files`."""
    return config_option(state_option(command))


def load_files(config: Path | None, state: Path | None) -> OperatorFiles:
    """Read the settings file. Raises OperatorError."""
    from miner.config.settings import OperatorFiles

    return OperatorFiles.load(config, state)
