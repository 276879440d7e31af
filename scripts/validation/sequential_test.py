"""Measure how often the sequential test finds a winner where there is none, and how soon where there is one.

    python -m scripts.validation.sequential_test [--runs 4000] [--seed 0]

"Alike" and "power" have two arms of equal share with fixed acceptance rates. They are evaluated after every block of
two tasks, which is whenever the result can change, and so is the usual z-test at 5 % for comparison. "Subnet" runs
through Experiment.arm and evaluate, with seven validators that differ, tasks of two types, rates that drift, results
without a verdict, and arms of which one takes four times as long. The last line is JSON. Recorded results:
sequential_test.md beside this file.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.analytics import ALPHA, Z_95, ContingencyTables, Experiment, ExperimentResult, Observation, sequential_test
from miner.ledger import Stratum

# Tasks of each arm before the naive test is first evaluated; with fewer it is no better than a guess.
NAIVE_FIRST_EVALUATION = 20
# Of the subnet.
VALIDATORS, TEXT_SHARE, NO_VERDICT_SHARE = 7, 0.2, 0.1


def draw_tables(rng: np.random.Generator, blocks: int, first: float, second: float) -> ContingencyTables:
    """Draw blocks of one task of each arm."""
    tables = np.ones((blocks, 4), np.int64)
    tables[:, 0], tables[:, 2] = rng.random(blocks) < first, rng.random(blocks) < second
    return tables


def tasks_until_decided(tables: ContingencyTables) -> tuple[float, float]:
    """Return the tasks until the first arm, and until the second, is found to be better; infinite if it never is."""
    decided = []
    for direction in (tables, tables[:, [2, 3, 0, 1]]):
        hits = np.flatnonzero(sequential_test.log_e_values(direction) >= math.log(2 / ALPHA))
        decided.append(2.0 * (int(hits[0]) + 1) if len(hits) else math.inf)
    return decided[0], decided[1]


def has_naive_alarm(tables: ContingencyTables) -> bool:
    """Return whether a z-test for two proportions at 5 % ever is significant."""
    n = np.arange(1, len(tables) + 1)
    first, second = np.cumsum(tables[:, 0]), np.cumsum(tables[:, 2])
    mean = (first + second) / (2 * n)
    spread = np.sqrt(2 * mean * (1 - mean) / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(first - second) / n / spread
    return bool((z[NAIVE_FIRST_EVALUATION:] > Z_95).any())


@dataclass(frozen=True)
class SubnetModel:
    """The subnet that an experiment runs on.

    seconds: of a generation by arm. effect: logit that each arm adds to the acceptance rate. weights: the arms' shares.
    """

    seconds: Mapping[str, float]
    effect: Mapping[str, float]
    weights: Mapping[str, int]

    def run(self, rng: np.random.Generator, tasks: int) -> ExperimentResult:
        """Run an experiment of a number of tasks; return its result."""
        experiment = Experiment(int(rng.integers(2**31)), self.weights)
        difficulty = rng.normal(0.0, 1.0, VALIDATORS)
        drift = np.cumsum(rng.normal(0.0, 0.03, tasks))
        free_at = rng.uniform(0, 300, VALIDATORS)
        turns: dict[Stratum, int] = {}
        observations = []
        for number in range(tasks):
            validator = int(free_at.argmin())
            stratum = Stratum(f"5V{validator}", "text" if rng.random() < TEXT_SHARE else "image")
            turn = turns[stratum] = turns.get(stratum, -1) + 1
            arm = experiment.arm(stratum, turn)
            logit = difficulty[validator] + drift[number] + self.effect[arm]
            accepted = bool(rng.random() < 1 / (1 + math.exp(-logit)))
            ended = free_at[validator] + rng.exponential(self.seconds[arm])
            free_at[validator] = ended + (300 if accepted else 900)
            verdict = None if rng.random() < NO_VERDICT_SHARE else accepted
            observations.append(Observation(stratum, turn, arm, verdict, ended))
        return sequential_test.evaluate(experiment, observations)


def measure_false_alarms(rng: np.random.Generator, rate: float, runs: int, tasks: int) -> dict[str, float]:
    """Return the shares of runs with a false alarm at any time."""
    alarms = naive_alarms = 0
    for _ in range(runs):
        tables = draw_tables(rng, tasks // 2, rate, rate)
        alarms += int(min(tasks_until_decided(tables)) < math.inf)
        naive_alarms += has_naive_alarm(tables)
    return {"rate": rate, "false_alarms": alarms / runs, "naive_false_alarms": naive_alarms / runs}


def measure_power(rng: np.random.Generator, low: float, high: float, runs: int, tasks: int) -> dict[str, float]:
    """Return the distribution of the tasks, of both arms together, until the better arm is found."""
    needed: npt.NDArray[np.float64] = np.zeros(runs)
    wrong = 0
    for run in range(runs):
        better, worse = tasks_until_decided(draw_tables(rng, tasks // 2, high, low))
        needed[run] = better if better < worse else math.inf
        wrong += int(worse < better)
    return {
        "low": low,
        "high": high,
        "wrong_winner": wrong / runs,
        **{f"decided_by_{n}": float(np.mean(needed <= n)) for n in (200, 300, 500, 1000, tasks)},
        "median_tasks": float(np.median(needed)),
        "mean_tasks": float(np.mean(np.minimum(needed, tasks))),
        "p90_tasks": float(np.quantile(needed, 0.9, method="higher")),
    }


def measure_decisions(rng: np.random.Generator, model: SubnetModel, runs: int, tasks: int) -> dict[str, float]:
    """Return the shares of runs that found any arm to be worse, and that found the best arm to be the winner."""
    best = max(model.effect, key=lambda arm: model.effect[arm])
    results = [model.run(rng, tasks) for _ in range(runs)]
    return {
        "any_loser": sum(bool(result.losers) for result in results) / runs,
        "best_wins": sum(result.winner == best for result in results) / runs,
    }


USUAL, ALIKE, EVEN = {"fast": 5.0, "slow": 20.0}, {"fast": 0.0, "slow": 0.0}, {"fast": 50, "slow": 50}
MODELS = {
    "alike": SubnetModel(USUAL, ALIKE, EVEN),
    "alike, very slow arm": SubnetModel(USUAL | {"slow": 600.0}, ALIKE, EVEN),
    "alike, 70 to 30": SubnetModel(USUAL, ALIKE, {"fast": 70, "slow": 30}),
    "alike, three arms": SubnetModel(USUAL | {"c": 9.0}, ALIKE | {"c": 0.0}, {"fast": 1, "slow": 1, "c": 1}),
    "odds doubled": SubnetModel(USUAL, ALIKE | {"slow": 0.69}, EVEN),
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    results: dict[str, object] = {}
    for rate in (0.05, 0.38, 0.55, 0.9):
        results[f"alike at {rate}"] = figures = measure_false_alarms(rng, rate, options.runs, 5000)
        print(figures, flush=True)
    for low, high in ((0.38, 0.55), (0.42, 0.50), (0.42, 0.62)):
        results[f"{low} against {high}"] = figures = measure_power(rng, low, high, options.runs, 5000)
        print(figures, flush=True)
    for name, model in MODELS.items():
        results[f"subnet: {name}"] = figures = measure_decisions(rng, model, options.runs // 2, 1000)
        print(name, figures, flush=True)
    print(json.dumps({"runs": options.runs, "seed": options.seed, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
