"""Let the miner run under load while everything goes wrong, and check that nothing is lost.

    python -m scripts.validation.soak [--minutes 30] [--seed 0] [--kills 0] [--workers 1]

The miner is a process of its own with the embedded checkpoints. Six local validators keep the subnet's rules at shorter
times: one is good, one picky, one slow, one restarts with and without its memory, one vanishes from the chain and comes
back, and one is hostile, whose answers come from a fuzzer; two of them push tasks, too. Faults are drawn from the seed;
`--kills` kills the miner at random moments instead of after so many minutes, or with `--minutes`, too, before them.
Writes the table, what was done and a picture into the output folder. Exits with 0 only if all requirements are met.
Recorded results: soak.md in the folder above.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from scripts.validation.soak.faults import FAULTS
from scripts.validation.soak.output import write_output
from scripts.validation.soak.plan import SPACING, Plan, soak


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="30 by default, and none with kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0, help="kill the miner so many times, however long that takes")
    parser.add_argument("--output", type=Path, default=Path("soak-output"))
    parser.add_argument("--spacing", type=float, default=SPACING, help="the seconds between two faults")
    parser.add_argument("--faults", default="", help="names of the faults that may happen, with commas between them")
    parser.add_argument("--workers", type=int, default=1, help="with several, each is a process that may be killed")
    options = parser.parse_args()
    chosen = tuple(name for name in options.faults.split(",") if name)
    if unknown := [name for name in chosen if name not in FAULTS]:
        print(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}", file=sys.stderr)
        return 2
    started = time.monotonic()
    minutes = options.minutes if options.minutes is not None else 0.0 if options.kills else 30.0
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(minutes, options.seed, options.kills, options.spacing, chosen or tuple(FAULTS), options.workers)
        results = soak(Path(folder), plan)
        write_output(options.output, *results)
    *_, verdict = results
    print(*verdict.rows, *verdict.details, sep="\n")
    print(f"{'passed' if verdict.has_passed else 'FAILED'} after {time.monotonic() - started:.0f} s")
    return 0 if verdict.has_passed else 1


if __name__ == "__main__":
    sys.exit(main())
