"""Experiments with known truths, for the tests and the validation of the sequential test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.analytics.assignment import Experiment
from miner.analytics.intervals import Z_95
from miner.analytics.sequential_test import (
    ALPHA,
    ContingencyTables,
    ExperimentResult,
    Observation,
    evaluate,
    log_e_values,
)
from miner.ledger.events import Stratum

# The naive test is first looked at after so many tasks of each arm; sooner it is no better than a guess.
NAIVE_FIRST_LOOK = 20


def draw_tables(rng: np.random.Generator, blocks: int, first: float, second: float) -> ContingencyTables:
    """Blocks of one task each."""
    tables = np.ones((blocks, 4), np.int64)
    tables[:, 0], tables[:, 2] = rng.random(blocks) < first, rng.random(blocks) < second
    return tables


def decided_after(tables: ContingencyTables, threshold: float) -> tuple[float, float]:
    """Tasks until the first arm, and until the second, is found to be better; infinite if it never is."""
    found = []
    for direction in (tables, tables[:, [2, 3, 0, 1]]):
        hits = np.flatnonzero(log_e_values(direction) >= math.log(threshold))
        found.append(2.0 * (int(hits[0]) + 1) if len(hits) else math.inf)
    return found[0], found[1]


def naive_alarm(tables: ContingencyTables) -> bool:
    """Whether a z-test for two proportions at 5 % ever is significant."""
    n = np.arange(1, len(tables) + 1)
    first, second = np.cumsum(tables[:, 0]), np.cumsum(tables[:, 2])
    mean = (first + second) / (2 * n)
    spread = np.sqrt(2 * mean * (1 - mean) / n)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.abs(first - second) / n / spread
    return bool((z[NAIVE_FIRST_LOOK:] > Z_95).any())


@dataclass(frozen=True)
class World:
    """The subnet as an experiment meets it; arms may take different times and, by `effect`, have different odds."""

    seconds: Mapping[str, float]
    effect: Mapping[str, float]
    weights: Mapping[str, int]
    validators: int = 7
    text_share: float = 0.2
    no_verdict: float = 0.1

    def run(self, rng: np.random.Generator, tasks: int) -> ExperimentResult:
        """An experiment of so many tasks, judged after each."""
        experiment = Experiment(int(rng.integers(2**31)), self.weights)
        difficulty = rng.normal(0.0, 1.0, self.validators)
        mood = np.cumsum(rng.normal(0.0, 0.03, tasks))
        free = rng.uniform(0, 300, self.validators)
        turns: dict[Stratum, int] = {}
        observations = []
        for number in range(tasks):
            validator = int(free.argmin())
            stratum = Stratum(f"5V{validator}", "text" if rng.random() < self.text_share else "image")
            turn = turns[stratum] = turns.get(stratum, -1) + 1
            arm = experiment.arm(stratum, turn)
            logit = difficulty[validator] + mood[number] + self.effect[arm]
            accepted = bool(rng.random() < 1 / (1 + math.exp(-logit)))
            ended = free[validator] + rng.exponential(self.seconds[arm])
            free[validator] = ended + (300 if accepted else 900)
            observations.append(
                Observation(stratum, turn, arm, None if rng.random() < self.no_verdict else accepted, ended)
            )
        return evaluate(experiment, observations)


def alike(rng: np.random.Generator, rate: float, runs: int, tasks: int) -> dict[str, float]:
    """Shares of runs with a false alarm at any time."""
    threshold, alarms, naive = 2 / ALPHA, 0, 0
    for _ in range(runs):
        tables = draw_tables(rng, tasks // 2, rate, rate)
        alarms += int(min(decided_after(tables, threshold)) < math.inf)
        naive += naive_alarm(tables)
    return {"rate": rate, "false_alarms": alarms / runs, "naive_false_alarms": naive / runs}


def power(rng: np.random.Generator, low: float, high: float, runs: int, tasks: int) -> dict[str, float]:
    """How many tasks, of both arms together, it takes to find the better arm."""
    needed: npt.NDArray[np.float64] = np.zeros(runs)
    wrong = 0
    for run in range(runs):
        better, worse = decided_after(draw_tables(rng, tasks // 2, high, low), 2 / ALPHA)
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


def subnet(rng: np.random.Generator, world: World, runs: int, tasks: int) -> dict[str, float]:
    """Shares of runs that called any arm worse, and that found the arm with the highest odds to be the winner."""
    best = max(world.effect, key=lambda arm: world.effect[arm])
    decisions = [world.run(rng, tasks) for _ in range(runs)]
    return {
        "any_loser": sum(bool(d.losers) for d in decisions) / runs,
        "best_wins": sum(d.winner == best for d in decisions) / runs,
    }


EVEN = {"fast": 5.0, "slow": 20.0}
WORLDS = {
    "alike": World(EVEN, {"fast": 0.0, "slow": 0.0}, {"fast": 50, "slow": 50}),
    "alike, very slow arm": World({"fast": 5.0, "slow": 600.0}, {"fast": 0.0, "slow": 0.0}, {"fast": 50, "slow": 50}),
    "alike, 70 to 30": World(EVEN, {"fast": 0.0, "slow": 0.0}, {"fast": 70, "slow": 30}),
    "alike, three arms": World(EVEN | {"c": 9.0}, {"fast": 0.0, "slow": 0.0, "c": 0.0}, {"fast": 1, "slow": 1, "c": 1}),
    "odds doubled": World(EVEN, {"fast": 0.0, "slow": 0.69}, {"fast": 50, "slow": 50}),
}
