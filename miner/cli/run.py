"""sn17-miner run: the miner itself."""

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click

from miner.cli.environment import unused_variables
from miner.cli.help import HelpfulCommand
from miner.cli.options import dotted_option, operator_files, sdk_option, unless_network_is_typed
from miner.early_stop import end_on_signals
from miner.errors import ExitCode, MinerError


@click.command(
    cls=HelpfulCommand,
    option_groups={
        "Wallet and chain": ("netuid", "wallet_name", "wallet_hotkey", "wallet_path", "network", "chain_endpoint"),
        "Axon": ("axon_ip", "axon_port", "axon_external_ip", "axon_external_port"),
        "Work": ("phase", "allow_demo_checkpoint", "monitor_port", "debug"),
    },
    examples=(
        "run --netuid 17 --wallet.name miner --wallet.hotkey default",
        "run --wallet.name miner --phase test3 --axon.port 8091",
    ),
)
@click.option("--netuid", type=int, default=17, help="The subnet.")
@sdk_option("--wallet.name", default="default", help="The wallet (coldkey) whose hotkey mines.")
@sdk_option("--wallet.hotkey", default="default", help="The hotkey that mines.")
@sdk_option("--wallet.path", default="~/.bittensor/wallets", help="The folder of the wallets.")
@sdk_option(
    "--subtensor.network", "network", default="finney", help="finney, test, local, ws://HOST:PORT, or file:PATH."
)
@sdk_option(
    "--subtensor.chain_endpoint",
    "chain_endpoint",
    metavar="ws://HOST:PORT",
    callback=unless_network_is_typed,
    show_default="that of --subtensor.network",
    help="The chain's address.",
)
@sdk_option("--axon.ip", default="0.0.0.0", help="The address that the axon listens on.")  # noqa: S104
@sdk_option("--axon.port", type=int, default=8091, help="The port that the axon listens on.")
@sdk_option("--axon.external_ip", show_default="asked of the internet", help="The address that validators are told.")
@sdk_option(
    "--axon.external_port", type=int, show_default="that of --axon.port", help="The port that validators are told."
)
@dotted_option(
    "--monitor.port",
    type=int,
    show_default="monitor.port of the settings file",
    help="The port of the operator's page; 0 for none.",
)
@click.option("--phase", show_default="phase of the settings file", help="The phase to begin with.")
@click.option(
    "--allow-demo-checkpoint", is_flag=True, help="Let the embedded toy checkpoint answer on a live network, too."
)
@sdk_option("--logging.debug", "debug", is_flag=True, help="Write more lines into the log.")
@operator_files
def run(debug: bool, config: Path | None, state: Path | None, **options: Any) -> None:
    """Mine until told to stop.

    Exit codes: 0 stopped, 1 a failure that is worth a restart, 2 a mistake that only the operator can put right,
    3 the hotkey is not registered, or no longer.
    """
    for sentence in unused_variables():
        click.echo(f"WARNING: {sentence}", err=True)

    def work() -> Coroutine[Any, Any, ExitCode]:
        from miner.app import mine
        from miner.config.run_settings import RunOptions, RunSettings

        return mine(RunSettings.load(RunOptions(config=config, state_dir=state, **options)))

    run_to_the_end(work, debug)


def run_to_the_end(work: Callable[[], Coroutine[Any, Any, ExitCode]], debug: bool) -> NoReturn:
    """Run what works until it is told to stop, with its log on stdout, and exit with its code or its MinerError's.

    `work` is called once signals are handled, and imports what takes long; what it returns handles them by itself.
    """
    end_on_signals()
    import asyncio
    import logging

    # Importing bittensor silences all loggers that exist, so it comes before the log is set up.
    import bittensor  # noqa: F401

    from miner.runtime import ImpatientExecutor, configure, return_large_pieces

    return_large_pieces()
    configure(debug)

    async def end_in_time(working: Coroutine[Any, Any, ExitCode]) -> ExitCode:
        asyncio.get_running_loop().set_default_executor(ImpatientExecutor(thread_name_prefix="to_thread"))
        return await working

    try:
        code = asyncio.run(end_in_time(work()))
    except MinerError as error:
        click.echo(f"ERROR: {error}", err=True)
        code = error.exit_code
    except Exception:
        logging.getLogger(__name__).exception("Ended by an unexpected error")
        code = ExitCode.FAILURE
    # There is nothing left to be stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    # A load or a generation that was abandoned may still hold its thread; nothing is left to be done for it.
    os._exit(code)
