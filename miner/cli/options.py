"""Options that several commands share, and the completion of their values."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from miner.config import OperatorFiles
    from miner.config.phase_files import NamedPhase

Command = TypeVar("Command", bound=Callable[..., Any])
# The values of pipeline.UpAxis, for which --help must not load torch.
UpAxis = Literal["y", "-y"]

FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
FOLDER = click.Path(path_type=Path, file_okay=False)


def refuse_same_file(source: Path, target: Path, names: str) -> None:
    """Raise UsageError if the file to write is the one to read, also by way of a link; `names` are those of the two."""
    with suppress(OSError, ValueError):
        if source.resolve() == target.resolve() or source.samefile(target):
            raise click.UsageError(f"{names} are the same file, {source}")


def _inherit(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Return the value, or that of the nearest command before this one on the command line that has one."""
    # Commands of one command line share this mapping, and the outermost is parsed first.
    key = f"{__name__}.{parameter.name}"
    if value is not None:
        context.meta[key] = value
    inherited: Path | None = context.meta.get(key)
    return inherited


def _operator_files(expose_value: bool) -> Callable[[Command], Command]:
    config = click.option(
        "--config",
        type=FILE,
        callback=_inherit,
        expose_value=expose_value,
        show_default="config/miner.yaml",
        help="The miner's settings file.",
    )
    state = click.option(
        "--state",
        type=FOLDER,
        metavar="FOLDER",
        callback=_inherit,
        expose_value=expose_value,
        show_default="state_dir of the settings file",
        help="The folder of the ledger, the applied phase, cooldowns and results.",
    )
    return lambda command: config(state(command))


def operator_files(command: Command) -> Command:
    """Add --config and --state; the command gets their values as `config` and `state`, see `load_files`."""
    return _operator_files(expose_value=True)(command)


def group_operator_files(group: Command) -> Command:
    """Add --config and --state to a group, for those of its commands that are given none of their own."""
    return _operator_files(expose_value=False)(group)


def dotted_option(flag: str, **attributes: Any) -> Callable[[Command], Command]:
    """Add an option such as --axon.port, whose value the command gets as `axon_port`."""
    return click.option(flag, flag.removeprefix("--").replace(".", "_"), **attributes)


def sdk_option(flag: str, *names: str, **attributes: Any) -> Callable[[Command], Command]:
    """Add an option of the Bittensor SDK, which the SDK's environment variable sets, too: --axon.port, BT_AXON_PORT.

    The command gets its value as `axon_port`, or by the name in `names`.
    """
    name = flag.removeprefix("--").replace(".", "_")
    return click.option(flag, *(names or (name,)), envvar=f"BT_{name.upper()}", show_envvar=True, **attributes)


def unless_network_is_typed(context: click.Context, _parameter: click.Parameter, endpoint: str | None) -> str | None:
    """Return the chain's address, but None if it is the environment's and the command line names a network."""
    sources = {name: context.get_parameter_source(name) for name in ("network", "chain_endpoint")}
    if sources["network"] is ParameterSource.COMMANDLINE and sources["chain_endpoint"] is ParameterSource.ENVIRONMENT:
        return None
    return endpoint


ledger_option = click.option(
    "--ledger", type=EXISTING_FILE, show_default="that of the settings file", help="The ledger, which is only read."
)


def parse_time(text: str) -> datetime:
    """Parse an ISO 8601 time, in UTC unless it names a zone. Raise ValueError."""
    moment = datetime.fromisoformat(text)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text} is outside of the years 1 to 9999 in UTC") from None


def load_files(config: Path | None, state: Path | None) -> "OperatorFiles":
    """Read the settings file. Raise OperatorError."""
    from miner.config import OperatorFiles

    return OperatorFiles.load(config, state)


def load_phase(name: str, config: Path) -> "NamedPhase":
    """Read a phase for the settings file `config`. Raise OperatorError."""
    from miner.config import phase_files

    return phase_files.load_phase(name, config)


def complete_phase(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of phases that begin with what has been typed."""
    from miner.config import phase_names, shipped_config

    config = context.params.get("config") or shipped_config() / "miner.yaml"
    return [name for name in phase_names(config) if name.startswith(incomplete)]
