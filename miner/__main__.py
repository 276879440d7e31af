"""Run the program: python -m miner COMMAND."""

from miner.cli import main

main()
