"""Start the miner: python neurons/miner.py --netuid 17 [--phase NAME] [...]; --help lists the options."""

from __future__ import annotations

import sys
from pathlib import Path

# This folder holds a module called miner; the package of that name is in the repository's root.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import os

# On a CPU, torch's threads otherwise spin while they wait for one another; when something else runs beside them,
# a generation of three seconds takes a minute. Read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import asyncio

from miner.errors import ExitCode, MinerError
from miner.logs import configure
from miner.node import Node
from miner.settings import load_settings, parser


def main() -> ExitCode:
    """Run until told to stop."""
    arguments = parser().parse_args()
    configure(arguments.debug)
    try:
        return asyncio.run(Node(load_settings(arguments)).run())
    except MinerError as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A load or a generation that was abandoned may still hold its thread; nothing is left to be done for it.
    os._exit(code)
