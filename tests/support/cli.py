"""Running the program's command line in this process."""

from click.testing import CliRunner, Result

from miner.cli import program


def run(*arguments: object) -> Result:
    """Run `sn17-miner ARGUMENTS`; errors that the program does not expect are raised."""
    return CliRunner(catch_exceptions=False).invoke(program, [str(argument) for argument in arguments])
