"""The program `sn17-miner`.

One module a command. They import what is slow to import (torch, bittensor, the models of settings) only inside the
functions that need it, so that `--help` and shell completion answer at once.
"""

from miner.cli.program import main, program

__all__ = ["main", "program"]
