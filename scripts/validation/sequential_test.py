"""How often the sequential test of an experiment calls a winner where there is none, and how soon where there is one.

    python -m scripts.validation.sequential_test [--runs 4000] [--seed 0]

"Alike" and "power": two arms of equal share with fixed rates, looked at after every block of two tasks, which is
whenever the test can change its mind. Beside it, for contrast, the usual z-test at 5 %, looked at as often. "Subnet":
the whole way through Experiment.arm and evaluate, with seven validators that differ, tasks of two types, rates that
drift, results without a verdict and arms of which one takes four times as long. The last line is JSON. Recorded
results: sequential_test.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from tests.support.simulated_experiments import WORLDS, alike, power, subnet


def main() -> int:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    results: dict[str, object] = {}
    for rate in (0.05, 0.38, 0.55, 0.9):
        results[f"alike at {rate}"] = found = alike(rng, rate, options.runs, 5000)
        print(found, flush=True)
    for low, high in ((0.38, 0.55), (0.42, 0.50), (0.42, 0.62)):
        results[f"{low} against {high}"] = found = power(rng, low, high, options.runs, 5000)
        print(found, flush=True)
    for name, world in WORLDS.items():
        results[f"subnet: {name}"] = found = subnet(rng, world, options.runs // 2, 1000)
        print(name, found, flush=True)
    print(json.dumps({"runs": options.runs, "seed": options.seed, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
