"""Start the miner: python neurons/miner.py --netuid 17 [...]; the same as `sn17-miner run`."""

import sys
from pathlib import Path

# This folder holds a module called miner; the package of that name is in the repository's root.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from miner.early_stop import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    from miner.cli import main

    main(["run", *sys.argv[1:]])
