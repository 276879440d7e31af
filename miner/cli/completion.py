"""sn17-miner completion: how a shell completes commands, options and names of phases."""

import click

LINES = {
    "bash": 'eval "$(_SN17_MINER_COMPLETE=bash_source sn17-miner)"',
    "zsh": 'eval "$(_SN17_MINER_COMPLETE=zsh_source sn17-miner)"',
    "fish": "_SN17_MINER_COMPLETE=fish_source sn17-miner | source",
}


@click.command()
@click.argument("shell", type=click.Choice(tuple(LINES)))
def completion(shell: str) -> None:
    """Print the line that turns shell completion on.

    Put it into ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish, as in `sn17-miner completion bash >> ~/.bashrc`.
    """
    click.echo(LINES[shell])
