"""The program of all commands, and how errors of any of them end it."""

import os
from typing import Any

import click

from miner.cli.blacklist import blacklist
from miner.cli.completion import completion
from miner.cli.environment import prepare_for_sdk
from miner.cli.generate import generate
from miner.cli.options import group_operator_files
from miner.cli.phase import phase
from miner.cli.report import report
from miner.cli.run import run
from miner.cli.serve import serve
from miner.cli.splats import splats
from miner.cli.status import status
from miner.cli.tail import tail
from miner.cli.version import version_option
from miner.cli.weights import weights
from miner.errors import ExitCode, MinerError


class Program(click.Group):
    """A group of commands that reports expected errors in one line and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except MinerError as error:
            click.echo(f"ERROR: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise  # the reader of the output has gone, which click ends quietly
        except OSError as error:
            path = f"{error.filename}: " if error.filename else ""
            click.echo(f"ERROR: {path}{error.strerror or error}", err=True)
            ctx.exit(ExitCode.OPERATOR_MISTAKE)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@version_option
@group_operator_files
def program() -> None:
    """Mine on Bittensor subnet 17 (404-GEN), and look after the miner.

    Every command has its own --help. `sn17-miner completion` prints how to complete commands with the tab key.
    """
    prepare_for_sdk()


for command in (run, status, tail, phase, blacklist, report, generate, serve, weights, splats, completion):
    program.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, by default that of the process, and exit."""
    # On a CPU, torch's threads otherwise spin while they wait for one another; when something else runs beside them,
    # a generation of three seconds takes a minute. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    program.main(arguments, prog_name="sn17-miner")
